"""Bits per character: how many bits the text costs a coder that trusts the model.

bits_t = -log2 p(token_{t+1} | token_1, ..., token_t)          the carry goes through the whole text
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments.learning.network import CELLS
from rnnjax import Readout, unroll
from rnnjax.initializers import Normal
from rnnjax.training import Chunk, tbptt

INPUT_SPREAD = 0.5  # standard deviation of what a character adds to a pre-activation, as drawn
PIECE = 128  # steps whose logits are in memory at a time


def cell_named(name: str, hidden_size: int, alphabet_size: int) -> Any:
    """The cell of this name, W1 ~ N(0, 1/4).

    A one-hot input picks one row of W1, so what it adds has the spread of an entry: 1/√V = 0.12 as drawn for dense
    inputs, with which the first hundred updates teach little but the frequencies of characters.
    """
    cell: Any = CELLS[name](hidden_size)
    return dataclasses.replace(cell, w_x=Normal(INPUT_SPREAD * math.sqrt(alphabet_size)))


def language_model(cell: Any, alphabet_size: int) -> Readout:
    """One-hot characters in, logits of the next one out."""
    return Readout(cell, alphabet_size)


def truncated_loss(model: Readout, steps: int) -> tuple[Any, Any]:
    """`(loss, initial)` of truncated backpropagation with k1 = k2 = `steps`, for `fit`; the loss in nats."""
    from rnnjax.tasks import cross_entropy

    def apply(params: Any, xs: Array, *, carry: Any, mask: Array, resets: Array) -> tuple[Any, Array]:
        return unroll(model, params, xs, carry=carry, resets=resets)  # every step of a text counts: no mask

    def score(logits: Array, chunk: Chunk) -> Array:
        return cross_entropy(logits, chunk)  # pyright: ignore[reportArgumentType]  (it has targets and weights)

    truncated = tbptt(steps)
    return truncated.loss(apply, score), truncated.initial


def bits(model: Readout, params: Any, tokens: Array) -> Array:
    """Bits of every token but the first, each given all before it.

    Args:
      model: from `language_model`.
      params: its parameters.
      tokens: `[T, *batch]` integers; rows are texts of their own.
    Returns:
      `[T - 1, *batch]`.
    """
    size, length = model.output_size, tokens.shape[0] - 1
    if length < 1:
        raise ValueError(f"`tokens` is {list(tokens.shape)}; a text to score has two characters or more.")
    carry = model.initial_carry(params, tokens.shape[1:])

    def piece(carry: Any, window: tuple[Array, Array]) -> tuple[Any, Array]:
        now, following = window
        carry, logits = unroll(model, params, jax.nn.one_hot(now, size, dtype=params.b_out.dtype), carry=carry)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), following[..., None], axis=-1)[..., 0]
        return carry, -chosen / math.log(2)

    whole = length // PIECE * PIECE
    found = []
    if whole:
        now, following = (leaf[:whole].reshape(-1, PIECE, *leaf.shape[1:]) for leaf in (tokens[:-1], tokens[1:]))
        carry, pieces = lax.scan(piece, carry, (now, following))
        found.append(pieces.reshape(whole, *tokens.shape[1:]))
    if whole < length:
        found.append(piece(carry, (tokens[:-1][whole:], tokens[1:][whole:]))[1])
    return jnp.concatenate(found)


bits_compiled = functools.partial(jax.jit, static_argnums=0)(bits)

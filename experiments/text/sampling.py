"""Text out of a model, a character at a time.

    token_{t+1} ~ softmax(logits_t / temperature)

Below 1 a temperature keeps to what is likely, above 1 it spreads; at 1 it is the model's own distribution.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from experiments.data.shakespeare import Alphabet
from experiments.harness.errors import UsageError
from rnnjax import Readout


def characters(
    model: Readout, params: Any, alphabet: Alphabet, key: Array, *, prompt: str = "\n", temperature: float = 1.0
) -> Iterator[str]:
    """What follows the prompt, one character at a time, without end; the same key gives the same text.

    Args:
      model: a language model: one-hot characters in, logits of the next one out.
      params: its parameters.
      alphabet: of the text it was trained on.
      key: PRNG key.
      prompt: what is read before the first character is drawn.
      temperature: above zero.
    Raises:
      UsageError: an empty prompt, one with a character that the model does not know, or a temperature that is not
        above zero; at the call, before any character.
    """
    if not prompt:
        raise UsageError("the prompt is empty; give at least one character, such as a line end.")
    if not 0 < temperature < float("inf"):
        raise UsageError(f"the temperature is {temperature}; give a finite number above zero.")
    if len(alphabet) != model.output_size:
        raise UsageError(f"the alphabet has {len(alphabet)} characters, but the model {model.output_size}.")
    return _drawn(model, params, alphabet, key, alphabet.encode(prompt).tolist(), temperature)


def _drawn(
    model: Readout, params: Any, alphabet: Alphabet, key: Array, prompt: list[int], temperature: float
) -> Iterator[str]:
    carry = model.initial_carry(params)
    heat = jnp.asarray(temperature, params.b_out.dtype)
    for token in prompt[:-1]:
        carry, _, _ = _step(model, params, carry, jnp.int32(token), key, heat)  # what it draws here is not used
    token = jnp.int32(prompt[-1])
    while True:
        carry, token, key = _step(model, params, carry, token, key, heat)
        yield alphabet.characters[int(token)]


@functools.partial(jax.jit, static_argnums=0)
def _step(model: Readout, params: Any, carry: Any, token: Array, key: Array, temperature: Array) -> tuple[Any, ...]:
    """Reads a character and draws the next: `(carry, token, key)`."""
    carry, logits = model.step(params, carry, jax.nn.one_hot(token, model.output_size, dtype=temperature.dtype))
    key, own = jax.random.split(key)
    return carry, jax.random.categorical(own, logits / temperature).astype(jnp.int32), key

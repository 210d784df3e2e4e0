"""A text as the chunks of truncated backpropagation: the carry of one chunk is the start of the next.

The text is cut into as many stretches as a batch has rows, and each row reads its own, `steps` characters an update.
A pass over the text begins with the initial carry and at another offset, below `steps`, so that the borders of chunks,
across which no gradient goes, fall elsewhere in every pass.

Within a pass the carry of a row is handed on thousands of times, and a network that hardly ever starts from the initial
carry need not work from there: it can fit the text it reads and yet stray for good on another that it is asked to read
from the beginning. So a row may begin afresh at any chunk, now and then.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.harness.errors import UsageError
from rnnjax.training import Chunk


def stream(
    tokens: np.ndarray, alphabet_size: int, steps: int, batch: int, restarted: float = 0.0
) -> tuple[Callable[[Array, Array], Chunk], int]:
    """`(data, period)` for `fit`: chunks of a text, and how many make a pass over it (`FitOptions.data_period`).

    Args:
      tokens: `[N]` integers in 0..V-1.
      alphabet_size: V.
      steps: characters to an update, k1.
      batch: rows, B.
      restarted: probability that a row begins a chunk with the initial carry, within a pass.
    Returns:
      `data(key, step)`: a `Chunk` with one-hot `xs` `[k1, B, V]`, and as targets the character after each; the same key
      for all of a pass. At most 2 k1 - 1 characters of a row are left out in a pass.
    Raises:
      UsageError: the text is too short for one chunk a row.
    """
    length = len(tokens) // batch
    period = (length - steps) // steps
    if period < 1:
        raise UsageError(
            f"a text of {len(tokens)} characters gives {batch} rows of {length}, too short for chunks of {steps}: "
            f"it takes {2 * steps} a row. Lower --batch or --steps."
        )
    rows = jnp.asarray(np.asarray(tokens[: length * batch], np.int32).reshape(batch, length).T)

    def data(key: Array, step: Array) -> Chunk:
        piece = step % period
        start = jax.random.randint(key, (), 0, steps, jnp.int32) + piece * steps
        window = lax.dynamic_slice_in_dim(rows, start, steps + 1)
        xs = jax.nn.one_hot(window[:-1], alphabet_size)
        ones = jnp.ones((steps, batch), xs.dtype)
        afresh = jax.random.bernoulli(jax.random.fold_in(key, step), restarted, (batch,))
        resets = jnp.zeros((steps, batch), bool).at[0].set(afresh | (piece == 0))
        return Chunk(xs, window[1:], ones, ones > 0, resets)

    return data, period

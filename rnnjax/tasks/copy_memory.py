"""Copy memory: ten symbols, a long delay, a cue, and then the same ten symbols."""

# pyright: reportUnknownMemberType=false

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import check_size, float_dtype
from rnnjax.tasks.batch import Baseline, Batch, whole_rows


def copy_memory(
    key: Array,
    delay: int,
    batch_shape: tuple[int, ...] = (),
    *,
    symbols: int = 8,
    memory: int = 10,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Symbols to remember for `delay` steps and then repeat in order; T = delay + 2 memory.

        input     s_1 ... s_m   blank x (delay - 1)   cue    blank x m
        target    blank x (delay + m)                        s_1 ... s_m

    Inputs are one-hot: the symbols, then blank, then the cue. Classes are the symbols, then blank. Every step is
    scored, so a network that has only learned when to output blanks reaches the baseline.

    Args:
      key: PRNG key.
      delay: steps between the last symbol and the first to be repeated, at least 1.
      batch_shape: `*batch`.
      symbols: the number of different symbols.
      memory: the number of symbols to remember.
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, symbols + 2]` and `targets` `[T, *batch]` in 0..symbols.
    Raises:
      ValueError: a size that is not a positive integer.

    Example:

      >>> batch = copy_memory(jax.random.key(0), 30, (4,))
      >>> batch.xs.shape, bool((batch.xs[:10].argmax(-1).astype(int) == batch.targets[-10:].astype(int)).all())
      ((50, 4, 10), True)

    Reference: Hochreiter and Schmidhuber 1997; in this form Arjovsky, Shah and Bengio, ICML 2016, section 5.1.
    """
    for name, size in (("delay", delay), ("symbols", symbols), ("memory", memory)):
        check_size(name, size)
    dtype = float_dtype(dtype)
    drawn = jax.random.randint(key, (memory, *batch_shape), 0, symbols, jnp.int32)
    blank, sign = symbols, symbols + 1
    steps = delay + 2 * memory
    silence = jnp.full((steps, *batch_shape), blank, jnp.int32)
    inputs = silence.at[:memory].set(drawn).at[memory + delay - 1].set(sign)
    targets = silence.at[-memory:].set(drawn)
    weights = jnp.ones((steps, *batch_shape), dtype)
    return Batch(jax.nn.one_hot(inputs, symbols + 2, dtype=dtype), targets, weights, whole_rows(steps, batch_shape))


def copy_memory_baseline(delay: int, *, symbols: int = 8, memory: int = 10) -> Baseline:
    """Correct blanks, then guesses: memory log(symbols) / (delay + 2 memory) nats per step.

    Example: 10 log 8 / (T + 20) for T = 1000.

      >>> round(copy_memory_baseline(1000).loss, 5)
      0.02039
    """
    for name, size in (("delay", delay), ("symbols", symbols), ("memory", memory)):
        check_size(name, size)
    steps = delay + 2 * memory
    return Baseline(memory * math.log(symbols) / steps, (steps - memory + memory / symbols) / steps)

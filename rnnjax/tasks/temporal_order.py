"""Temporal order: two or three informative symbols far apart among distractors; the class is their order."""

# pyright: reportUnknownMemberType=false

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import float_dtype
from rnnjax.tasks.batch import Baseline, Batch, check_steps, last_step, whole_rows

WINDOWS = {2: ((1, 2), (5, 6)), 3: ((1, 2), (3, 4), (6, 7))}
"""Positions of the informative symbols, in tenths of T: [T/10, 2T/10) and so on."""

_INFORMATIVE, _DISTRACTORS = 2, 4


def temporal_order(
    key: Array, steps: int, batch_shape: tuple[int, ...] = (), *, symbols: int = 2, dtype: DTypeLike | None = None
) -> Batch:
    """A or B at two (or three) steps, distractors c, d, e, f at all others; the class is the order of A and B.

        class = Σ_i 2^(n-1-i) [s_i = B]        AA, AB, BA, BB are 0, 1, 2, 3

    The two informative symbols are in [T/10, 2T/10) and [5T/10, 6T/10); three are in [T/10, 2T/10), [3T/10, 4T/10) and
    [6T/10, 7T/10).

    Args:
      key: PRNG key.
      steps: T, at least 10.
      batch_shape: `*batch`.
      symbols: n, the number of informative symbols: 2 (four classes) or 3 (eight).
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, 6]`, one-hot over A, B, c, d, e, f, and `targets` `[T, *batch]` in 0..2^n-1; only
      the last step is scored.
    Raises:
      ValueError: fewer than 10 steps, or `symbols` is not 2 or 3.

    Example:

      >>> batch = temporal_order(jax.random.key(0), 100, (5,))
      >>> batch.xs.shape, batch.xs[..., :2].sum(axis=(0, 2)).tolist()
      ((100, 5, 6), [2.0, 2.0, 2.0, 2.0, 2.0])

    Reference: Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9 (1997), experiments 6a and 6b;
    this version follows Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML
    2013, whose code (tempOrder.py, tempOrder3bit.py) has these positions. The 1997 task has 100 to 110 steps,
    additional start and trigger symbols (eight inputs), and positions 10 to 20, 33 to 43 and 66 to 76 for three
    symbols. The numbering of
    the classes is ours: the first symbol is the most significant bit.
    """
    _check_symbols(symbols)
    check_steps(steps, 10, "the informative symbols lie in tenths of the row")
    dtype = float_dtype(dtype)
    key_noise, key_which, key_where = jax.random.split(key, 3)
    noise = jax.random.randint(key_noise, (steps, *batch_shape), 0, _DISTRACTORS, jnp.int32) + _INFORMATIVE
    which = jax.random.randint(key_which, (symbols, *batch_shape), 0, _INFORMATIVE, jnp.int32)
    at = jnp.arange(steps, dtype=jnp.int32).reshape(steps, *[1] * len(batch_shape))
    tokens, order = noise, jnp.zeros(batch_shape, jnp.int32)
    keys = jax.random.split(key_where, symbols)
    for symbol, (first, beyond), key_place in zip(which, WINDOWS[symbols], keys, strict=True):
        low, high = first * steps // 10, beyond * steps // 10
        place = jax.random.randint(key_place, batch_shape, low, high, jnp.int32)
        tokens = jnp.where(at == place[None], symbol[None], tokens)
        order = 2 * order + symbol
    xs = jax.nn.one_hot(tokens, _INFORMATIVE + _DISTRACTORS, dtype=dtype)
    targets = jnp.zeros((steps, *batch_shape), jnp.int32).at[-1].set(order)
    return Batch(xs, targets, last_step(steps, batch_shape, dtype), whole_rows(steps, batch_shape))


def temporal_order_baseline(symbols: int = 2) -> Baseline:
    """Guessing: n log 2 nats, accuracy 2^-n.

    Example:

      >>> temporal_order_baseline(3).accuracy
      0.125
    """
    _check_symbols(symbols)
    return Baseline(symbols * math.log(2), 0.5**symbols)


def _check_symbols(symbols: int) -> None:
    if symbols not in WINDOWS:
        raise ValueError(f"symbols is {symbols!r}; the task has 2 (four classes) or 3 (eight classes).")

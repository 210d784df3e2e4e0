"""The adding problem: two numbers in a long sequence are marked, and the target at the end is their sum."""

# pyright: reportUnknownMemberType=false

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import float_dtype
from rnnjax.tasks.batch import Baseline, Batch, check_steps, last_step, whole_rows


def adding(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    low: float = 0.0,
    high: float = 1.0,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Numbers from U(low, high), two of them marked; the target at the last step is the sum of the two.

        x_t = (v_t, m_t)        target_T = Σ_t m_t v_t        m marks one step in each half

    Args:
      key: PRNG key.
      steps: T, at least 2.
      batch_shape: `*batch`.
      low, high: the range of the numbers.
      dtype: of `xs`, `targets` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, 2]` and `targets` `[T, *batch, 1]`; only the last step is scored.
    Raises:
      ValueError: fewer than 2 steps, or an empty range.

    Example:

      >>> batch = adding(jax.random.key(0), 100, (32,))
      >>> batch.xs.shape, float(batch.xs[..., 1].sum(axis=0).min()), float(batch.weights.sum())
      ((100, 32, 2), 2.0, 32.0)

    Reference: Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9 (1997), experiment 4; one mark
    in each half as in Arjovsky, Shah and Bengio, Unitary evolution recurrent neural networks, ICML 2016.
    """
    check_steps(steps, 2, "two different steps are marked")
    _check_range(low, high)
    dtype = float_dtype(dtype)
    key_values, key_first, key_second = jax.random.split(key, 3)
    values = jax.random.uniform(key_values, (steps, *batch_shape), dtype, low, high)
    half = steps // 2
    first = jax.random.randint(key_first, batch_shape, 0, half)
    second = jax.random.randint(key_second, batch_shape, half, steps)
    at = jnp.arange(steps, dtype=first.dtype).reshape(steps, *[1] * len(batch_shape))
    marks = ((at == first[None]) | (at == second[None])).astype(dtype)
    total = jnp.sum(values * marks, axis=0)
    targets = jnp.zeros((steps, *batch_shape, 1), dtype).at[-1, ..., 0].set(total)
    xs = jnp.stack([values, marks], axis=-1)
    return Batch(xs, targets, last_step(steps, batch_shape, dtype), whole_rows(steps, batch_shape))


def adding_baseline(low: float = 0.0, high: float = 1.0) -> Baseline:
    """Always predicting the mean, low + high: the variance of the sum of two uniform numbers, (high - low)² / 6.

    Example: 1/6 for U(0, 1), and 2/3 for U(-1, 1). (Papers print 0.1767 for the first.)

      >>> round(adding_baseline().loss, 4), round(adding_baseline(-1.0, 1.0).loss, 4)
      (0.1667, 0.6667)
    """
    _check_range(low, high)
    return Baseline((high - low) ** 2 / 6)


def _check_range(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"low is {low} and high is {high}; low must be below high.")

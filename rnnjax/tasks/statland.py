"""StatLand, the lecture's market: two days of low, medium or high prices, and a rule for tomorrow's price."""

# pyright: reportUnknownMemberType=false

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import float_dtype
from rnnjax.tasks.batch import Baseline, Batch, last_step, whole_rows

LOW, MEDIUM, HIGH = 0.0, 0.5, 1.0
RULES = ((LOW, LOW, LOW), (LOW, MEDIUM, HIGH), (HIGH, MEDIUM, LOW), (HIGH, HIGH, HIGH))
"""(yesterday, today, tomorrow): low stays low, a rise continues, a fall continues, high stays high."""


def statland(key: Array, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Batch:
    """Rows drawn uniformly from the four rules: two days as input, with tomorrow's price as the target of the second.

    Args:
      key: PRNG key.
      batch_shape: `*batch`.
      dtype: of `xs`, `targets` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[2, *batch, 1]` and `targets` `[2, *batch, 1]`; only the second day is scored.

    Example:

      >>> batch = statland(jax.random.key(0), (8,))
      >>> batch.xs.shape, set(batch.targets[-1, :, 0].tolist()) <= {0.0, 1.0}
      ((2, 8, 1), True)

    Reference: Starmer, Recurrent neural networks (RNNs), clearly explained, StatQuest.
    """
    which = jax.random.randint(key, batch_shape, 0, len(RULES), jnp.int32)
    return _rows(jnp.asarray(RULES, float_dtype(dtype))[which])


def statland_rules(*, dtype: DTypeLike | None = None) -> Batch:
    """All four rules, once each, without randomness: a `Batch` with `xs` `[2, 4, 1]`.

    Example:

      >>> statland_rules().targets[-1, :, 0].tolist()
      [0.0, 1.0, 0.0, 1.0]
    """
    return _rows(jnp.asarray(RULES, float_dtype(dtype)))


def statland_baseline() -> Baseline:
    """Always predicting medium, the mean of tomorrow's price: a squared error of 1/4."""
    return Baseline(0.25)


def _rows(rows: Array) -> Batch:
    """Converts `[*batch, 3]` of (yesterday, today, tomorrow) to a batch."""
    batch_shape = rows.shape[:-1]
    xs = jnp.moveaxis(rows[..., :2], -1, 0)[..., None]
    targets = jnp.zeros_like(xs).at[-1, ..., 0].set(rows[..., 2])
    return Batch(xs, targets, last_step(2, batch_shape, rows.dtype), whole_rows(2, batch_shape))

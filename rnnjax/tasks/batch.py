"""What every task gives: one batch of sequences, with which steps are scored, and what a trivial predictor gets.

Every task is a pure function `(key, ...) -> Batch`, and so may be jitted, vmapped over keys, and drawn inside a loop.
"""

# pyright: reportUnknownMemberType=false

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from rnnjax.cell import check_size


class Batch(NamedTuple):
    """Sequences, time first, and what is asked of them.

    Attributes:
      xs: `[T, *batch, D]` floating.
      targets: `[T, *batch]` class indices (int32), or `[T, *batch, K]` numbers to regress on.
      weights: `[T, *batch]` floating: how much step t counts in the score; 0 where nothing is asked.
      lengths: `[*batch]` int32: where each row ends, as `rnnjax.unroll` takes it.
    """

    xs: Array
    targets: Array
    weights: Array
    lengths: Array


class Baseline(NamedTuple):
    """What a predictor gets that remembers nothing: the bar a trained network has to pass.

    Attributes:
      loss: mean squared error for a regression, cross-entropy in nats for a classification; per scored step.
      accuracy: share of scored steps that are right; None for a regression.
    """

    loss: float
    accuracy: float | None = None


def last_step(steps: int, batch_shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Weights `[T, *batch]` that score the last step alone."""
    return jnp.zeros((steps, *batch_shape), dtype).at[-1].set(1)


def whole_rows(steps: int, batch_shape: tuple[int, ...]) -> Array:
    """Lengths `[*batch]` of rows that fill all T steps."""
    return jnp.full(batch_shape, steps, jnp.int32)


def check_steps(steps: int, least: int, why: str) -> None:
    """Refuses a number of steps too small for the task."""
    check_size("steps", steps)
    if steps < least:
        raise ValueError(f"steps is {steps}, but {why}; pass at least {least}.")

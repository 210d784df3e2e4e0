"""The types that every task returns: a batch of sequences with weights for scoring, and a trivial baseline.

Every task is a pure function `(key, ...) -> Batch`, so it can be jitted, vmapped over keys, and called inside a loop.
"""

# pyright: reportUnknownMemberType=false

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from rnnjax.cell import check_size


class Batch(NamedTuple):
    """A batch of sequences, time first, with targets.

    Attributes:
      xs: `[T, *batch, D]` floating point.
      targets: `[T, *batch]` class indices (int32), or `[T, *batch, K]` regression targets.
      weights: `[T, *batch]` floating point, the weight of step t in the score; 0 at steps without a target.
      lengths: `[*batch]` int32, the length of each row, as for `rnnjax.unroll`.
    """

    xs: Array
    targets: Array
    weights: Array
    lengths: Array


class Baseline(NamedTuple):
    """The score of a predictor without memory, which a trained network has to beat.

    Attributes:
      loss: mean squared error for a regression, cross-entropy in nats for a classification; per scored step.
      accuracy: the share of scored steps that are correct; None for a regression.
    """

    loss: float
    accuracy: float | None = None


def last_step(steps: int, batch_shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Weights `[T, *batch]` that score only the last step."""
    return jnp.zeros((steps, *batch_shape), dtype).at[-1].set(1)


def whole_rows(steps: int, batch_shape: tuple[int, ...]) -> Array:
    """Lengths `[*batch]` of rows that fill all T steps."""
    return jnp.full(batch_shape, steps, jnp.int32)


def check_noise(noise: float) -> None:
    """Raises if a standard deviation is negative or not finite."""
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise}; it must be a finite standard deviation, 0 or more.")


def check_steps(steps: int, least: int, why: str) -> None:
    """Raises if there are too few steps for the task."""
    check_size("steps", steps)
    if steps < least:
        raise ValueError(f"steps is {steps}, but {why}; pass at least {least}.")

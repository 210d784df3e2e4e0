"""Windows over a real series: the target at every step is the value some steps later.

A series is checked before training, while its values are known: an empty, ragged or too short series, or one with NaN,
raises an error.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import DTypeLike

from rnnjax.cell import check_size, float_dtype
from rnnjax.tasks.batch import Batch, whole_rows


class SeriesBaseline(NamedTuple):
    """Mean squared errors of two trivial predictors.

    Attributes:
      mean: always predicting the mean of the series; the better one for differences and returns.
      persistence: always predicting the last value; the better one for prices and levels.
    """

    mean: float
    persistence: float


def windows(
    key: Array,
    series: Any,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    horizon: int = 1,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Windows with uniformly drawn starts in a series; the target of each step is the value `horizon` steps later.

        x_t = series[s + t]        target_t = series[s + t + horizon]        s ~ U{0, ..., N - T - horizon}

    Args:
      key: PRNG key.
      series: `[N]` or `[N, D]`, finite, equally spaced in time.
      steps: T.
      batch_shape: `*batch`.
      horizon: how many steps ahead to predict, at least 1.
      dtype: of the returned arrays; JAX's default float if None.
    Returns:
      A `Batch` with `xs` and `targets` `[T, *batch, D]`; every step is scored.
    Raises:
      TypeError: the series is not numeric, or its rows differ in length.
      ValueError: the series is empty, does not have one or two axes, has NaN or inf (if values are known), or has fewer
        than T + horizon points.

    Example:

      >>> batch = windows(jax.random.key(0), jnp.arange(100.0), 20, (4,))
      >>> batch.xs.shape, bool((batch.targets - batch.xs == 1).all())
      ((20, 4, 1), True)
    """
    series = checked_series(series, steps, horizon)
    dtype = float_dtype(dtype)
    series = jnp.asarray(series, dtype)
    starts = jax.random.randint(key, batch_shape, 0, series.shape[0] - steps - horizon + 1, jnp.int32)
    at = starts[None] + jnp.arange(steps, dtype=jnp.int32).reshape(steps, *[1] * len(batch_shape))
    weights = jnp.ones((steps, *batch_shape), dtype)
    return Batch(series[at], series[at + horizon], weights, whole_rows(steps, batch_shape))


def split_series(series: Any, held_out: float = 0.2) -> tuple[Any, Any]:
    """Splits a series in time: the first part for training, the last part for testing.

    Args:
      series: `[N]` or `[N, D]`.
      held_out: the share of points in the test part, between 0 and 1.
    Returns:
      `(train, test)`.
    Raises:
      ValueError: `held_out` is outside (0, 1), or one part is empty.

    Example:

      >>> train, test = split_series(np.arange(10.0), 0.3)
      >>> len(train), test.tolist()
      (7, [7.0, 8.0, 9.0])
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; it must be a share between 0 and 1, such as 0.2.")
    points = len(series)
    cut = points - round(points * held_out)
    if not 0 < cut < points:
        raise ValueError(f"a series of {points} points leaves one part empty at held_out={held_out}.")
    return series[:cut], series[cut:]


def windows_baseline(series: Any, *, horizon: int = 1) -> SeriesBaseline:
    """Mean squared errors of predicting the mean, and of predicting the last value.

    Args:
      series: `[N]` or `[N, D]`, known values.
      horizon: as in `windows`.
    Returns:
      A `SeriesBaseline` over all points that can be a target.

    Example: the steps of a random walk have variance 1/3, its levels a much larger one.

      >>> walk = np.cumsum(np.random.default_rng(0).uniform(-1, 1, 5000))
      >>> baseline = windows_baseline(walk)
      >>> round(baseline.persistence, 1), baseline.mean > 10
      (0.3, True)
    """
    values = np.asarray(checked_series(series, 1, horizon), np.float64)
    targets, now = values[horizon:], values[:-horizon]
    return SeriesBaseline(
        mean=float(np.mean((targets - targets.mean(axis=0)) ** 2)), persistence=float(np.mean((targets - now) ** 2))
    )


def checked_series(series: Any, steps: int, horizon: int) -> Any:
    """The series as `[N, D]`; raises if it is not valid."""
    check_size("steps", steps)
    check_size("horizon", horizon)
    if not isinstance(series, jax.Array):
        try:
            series = np.asarray(series)
        except ValueError as error:
            raise TypeError(f"`series` is ragged ({error}); give every time step the same number of values.") from None
    if series.dtype == object or series.dtype.kind in "USMmc":
        raise TypeError(f"`series` holds {series.dtype}; it must be real numbers, [N] or [N, D].")
    if series.ndim not in (1, 2):
        raise ValueError(f"`series` is {list(series.shape)}; it must be [N] or [N, D], time first.")
    if 0 in series.shape:
        raise ValueError(f"`series` is empty: {list(series.shape)}.")
    if not isinstance(series, Tracer):
        finite = np.isfinite(np.asarray(series, np.float64)).reshape(len(series), -1).all(axis=1)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            raise ValueError(
                f"`series` is not finite at {len(bad)} of {len(series)} time steps, first at {bad[0]}; drop or fill "
                "them first."
            )
    if series.shape[0] < steps + horizon:
        raise ValueError(
            f"`series` has {series.shape[0]} points, but a window of {steps} steps with targets {horizon} steps later "
            f"needs {steps + horizon}; pass a longer series or fewer steps."
        )
    return series[:, None] if series.ndim == 1 else series

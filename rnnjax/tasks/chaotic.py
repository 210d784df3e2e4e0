"""Chaotic series to forecast: the Lorenz system, and the Mackey-Glass equation.

Both are integrated by the classical Runge-Kutta method of fourth order (in float32 for half precision), from random
starts whose first `washout` steps are dropped. The numbers that standardise them are those of the attractor at the
default parameters, whatever the parameters: x = (state - MEAN) / SCALE.
"""

# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import at_least_float32, check_size, float_dtype, per_row
from rnnjax.tasks.batch import Baseline, Batch, whole_rows

LORENZ_MEAN, LORENZ_SCALE = (0.0, 0.0, 23.55), (7.92, 9.01, 8.62)
MACKEY_GLASS_MEAN, MACKEY_GLASS_SCALE = (0.930,), (0.226,)


def lorenz(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    horizon: int = 1,
    dt: float = 0.02,
    substeps: int = 2,
    washout: int = 500,
    sigma: float = 10.0,
    rho: float = 28.0,
    beta: float = 8 / 3,
    dtype: DTypeLike | None = None,
) -> Batch:
    """The Lorenz system, all three coordinates; the target of each step is the state `horizon` steps later.

        dx/dt = σ (y - x),            dy/dt = x (ρ - z) - y,            dz/dt = x y - β z

    The largest Lyapunov exponent is 0.906 per unit of time: errors grow tenfold in about 130 steps of the default dt.

    Args:
      key: PRNG key.
      steps: T.
      batch_shape: `*batch`.
      horizon: how many steps ahead to predict.
      dt: time between steps.
      substeps: Runge-Kutta steps in each.
      washout: steps dropped at the start.
      sigma, rho, beta: σ, ρ and β.
      dtype: of the returned arrays; JAX's default float if None.
    Returns:
      A `Batch` with `xs` and `targets` `[T, *batch, 3]`, standardised; every step is scored.
    Raises:
      ValueError: a size or `dt` is not positive.

    Example:

      >>> batch = lorenz(jax.random.key(0), 200, (20,), horizon=5)
      >>> batch.xs.shape, bool((batch.xs[5:] == batch.targets[:-5]).all()), round(float(batch.xs.std()))
      ((200, 20, 3), True, 1)

    References: Lorenz, Deterministic nonperiodic flow, J. Atmospheric Sciences 20 (1963), 130-141, eqs. 25-27; the
    exponent: Sprott, Chaos and time-series analysis, Oxford 2003.
    """
    drawn = _checked(steps, horizon, dt, substeps, washout, dtype)

    def flow(state: Array, stage: int) -> Array:
        x, y, z = state[..., 0], state[..., 1], state[..., 2]
        return jnp.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], axis=-1)

    def move(state: Array) -> Array:
        return _repeated(lambda state: _runge_kutta(flow, state, dt / substeps), state, substeps)

    def visit(state: Array, _: None) -> tuple[Array, Array]:
        return move(state), state

    start = jax.random.normal(key, (*batch_shape, 3), drawn)
    start = start * _row(LORENZ_SCALE, start) + _row(LORENZ_MEAN, start)
    _, path = jax.lax.scan(visit, _repeated(move, start, washout), length=steps + horizon)
    return _forecast(path, LORENZ_MEAN, LORENZ_SCALE, horizon, dtype)


def lorenz_baseline() -> Baseline:
    """Always predicting the mean, 0: a squared error of 1. (Predicting the last value is better for short horizons.)"""
    return Baseline(1.0)


def mackey_glass(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    horizon: int = 1,
    dt: float = 1.0,
    substeps: int = 10,
    washout: int = 1000,
    tau: float = 17.0,
    beta: float = 0.2,
    gamma: float = 0.1,
    n: float = 10.0,
    dtype: DTypeLike | None = None,
) -> Batch:
    """The Mackey-Glass delay equation; the target of each step is the value `horizon` steps later.

        dx/dt = β x(t - τ) / (1 + x(t - τ)^n) - γ x(t)

    It is chaotic from about τ = 16.8 on; τ = 17 and τ = 30 are customary. Up to t = 0 each row is constant, drawn from
    U(0.5, 1.5). A Runge-Kutta stage between two points of the past takes the cubic through both values and slopes,
    which keeps the method's fourth order.

    Args:
      key: PRNG key.
      steps: T.
      batch_shape: `*batch`.
      horizon: how many steps ahead to predict; 84 is customary for τ = 17.
      dt: time between steps.
      substeps: Runge-Kutta steps in each.
      washout: steps dropped at the start.
      tau: the delay, a multiple of dt / substeps.
      beta, gamma, n: β, γ and n.
      dtype: of the returned arrays; JAX's default float if None.
    Returns:
      A `Batch` with `xs` and `targets` `[T, *batch, 1]`, standardised; every step is scored.
    Raises:
      ValueError: a size, `dt` or `tau` is not positive, or `tau` is not a multiple of dt / substeps.

    Example:

      >>> batch = mackey_glass(jax.random.key(0), 200, (20,), horizon=84)
      >>> batch.xs.shape, bool((batch.xs[84:] == batch.targets[:-84]).all()), round(float(batch.xs.std()))
      ((200, 20, 1), True, 1)

    Reference: Mackey and Glass, Oscillation and chaos in physiological control systems, Science 197 (1977), 287-289,
    eq. 4b; as a forecast: Jaeger and Haas, Harnessing nonlinearity, Science 304 (2004), 78-80.
    """
    drawn, h = _checked(steps, horizon, dt, substeps, washout, dtype), dt / substeps
    delay = round(tau / h) if 0 < tau < math.inf else 0
    if delay < 1 or abs(delay * h - tau) > 1e-6 * tau:
        raise ValueError(
            f"tau is {tau}; it must be a positive multiple of dt / substeps = {h:g}: change one of the three."
        )

    def interval(past: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        """From values and slopes `[delay + 1, *batch]` to those of the next `delay` points, where the past is known."""
        values, slopes = past
        between = (values[:-1] + values[1:]) / 2 + h / 8 * (slopes[:-1] - slopes[1:])
        produced, produced_between = (beta * x / (1 + x**n) for x in (values, between))

        def move(x: Array, drive: tuple[Array, ...]) -> tuple[Array, Array]:
            x = _runge_kutta(lambda x, stage: drive[stage] - gamma * x, x, h)
            return x, x

        new = jax.lax.scan(move, values[-1], (produced[:-1], produced_between, produced[1:]))[1]
        values = jnp.concatenate([values[-1:], new])
        return (values, produced - gamma * values), new

    start = jax.random.uniform(key, batch_shape, drawn, 0.5, 1.5)
    past = jnp.broadcast_to(start, (delay + 1, *batch_shape))
    last = (washout + steps + horizon - 1) * substeps
    _, new = jax.lax.scan(interval, (past, jnp.zeros_like(past)), length=-(-last // delay))
    path = jnp.concatenate([start[None], new.reshape(-1, *batch_shape)])[washout * substeps : last + 1 : substeps]
    return _forecast(path[..., None], MACKEY_GLASS_MEAN, MACKEY_GLASS_SCALE, horizon, dtype)


def mackey_glass_baseline() -> Baseline:
    """Always predicting the mean, 0: a squared error of 1. (Predicting the last value is better for short horizons.)"""
    return Baseline(1.0)


def _runge_kutta(flow: Callable[[Array, int], Array], x: Array, h: float) -> Array:
    """One step of the classical method; `flow(x, stage)` is dx/dt at time t + stage h / 2."""
    first = flow(x, 0)
    second = flow(x + h / 2 * first, 1)
    third = flow(x + h / 2 * second, 1)
    fourth = flow(x + h * third, 2)
    return x + h / 6 * (first + 2 * (second + third) + fourth)


def _repeated(move: Callable[[Array], Array], x: Array, times: int) -> Array:
    def body(x: Array, _: None) -> tuple[Array, None]:
        return move(x), None

    return jax.lax.scan(body, x, length=times)[0]


def _checked(steps: int, horizon: int, dt: float, substeps: int, washout: int, dtype: DTypeLike | None) -> jnp.dtype:
    """The dtype of the integration."""
    for name, size in (("steps", steps), ("horizon", horizon), ("substeps", substeps)):
        check_size(name, size)
    if washout < 0:
        raise ValueError(f"washout is {washout}; it must be 0 or more steps.")
    if not 0 < dt < math.inf:
        raise ValueError(f"dt is {dt}; it must be a positive time.")
    return at_least_float32(float_dtype(dtype))


def _row(numbers: tuple[float, ...], like: Array) -> Array:
    return per_row(jnp.asarray(numbers, like.dtype), like)


def _forecast(path: Array, mean: Any, scale: Any, horizon: int, dtype: DTypeLike | None) -> Batch:
    """Converts `[T + horizon, *batch, K]` to a batch."""
    path = ((path - _row(mean, path)) / _row(scale, path)).astype(float_dtype(dtype))
    xs, targets = path[:-horizon], path[horizon:]
    return Batch(xs, targets, jnp.ones_like(xs[..., 0]), whole_rows(xs.shape[0], xs.shape[1:-1]))

"""The decay rate of the gradient through time, measured during training.

    rate = slope of log ‖dL/d(carry_t)‖ against the lag T - t        nats per step back: below 0 the gradient vanishes

`fit(..., health=adjoint_health(...))` adds it to each line of metrics, next to the gradient norm and the share of
clipped updates. It runs inside the compiled step, on the step's own batch and loss.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from rnnjax.cell import Cell, PyTree
from rnnjax.gradients import adjoint


def adjoint_health(
    cell: Cell,
    rnn: Callable[[PyTree], PyTree],
    loss: Callable[[PyTree, PyTree, Any], Array],
) -> Callable[..., dict[str, Array]]:
    """The adjoint's decay rate, for `fit(..., health=...)`.

    Args:
      cell: the cell, or a `Stack`.
      rnn: `params -> the cell's parameters`.
      loss: `(params, ys, batch) -> []`, the training loss as a function of the cell's outputs.
    Returns:
      `(params, batch) -> metrics`; `batch` has `xs` and `lengths`, like a `rnnjax.tasks.Batch`. The metrics are

      * adjoint_rate: nats per step back, by least squares over the steps with a nonzero gradient, mean over rows. NaN
        if no row has two such steps.
      * adjoint_log_norm: nats, log ‖dL/d(carry_0)‖, mean over the rows where it is nonzero.
      * adjoint_arrives: the share of rows with a nonzero gradient at the first step (all ReLU units may be inactive).

      All three are NaN if the trajectory of a row is not finite.

    Example:

      >>> import jax, rnnjax
      >>> from rnnjax import tasks
      >>> cell = rnnjax.Elman(1, activation="linear")
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[0.5]]), b=jnp.zeros(1))
      >>> health = adjoint_health(cell, lambda p: p, lambda p, ys, batch: ys[-1].sum())
      >>> measured = health(params, tasks.parity(jax.random.key(0), 50, (2,)))
      >>> round(float(jnp.exp(measured["adjoint_rate"])), 4), float(measured["adjoint_arrives"])
      (0.5, 1.0)
    """

    def health(params: PyTree, batch: Any) -> dict[str, Array]:
        decay = adjoint(cell, rnn(params), batch.xs, lambda ys: loss(params, ys, batch), lengths=batch.lengths)
        log_norm = decay.log_norm.reshape(decay.log_norm.shape[0], -1)
        reached = jnp.isfinite(log_norm)
        rates = _slopes(log_norm, reached)
        known = (reached | jnp.isneginf(log_norm)).all()
        metrics = {
            "adjoint_rate": _mean(rates, jnp.isfinite(rates)),
            "adjoint_log_norm": _mean(log_norm[0], reached[0]),
            "adjoint_arrives": jnp.mean(reached[0].astype(log_norm.dtype)),
        }
        return {name: jnp.where(known, value, jnp.nan) for name, value in metrics.items()}

    return health


def _slopes(log_norm: Array, reached: Array) -> Array:
    """Least-squares slope of each column against the lag, over the reached entries; NaN with fewer than two."""
    steps = log_norm.shape[0]
    lag = jnp.arange(steps - 1, -1, -1, dtype=log_norm.dtype)[:, None]
    weight = reached.astype(log_norm.dtype)
    count = weight.sum(axis=0)
    values = jnp.where(reached, log_norm, 0)
    many = jnp.maximum(count, 1)
    lag = jnp.where(reached, lag - (lag * weight).sum(axis=0) / many, 0)
    values = jnp.where(reached, values - values.sum(axis=0) / many, 0)
    return jnp.where(count > 1, (lag * values).sum(axis=0) / (lag**2).sum(axis=0), jnp.nan)


def _mean(values: Array, chosen: Array) -> Array:
    count = chosen.sum(dtype=jnp.int32).astype(values.dtype)
    return jnp.where(count > 0, jnp.where(chosen, values, 0).sum() / jnp.maximum(count, 1), jnp.nan)

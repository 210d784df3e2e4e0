"""The decay rate of the gradient through time, in each line of metrics of `fit(..., health=adjoint_health(...))`."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from rnnjax.cell import Cell, PyTree
from rnnjax.gradients import adjoint


def adjoint_health(
    cell: Cell, rnn: Callable[[PyTree], PyTree], loss: Callable[[PyTree, PyTree, Any], Array]
) -> Callable[..., dict[str, Array]]:
    """The slope of log ‖dL/d(carry_t)‖ against the lag T - t, for `fit(..., health=...)`.

    Args:
      cell: the cell, or a `Stack`. rnn: `params -> the cell's parameters`.
      loss: `(params, ys, batch) -> []`, the training loss as a function of the cell's outputs.
    Returns:
      `(params, batch) -> metrics`, for batches with `xs` and `lengths`; NaN if the trajectory of a row is not finite:

      * adjoint_rate: nats per step back, below 0 if the gradient vanishes: least squares over steps with a nonzero
        gradient, mean over rows with two.
      * adjoint_log_norm: nats, log ‖dL/d(carry_0)‖, mean over rows where it is nonzero.
      * adjoint_arrives: the share of rows with a nonzero gradient at the first step (all ReLU units may be inactive).

    Example:

      >>> import jax, rnnjax
      >>> cell, batch = rnnjax.Elman(1, "linear"), rnnjax.tasks.parity(jax.random.key(0), 50, (2,))
      >>> params = cell.init(jax.random.key(0), 1)._replace(w_h=jnp.array([[0.5]]))
      >>> measured = adjoint_health(cell, lambda p: p, lambda p, ys, batch: ys[-1].sum())(params, batch)
      >>> round(float(jnp.exp(measured["adjoint_rate"])), 4), float(measured["adjoint_arrives"])
      (0.5, 1.0)
    """

    def health(params: PyTree, batch: Any) -> dict[str, Array]:
        decay = adjoint(cell, rnn(params), batch.xs, lambda ys: loss(params, ys, batch), lengths=batch.lengths)
        log_norm = decay.log_norm.reshape(decay.log_norm.shape[0], -1)
        reached = jnp.isfinite(log_norm)
        over_steps = functools.partial(jnp.mean, axis=0, keepdims=True, where=reached)
        lag = jnp.broadcast_to(jnp.arange(len(log_norm), dtype=log_norm.dtype)[::-1, None], log_norm.shape)
        lag, level = lag - over_steps(lag), log_norm - over_steps(log_norm)
        rates = over_steps(lag * level) / over_steps(lag**2)  # 0 / 0 with fewer than two steps
        rate, first = jnp.mean(rates, where=jnp.isfinite(rates)), jnp.mean(log_norm[0], where=reached[0])
        metrics = {"rate": rate, "log_norm": first, "arrives": reached[0].astype(log_norm.dtype).mean()}
        known = (reached | jnp.isneginf(log_norm)).all()
        return {f"adjoint_{name}": jnp.where(known, value, jnp.nan) for name, value in metrics.items()}

    return health

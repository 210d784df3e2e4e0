"""Gradient flossing: a penalty on nonzero Lyapunov exponents, so that gradients neither vanish nor explode.

    F = 1/k Σ_i (λ_i - λ*)²            i = 1..k, the leading finite-time exponents of the run over T steps,   λ* = 0

Unlike Pascanu's Ω, it considers the k fastest growing directions, independent of the error, and differentiates
everything: states, Jacobians and orthonormalisations. The derivative of the orthonormalisation follows from A = L Q
itself, so Gram-Schmidt is not differentiated, and the loop does not call LAPACK:

    dA = dL Q + L dQ,   X = L⁻¹ dA Q^T,   S = triu(X, 1) - triu(X, 1)^T
    d log diag L = diag X            dQ = L⁻¹ dA - (X - S) Q

Reference: Engelken, Gradient flossing: improving gradient descent through dynamic control of Jacobians, NeurIPS 2023.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax.cell import Cell, PyTree, over_time
from rnnjax.gradients.lyapunov import checked_k, first_rows, growth_by_interval
from rnnjax.gradients.orthonormal import orthonormalise
from rnnjax.gradients.sequence import check_no_clipping
from rnnjax.gradients.tangents import flow_of


@over_time
def flossing(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    *,
    carry: PyTree | None = None,
    k: int,
    transient: int = 0,
    interval: int = 1,
    target: float = 0.0,
    key: Array | None = None,
) -> Array:
    """F = 1/k Σ_i (λ_i - λ*)², averaged over rows; add it to a loss with a weight, or train on it alone beforehand.

    k = 1 uses only the leading exponent. A larger k preserves more directions and costs more: a step costs k + 1
    forward steps of the network, and about three times as much with the gradient.

    Args:
      cell, params, xs, carry, k, transient, interval, key: as in `rnnjax.gradients.lyapunov_spectrum`. Use inputs like
        the task's, but not the batch of the loss, since the cost grows with the square of its length.
      target: λ*, nats per step.
    Returns:
      A scalar. It is infinite if one of the k directions is annihilated (by a dead ReLU, or because it is below
      rounding error relative to the directions before it); use a smaller k. It is NaN if a trajectory is not finite
      (see `LyapunovSpectrum.finite_steps`).
    Raises:
      TypeError, ValueError: as `rnnjax.gradients.lyapunov_spectrum`.

    Example: a linear network that halves, λ = -log 2, and the gradient that makes it halve less.

      >>> import rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[0.5]]), b=jnp.zeros(1))
      >>> cell = rnnjax.Elman(1, activation="linear")
      >>> value, gradient = jax.value_and_grad(lambda p: flossing(cell, p, jnp.ones((20, 1)), k=1))(params)
      >>> round(float(value / jnp.log(2.0) ** 2), 4), round(float(gradient.w_h[0, 0] / (-4 * jnp.log(2.0))), 4)
      (1.0, 1.0)
    """
    if not (isinstance(target, int | float) and math.isfinite(target)):
        raise ValueError(f"target is {target!r}; it must be a finite number, in nats per step.")
    exponents = finite_time_exponents(
        cell, params, xs, carry=carry, k=k, transient=transient, interval=interval, key=key
    )  # fmt: skip
    return ((exponents - target) ** 2).mean()


@over_time
def finite_time_exponents(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    *,
    carry: PyTree | None = None,
    k: int,
    transient: int = 0,
    interval: int = 1,
    key: Array | None = None,
) -> Array:
    """The k leading exponents of each row, as in `lyapunov_spectrum`, but differentiable.

    Args:
      As for `flossing`.
    Returns:
      `[*batch, k]` nats per step; NaN and -inf as in `LyapunovSpectrum`.

    Example:

      >>> import rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 2)), w_h=jnp.diag(jnp.array([2.0, 0.5])), b=jnp.zeros(2))
      >>> cell = rnnjax.Elman(2, activation="linear")
      >>> found = finite_time_exponents(cell, params, jnp.zeros((300, 1)), k=2, transient=100)
      >>> (found / jnp.log(2)).round(4).tolist()
      [1.0, -1.0]
    """
    check_no_clipping(cell)
    flow = flow_of(cell, params, carry, xs)
    rows = first_rows(flow, checked_k(k, flow.size), key)
    return growth_by_interval(flow, rows, transient, interval, differentiable_orthonormalise)[0].mean(0)


@jax.custom_jvp
def differentiable_orthonormalise(rows: Array) -> tuple[Array, Array]:
    """`orthonormalise` of `[*batch, k, n]` with the derivative above; a zero row of Q has none."""
    return orthonormalise(rows)


@differentiable_orthonormalise.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]):
    (rows,), (drows,) = primals, tangents
    q, log_lengths = differentiable_orthonormalise(rows)
    lower = rows @ _transposed(q)
    inverse = _inverse_of_lower(lower, log_lengths > -jnp.inf)
    scaled = inverse @ drows
    x = scaled @ _transposed(q)
    above = jnp.triu(x, 1)
    dq = scaled - (x - above + _transposed(above)) @ q
    return (q, log_lengths), (dq, jnp.diagonal(x, axis1=-2, axis2=-1))


def _inverse_of_lower(lower: Array, kept: Array) -> Array:
    """The inverse by forward substitution, row by row; it is zero in rows that are not kept."""
    k = lower.shape[-1]
    units = jnp.broadcast_to(jnp.eye(k, dtype=lower.dtype), lower.shape)

    def add_row(inverse: Array, at: tuple[Array, Array, Array, Array]):
        i, row, unit, is_kept = at
        before = jnp.where(jnp.arange(k) < i, row, 0)
        pivot = jnp.where(is_kept, jnp.take(row, i, axis=-1), 1)[..., None]
        found = (unit - (before[..., None, :] @ inverse)[..., 0, :]) / pivot
        found = jnp.where(is_kept[..., None], found, 0)
        return jnp.where((jnp.arange(k) == i)[:, None], found[..., None, :], inverse), None

    over_rows = [jnp.moveaxis(part, -2, 0) for part in (lower, units)]
    inverse, _ = lax.scan(add_row, jnp.zeros_like(lower), (jnp.arange(k), *over_rows, jnp.moveaxis(kept, -1, 0)))  # pyright: ignore[reportArgumentType]
    return inverse


def _transposed(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)

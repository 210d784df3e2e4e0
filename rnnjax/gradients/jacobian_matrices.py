"""The Jacobian matrices of a recurrence, with their singular values, spectral radius and non-normality.

    J_t = ∂carry_t/∂carry_{t-1},   [n, n] for the n numbers of a row's carry (for an LSTM h, then c)

The matrices come from one compiled program over time; NumPy decomposes them afterwards, because LAPACK inside a
compiled time loop can deadlock (jaxlib 0.10.2).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax.cell import Cell, PyTree, over_time
from rnnjax.gradients.sequence import only_known
from rnnjax.gradients.tangents import flow_of, push


@over_time
def jacobians(cell: Cell, params: PyTree, xs: ArrayLike, *, carry: PyTree | None = None) -> Array:
    """J_t for every step of the trajectory driven by `xs`.

    Args:
      cell: a `Cell` or a `Stack` of cells; anything with a `step`.
      params, xs, carry: as in `rnnjax.unroll`.
    Returns:
      `[T, *batch, n, n]`: entry i, j is the derivative of number i of the carry after the step with respect to number j
      before it, with the leaves of the carry concatenated. This is T n² numbers per row. It is NaN at a non-finite step
      (input, carry before or after), unless it depends on neither carry nor input.
    Raises:
      As `rnnjax.gradients.lyapunov_spectrum`.

    Example: for a linear network they are W2 transposed, since weights multiply from the right.

      >>> import jax.numpy as jnp, rnnjax
      >>> w_h = jnp.array([[0.5, 2.0], [0.0, 0.5]])
      >>> params = rnnjax.ElmanParams(jnp.ones((1, 2)), w_h, jnp.zeros(2))
      >>> found = jacobians(rnnjax.Elman(2, activation="linear"), params, jnp.zeros((3, 1)))
      >>> found.shape, bool((found[0] == w_h.T).all())
      ((3, 2, 2), True)
    """
    flow = flow_of(cell, params, carry, xs)
    units = jnp.broadcast_to(jnp.eye(flow.size, dtype=flow.dtype), (*flow.batch_shape, flow.size, flow.size))

    def step(carry: PyTree, x: Array):
        carry, columns, finite = push(flow, carry, units, x)
        return carry, (jnp.swapaxes(columns, -1, -2), finite)

    _, (matrices, after) = lax.scan(step, flow.carry, flow.xs)
    return only_known(matrices, flow.finite_steps(after).known(flow.reads))


class MatrixStatistics(NamedTuple):
    """Statistics of each matrix in `[..., n, n]`.

    Attributes:
      singular_values: `[..., n]`, largest first.
      spectral_radius: `[...]`, the largest absolute eigenvalue.
      log_abs_det: `[...]`, -inf for a singular matrix.
      rank: `[...]` integers, the number of singular values above n ε times the largest.
      log_condition: `[...]`, log of the largest over the smallest singular value; inf for a singular matrix.
      non_normality: `[...]`, Henrici's departure from normality divided by the Frobenius norm, √(1 - Σ|λ|²/‖J‖²): 0 for
        a normal matrix, 1 for a nilpotent one.
    """

    singular_values: np.ndarray
    spectral_radius: np.ndarray
    log_abs_det: np.ndarray
    rank: np.ndarray
    log_condition: np.ndarray
    non_normality: np.ndarray


def matrix_statistics(matrices: ArrayLike) -> MatrixStatistics:
    """Statistics of Jacobians, by NumPy in float64; not for use under `jit`.

    Args:
      matrices: `[..., n, n]`.
    Raises:
      ValueError: the matrices are not square, or an entry is not finite.

    Example: a rotation is normal; a feedforward connection adds to its norm but not to its spectral radius.

      >>> found = matrix_statistics([[[0.0, -1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])
      >>> found.spectral_radius.tolist(), found.singular_values[:, 0].tolist(), found.non_normality.tolist()
      ([1.0, 0.0], [1.0, 1.0], [0.0, 1.0])
    """
    matrices = _checked(matrices)
    size = matrices.shape[-1]
    values = np.linalg.svd(matrices, compute_uv=False)
    eigenvalues = np.abs(np.linalg.eigvals(matrices))
    largest, smallest = values[..., 0], values[..., -1]
    squares = (values**2).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rank = (values > size * np.finfo(np.float64).eps * largest[..., None]).sum(-1)
        full = rank == size
        condition = np.where(full, np.log(largest) - np.log(smallest), np.inf)
        departure = np.where(squares > 0, 1 - (eigenvalues**2).sum(-1) / squares, 0)
    return MatrixStatistics(
        values,
        eigenvalues.max(-1),
        np.linalg.slogdet(matrices)[1],
        rank,
        condition,
        np.sqrt(np.clip(departure, 0, None)),
    )


class LagProducts(NamedTuple):
    """Statistics of the products J_t J_{t-1} ... J_{t-k+1} of k consecutive Jacobians, for T - k + 1 windows.

    Attributes:
      log_singular_values: `[T - k + 1, *batch, n]` nats, largest first; -inf beyond the rank.
      rank: `[T - k + 1, *batch]` integers, the number of singular values above n ε times the largest; smaller ones
        cannot be told from rounding errors in float64.
    """

    log_singular_values: np.ndarray
    rank: np.ndarray


def lag_products(matrices: ArrayLike, lag: int) -> LagProducts:
    """The singular values of products of k Jacobians, in log form.

    No product underflows or overflows, at any lag. For small singular values at long lags, and their rates, use
    `rnnjax.gradients.lyapunov_spectrum`.

    Args:
      matrices: `[T, *batch, n, n]`, from `jacobians`.
      lag: k, 1 <= k <= T.

    Example: the lecture's 0.5^k, at k = 2000.

      >>> found = lag_products(np.full((2000, 1, 1), 0.5), 2000)
      >>> round(float(found.log_singular_values[0, 0] / np.log(2)), 6)
      -2000.0
    """
    matrices = _checked(matrices)
    steps, size = len(matrices), matrices.shape[-1]
    if isinstance(lag, bool) or not isinstance(lag, int | np.integer) or not 1 <= lag <= steps:
        raise ValueError(f"`lag` is {lag!r}, but there are {steps} Jacobians: give 1 <= lag <= {steps}.")
    windows = steps - lag + 1
    product = np.broadcast_to(np.eye(size), (windows, *matrices.shape[1:]))
    exponent = np.zeros((windows, *matrices.shape[1:-2]), np.int64)
    for j in range(lag):
        product = matrices[j : j + windows] @ product
        shift = np.frexp(np.abs(product).max(axis=(-2, -1)))[1]  # scaling by a power of two is exact
        product, exponent = np.ldexp(product, -shift[..., None, None]), exponent + shift
    values = np.linalg.svd(product, compute_uv=False)
    there = values > size * np.finfo(np.float64).eps * values[..., :1]
    logs = np.log(np.where(there, values, 1)) + np.log(2) * exponent[..., None]
    return LagProducts(np.where(there, logs, -np.inf), there.sum(-1))


def _checked(matrices: ArrayLike) -> np.ndarray:
    matrices = np.asarray(matrices, np.float64)
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2]:
        raise ValueError(f"`matrices` is {list(matrices.shape)}; expected square ones, [..., n, n].")
    if not np.isfinite(matrices).all():
        wrong = int((~np.isfinite(matrices)).any(axis=(-2, -1)).sum())
        raise ValueError(f"`matrices` has entries that are not finite, in {wrong} of them; remove those.")
    return matrices

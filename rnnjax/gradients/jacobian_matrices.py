"""The Jacobians of a recurrence written down, and what their matrices say: singular values, radius, non-normality.

    J_t = ∂carry_t/∂carry_{t-1},   [n, n] for the n numbers of a row's carry (for an LSTM h, then c)

Two halves, on purpose: the matrices come from one compiled program over time, and decompositions of matrices from
NumPy, after it. (LAPACK inside a compiled time loop can stop dead on jaxlib 0.10.2.)
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
    """J_t for every step along the trajectory that `xs` drives.

    Args:
      cell: a `Cell` or a `Stack` of cells; anything with a `step`.
      params, xs, carry: as in `rnnjax.unroll`.
    Returns:
      `[T, *batch, n, n]`, row i and column j: how number i of the carry after a step changes with number j before it.
      Leaves of the carry side by side. It takes T n² numbers a row.
      NaN at a step that is not finite (input, carry before or after), unless it depends on neither carry nor input.
    Raises:
      As `rnnjax.gradients.lyapunov_spectrum`.

    Example: a linear network's are W2 transposed, as weights multiply from the right.

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
    """Of each matrix in `[..., n, n]`.

    Attributes:
      singular_values: `[..., n]`, largest first.
      spectral_radius: `[...]`, the largest absolute eigenvalue.
      log_abs_det: `[...]`, -inf for a singular matrix.
      rank: `[...]` integers, singular values above n ε times the largest: how many directions survive.
      log_condition: `[...]`, log of the largest over the smallest singular value; inf for a singular matrix.
      non_normality: `[...]`, Henrici's departure from normality over the Frobenius norm, √(1 - Σ|λ|²/‖J‖²): 0 for a
        normal matrix, 1 for a nilpotent one.
    """

    singular_values: np.ndarray
    spectral_radius: np.ndarray
    log_abs_det: np.ndarray
    rank: np.ndarray
    log_condition: np.ndarray
    non_normality: np.ndarray


def matrix_statistics(matrices: ArrayLike) -> MatrixStatistics:
    """What matters of a Jacobian, by NumPy in float64; not for use under `jit`.

    Args:
      matrices: `[..., n, n]`.
    Raises:
      ValueError: no square matrices, or an entry that is not finite.

    Example: a rotation is normal; the same with a feedforward chain has the radius it had and a greater norm.

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
    """Of the products J_t J_{t-1} ... J_{t-k+1} of k Jacobians in a row, one for each of the T - k + 1 windows.

    Attributes:
      log_singular_values: `[T - k + 1, *batch, n]` nats, largest first; -inf for what is not there.
      rank: `[T - k + 1, *batch]` integers, how many directions survive the k steps: those not shorter than n ε times
        the longest, below which float64 cannot tell them from rounding.
    """

    log_singular_values: np.ndarray
    rank: np.ndarray


def lag_products(matrices: ArrayLike, lag: int) -> LagProducts:
    """How k steps together stretch and squeeze: the singular values of products of Jacobians, in log form.

    No product under- or overflows, at any lag. For the many small ones at long lags, and their rates, there is
    `rnnjax.gradients.lyapunov_spectrum`.

    Args:
      matrices: `[T, *batch, n, n]`, as `jacobians` gives them.
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
        shift = np.frexp(np.abs(product).max(axis=(-2, -1)))[1]  # a power of two: scaling by it is exact
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
        raise ValueError(f"`matrices` has entries that are not finite, in {wrong} of them; leave those out.")
    return matrices

"""A cell near one carry: its Jacobians, modes, time constants, and what a read-out sees of them.

    F(h + δ, x + ξ) ≈ F(h, x) + J δ + K ξ,     J = Σ_i λ_i v_i u_i,     u_i v_j = 1 where i = j, else 0

A perturbation δ enters mode i by u_i δ (its left vector), grows by λ_i at each step, and shows along v_i (its right
vector).

References: Sussillo and Barak, Neural Computation 25 (2013), 626; selection vectors (left vectors of a line attractor):
Mante, Sussillo, Shenoy and Newsome, Nature 503 (2013), 78.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rnnjax.cell import Cell, PyTree, flat, unflat
from rnnjax.dynamics.problem import checked, checked_rows, with_jacobian


class Linearization(NamedTuple):
    """The modes of a cell near a carry of S numbers, largest |λ| first.

    Attributes:
      recurrent: `[S, S]`, J: entry i, j is the derivative of number i of the carry after the step with respect to
        number j before it.
      input: `[S, D]`, K, the same with respect to the input (`[S, *space, D]`).
      eigenvalues: `[S]` complex.
      right: `[S, S]` complex, v_i in column i, of length 1.
      left: `[S, S]` complex, u_i in row i: `left @ right` is the identity. NaN if J has no basis of eigenvectors.
      condition: the condition number of `right`, by which errors of J enter the eigenvalues: 1 if J is normal.
      time_constants: `[S]` steps, -1/ln|λ|: in so many steps a mode falls to 1/e. Infinite at |λ| = 1, negative for a
        growing mode, 0 at λ = 0.
      stable: whether all |λ| < 1.
      line: `[S]` booleans, modes with |λ| within `tolerance` of 1, which neither decay nor grow: of a line attractor if
        λ is real and positive.
      readout_right: `[S, O]`, |cosine| between v_i and each column of the read-out: how much of the mode it shows.
      readout_left: `[S, O]`, the same for u_i: how much of a perturbation along the read-out enters the mode.
    """

    recurrent: np.ndarray
    input: np.ndarray
    eigenvalues: np.ndarray
    right: np.ndarray
    left: np.ndarray
    condition: float
    time_constants: np.ndarray
    stable: bool
    line: np.ndarray
    readout_right: np.ndarray | None
    readout_left: np.ndarray | None


def linearize(
    cell: Cell,
    params: PyTree,
    x: ArrayLike,
    carry: PyTree,
    *,
    readout: ArrayLike | None = None,
    tolerance: float = 0.01,
) -> Linearization:
    """The Jacobians of one step at a carry, which need not be a fixed point, and their modes.

    Args:
      cell, params, x: as in `rnnjax.dynamics.fixed_points`.
      carry: one carry, without batch axes.
      readout: `[S, O]`, weights that multiply the carry's numbers from the right; for an LSTM, whose read-out sees only
        h, with zeros below for c.
      tolerance: of | |λ| - 1 | for `line`.
    Returns:
      A `Linearization`, arrays of NumPy. Not for use under `jit`.
    Raises:
      TypeError, ValueError: as `fixed_points`; also if `carry` has a leading axis, or `readout` is not `[S, O]`.

    Example: one unit integrates its input, the other forgets it.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(jnp.ones((1, 2)), jnp.diag(jnp.array([1.0, 0.5])), jnp.zeros(2))
      >>> found = linearize(rnnjax.Elman(2, "linear"), params, jnp.zeros(1), jnp.zeros(2))
      >>> found.eigenvalues.real.tolist(), found.line.tolist(), found.time_constants.round(3).tolist()
      ([1.0, 0.5], [True, False], [inf, 1.443])
    """
    cell, x, like = checked(cell, params, x, "linearize")
    (row,) = checked_rows("carry", carry, like, leading=False)
    weights = None if readout is None else np.asarray(readout)
    if weights is not None and (weights.ndim != 2 or len(weights) != row.size):
        raise ValueError(
            f"`readout` is {list(weights.shape)}, but the carry has {row.size} numbers: expected [{row.size}, O]. Rows "
            "are in the order of the carry's leaves (for an LSTM h, then c): pad those that are not read with zeros."
        )
    recurrent, driven = (np.asarray(part) for part in _jacobians(cell, params, x, jnp.asarray(row)))
    eigenvalues, right = (part.astype(complex) for part in np.linalg.eig(recurrent))
    order = np.argsort(-np.abs(eigenvalues), kind="stable")
    eigenvalues, right = eigenvalues[order], right[:, order]
    condition = float(np.linalg.cond(right))
    known = condition < np.finfo(recurrent.dtype).eps ** -0.75
    left = np.linalg.inv(right) if known else np.full_like(right, np.nan)
    size = np.abs(eigenvalues)
    with np.errstate(divide="ignore"):
        constants = -1 / np.log(size)
    return Linearization(
        recurrent,
        driven,
        eigenvalues,
        right,
        left,
        condition,
        np.where(size == 1, np.inf, constants + 0.0),
        bool((size < 1).all()),
        np.abs(size - 1) <= tolerance,
        None if weights is None else _cosines(right.T, weights),
        None if weights is None else _cosines(left, weights),
    )


def _cosines(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """|cosine| between each row and each column; 0 for a column of zeros."""
    lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(columns, axis=0)[None]
    return np.abs(rows @ columns) / np.where(lengths > 0, lengths, 1)


@functools.partial(jax.jit, static_argnums=0)
def _jacobians(cell: Cell, params: PyTree, x: Array, row: Array) -> tuple[Array, Array]:
    like = jax.eval_shape(cell.initial_carry, params)

    def after(h: Array, x: Array) -> Array:
        return flat(cell.step(params, unflat(h, like), x)[0])

    by_input = with_jacobian(lambda given: after(row, given.reshape(x.shape)), x.reshape(-1))[1]
    return with_jacobian(lambda h: after(h, x), row)[1], by_input.reshape(row.size, *x.shape)

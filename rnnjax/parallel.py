"""Newton's method in time with a report: how far it came, an estimate of the error, and a bound of it.

`rnnjax.unroll(..., engine=rnnjax.Parallel(...))` runs the same method as an engine, and `rnnjax.explain(...,
exponent=)` predicts it, by `amplification` and `expected_iterations`.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from rnnjax._bounds import Bounded
from rnnjax._bounds.tubes import Path, error_bound
from rnnjax._unroll import NotConverged, Parallel, newton
from rnnjax._unroll.arguments import Masks, Part, check_carry, make_whole, select
from rnnjax._unroll.prediction import Prediction, amplification, expected_iterations
from rnnjax.cell import Alone, Cell, PyTree, batch_shape_of, flat, over_time, unflat

__all__ = ["NotConverged", "Parallel", "Prediction", "Solution", "amplification", "expected_iterations", "solve"]

FURTHER = 4
"""The most corrections that are added to find a bound."""


class Solution(NamedTuple):
    """All states of a recurrence from Newton's method, and how good they are.

    Attributes:
      carry: after each row's last step, leaves `[*batch, ...]`.
      ys: the outputs `[T, *batch, ...]`.
      carries: the carry after each step, leaves `[T, *batch, ...]`.
      iterations: how many corrections were added, the same for all rows.
      residual: `[*batch]` max |f(h_{t-1}, x_t) - h_t| over all steps and states; the error may be much larger. This
        and the estimate are inf where they are NaN.
      estimate: `[*batch]` max |d|, the next correction of `carries`, plus what rounding errors of random sign grow to:
        the error to first order, no bound.
      converged: `[*batch]` whether the estimate meets the tolerance.
      bound: `[*batch]`, in NumPy: max |h_t* - h_t| is at most this, for the exact states h* of the given numbers; inf
        if no bound was found, or with `certify=False`.
    """

    carry: PyTree
    ys: PyTree
    carries: PyTree
    iterations: Array
    residual: Array
    estimate: Array
    converged: Array
    bound: Array | np.ndarray


@over_time
def solve(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    *,
    carry: PyTree | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    tolerance: float | None = None,
    iterations: int = 50,
    damping: float = 0.0,
    jacobian: Literal["full", "diagonal"] = "full",
    certify: bool = True,
) -> Solution:
    """Unrolls a cell by Newton's method for all time steps at once, and reports the error.

    What is returned has not converged where `converged` is False: compare `estimate` or `bound` with what you need.

    The bound holds for the recurrence in exact arithmetic, with parameters, input and carry promoted to float64
    exactly: for float32 it includes the rounding errors of float32. It comes from up to four further corrections h⁺,

        |h* - h| <= |h⁺ - h| + b,   b_t = ‖J_t‖ b_{t-1} + ‖f(h⁺_{t-1}) - h⁺_t‖ + ½ L_t b_{t-1}²,   b_0 = 0

    in a norm ‖A e‖₂ for which the Jacobians of this trajectory contract, with J_t, the rest and the second derivative
    L_t within the tube of radius b_{t-1} bounded by interval arithmetic (`rnnjax._bounds`), all in NumPy, one step
    after another: some milliseconds per step and row for 50 units. It is inf for a chaotic network, for a step with a
    kink within the tube, and for one with a primitive that has no bounds.

    Args:
      cell: a `Cell` or a `Stack` of cells; anything with a `step`.
      params, xs, carry, lengths, mask, resets, reverse: as in `rnnjax.unroll`.
      tolerance, iterations, damping, jacobian: as in `rnnjax.Parallel`.
      certify: whether to compute the bound; not possible inside of `jax.jit` and the like.
    Returns:
      A `Solution`.
    Raises:
      TypeError: the carry is not real; or `certify` is True and arrays have no values, as inside of `jax.jit`.
      ValueError, TypeError: as `rnnjax.unroll` and `rnnjax.Parallel`.

    Example:

      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Elman(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=2, dtype="float32")._replace(w_h=0.5 * jnp.eye(4))
      >>> found = solve(cell, params, jnp.ones((50, 2)))
      >>> bool(found.converged), bool(found.estimate < 1e-5), bool(found.bound < 1e-5)
      (True, True, True)

    References: see `rnnjax._unroll.newton`.
    """
    parallel = Parallel(tolerance, iterations, damping, jacobian, above="value")
    if not hasattr(cell, "step"):
        raise TypeError(f"{cell!r} needs the whole sequence and has no single step: pass one of its cells.")
    whole = make_whole(cell, params, carry, xs, lengths, mask, resets, reverse)
    closes_over = check_carry(cell, whole.params, whole.carry, whole.xs).closes_over
    newton.check_real(cell, whole.carry)
    if certify and any([isinstance(leaf, Tracer) for leaf in jax.tree.leaves(whole[1:])]):
        raise TypeError("a bound needs values, but `solve` was called inside of `jax.jit` or the like: certify=False.")
    kept = cell if not closes_over and _is_hashable(cell) else Alone(cell)
    solution, rows = _solved(kept, parallel, certify, *whole[1:])
    return solution if rows is None else solution._replace(bound=_bounds(whole, rows))


def _is_hashable(cell: Any) -> bool:
    try:
        hash(cell)
    except TypeError:
        return False
    return True


class _Rows(NamedTuple):
    """What the bounds are computed from, in scan order: the states `[T, *batch, S]`, and better ones."""

    after: Array
    better: Array
    before: Array  # before each step of `better`, after a reset
    inputs: Any


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _solved(
    cell: Any, parallel: Parallel, certify: bool, params: PyTree, carry: PyTree, xs: Array, masks: Masks
) -> tuple[Solution, _Rows | None]:
    problem = newton.Problem(cell, params, carry, xs, masks)
    found, reached = newton.solve(problem, parallel)
    ys = problem.run(found.before)[1]
    every = ys, problem.tree(found.after)
    ys, carries = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), every) if masks.reverse else every
    solution = Solution(problem.tree(found.after[-1]), ys, carries, *reached, jnp.full_like(reached.estimate, jnp.inf))
    if not certify:
        return solution, None
    further = Parallel(float(jnp.finfo(found.after.dtype).tiny), FURTHER)
    better, _ = newton.iterate(problem, further, found.after)
    before, resets = problem.shifted(better), problem.inputs.resets
    if resets is not None:
        start = flat(cell.initial_carry(params, problem.first.shape[:-1]), problem.batch_ndim)
        before = select(resets, jnp.broadcast_to(start, before.shape), before)
    return solution, _Rows(found.after, better, before, problem.inputs)


def _bounds(whole: Part, rows: _Rows) -> np.ndarray:
    """A bound for each row."""
    cell, params, carry, xs, _ = whole
    batch_shape = batch_shape_of(cell, xs)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[len(batch_shape) :], "float64"), carry)
    x = jax.ShapeDtypeStruct(xs.shape[1 + len(batch_shape) :], "float64")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(_promoted(leaf)), params)

        def step(h: Array, x: Array) -> Array:
            return flat(cell.step(wide, unflat(h, like, 0), x)[0], 0)

        bounded = Bounded(step, rows.after.shape[-1], x)
    after, better, before, inputs = jax.tree.map(_promoted, rows)
    steps = len(after)
    counts = np.ones((steps, *batch_shape), bool) if inputs.counts is None else inputs.counts
    known = np.zeros_like(counts) if inputs.resets is None else inputs.resets.copy()
    known[0] = True
    found = np.full(batch_shape, np.inf)
    for row in np.ndindex(*batch_shape):
        of_row = (slice(None), *row)
        path = Path(before[of_row], better[of_row], inputs.x[of_row], counts[of_row], known[of_row])
        with np.errstate(all="ignore"):
            moved = float(np.max(np.abs(better[of_row] - after[of_row])) * (1 + 1e-15))
            found[row] = (moved + error_bound(bounded, path)) * (1 + 1e-15)
    return np.where(np.isnan(found), np.inf, found)


def _promoted(leaf: Any) -> Any:
    """In NumPy, with floats in float64, which is exact; arrays of keys as they are."""
    if jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.extended):
        return leaf
    leaf = np.asarray(leaf)
    return leaf.astype("float64") if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

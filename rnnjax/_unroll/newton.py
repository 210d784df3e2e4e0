"""Newton's method for all time steps at once, in place of a loop over them.

The states h_1, ..., h_T are the root of r_t = f(h_{t-1}, x_t) - h_t. From a guess of all of them, each iteration adds
the solution of the linearised equations,

    d_t = J_t d_{t-1} + r_t,   d_0 = 0,   J_t = ∂f/∂h at h_{t-1}

a linear recurrence, which a parallel scan over time solves (`recurrence.py`). A masked step has J = I, and a reset
J = 0. The size of d at the states that are returned, and of what rounding errors grow to, is the `estimate` of their
error, to first order: r alone says little, as it may be small where d is not.

Derivatives follow from the implicit function theorem (`jax.lax.custom_root`): the tangents solve one more linear
recurrence, with the J of the solution, and so do the cotangents, backwards in time. So no iteration is differentiated,
and forward mode, reverse mode and higher orders hold.

The number of iterations grows with the largest Lyapunov exponent λ. For λ < 0 perturbations die out and it hardly
depends on T; for λ > 0, J_t ... J_1 grows like exp(λ t), and so does the effect of rounding errors.

References: Lim, Zhu, Selfridge and Kasim, Parallelizing non-linear sequential models over the sequence length,
arXiv 2309.12252 (DEER); Gonzalez, Warrington, Smith and Linderman, Towards scalable and stable parallelization of
nonlinear RNNs, arXiv 2407.19115 (diagonal J, damping); Gonzalez et al., Predictability enables parallelization of
nonlinear state space models, arXiv 2508.16817 (λ); Danieli et al., ParaRNN, arXiv 2510.21450.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from rnnjax._unroll.arguments import Masks, StepInput, select, timed_step
from rnnjax._unroll.recurrence import diagonals_of, matrices_of, solve_recurrence
from rnnjax._unroll.scan import unroll_scan
from rnnjax.cell import Cell, PyTree, batch_shape_of, flat, unflat

T = TypeVar("T")


class NotConverged(ArithmeticError):
    """Newton's method did not reach its tolerance; the message has the estimate of the error."""


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Options of the engine that solves all time steps at once by Newton's method; `engine="parallel"` has these.

    Attributes:
      tolerance: the iteration ends once the next correction of every row is at most this times max(1, max |h|) of that
        row; it has converged if so is the estimate. `None` for ε^(2/3) of the carry's dtype: 4e-11 in float64, 2e-5 in
        float32.
      iterations: the most corrections.
      damping: in 0..1; J is multiplied by 1 - damping in the corrections, which keeps them small where products of J
        grow. 1 is fixed-point iteration, h_t <- f(h_{t-1}). The solution is the same, after more iterations.
      jacobian: "full" for Newton's method, or "diagonal" for corrections with the diagonal of J alone: each is cheaper
        (S² in place of S³ operations per step), more are needed. Diagonal and damped corrections end once they are at
        most √tolerance: the last corrections, the estimate and the derivatives always use the full J, T S² numbers
        per row of S states; `chunk` of `unroll` limits that memory.
      above: what happens where the tolerance is not met: "raise" an error, run the "scan", or return the "value". An
        error comes from a callback to Python, which `jax.export` does not export: choose one of the others there.

    Example:

      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GRU(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, ys = rnnjax.unroll(cell, params, jnp.ones((100, 3)), engine=rnnjax.Parallel(above="scan"))
      >>> ys.shape
      (100, 4)
    """

    tolerance: float | None = None
    iterations: int = 50
    damping: float = 0.0
    jacobian: Literal["full", "diagonal"] = "full"
    above: Literal["raise", "scan", "value"] = "raise"

    def __post_init__(self) -> None:
        number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)  # noqa: E731
        if self.tolerance is not None and not (number(self.tolerance) and 0 < self.tolerance < math.inf):
            raise ValueError(f"tolerance is {self.tolerance!r}; it must be a positive number, such as 1e-6, or None.")
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations!r}; it must be a positive integer.")
        if not (number(self.damping) and 0 <= self.damping <= 1):
            raise ValueError(f"damping is {self.damping!r}; it must be a number in 0..1: 0 is Newton's method.")
        for name, choices in (("jacobian", ("full", "diagonal")), ("above", ("raise", "scan", "value"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(map(repr, choices))}.")

    def tolerance_for(self, dtype: Any) -> float:
        return self.tolerance if self.tolerance is not None else float(jnp.finfo(dtype).eps) ** (2 / 3)


class Reached(NamedTuple):
    """How far the iteration came; of each row, except `iterations`.

    Attributes:
      iterations: how many corrections were added.
      residual: `[*batch]` max |f(h_{t-1}, x_t) - h_t| over time and states; inf where it is NaN.
      estimate: `[*batch]` max |d|, the next correction, plus the effect of rounding errors; inf where it is NaN.
      converged: `[*batch]` whether the estimate is within the tolerance.
    """

    iterations: Array
    residual: Array
    estimate: Array
    converged: Array


class Trajectory(NamedTuple):
    """All states as rows `[T, *batch, S]`, in scan order: before each step (and before its reset), and after it."""

    before: Array
    after: Array


class Problem:
    """One layer over all of time, as a function of its states, in scan order.

    Raises:
      TypeError: the carry is not all of one real floating-point dtype.
    """

    def __init__(self, cell: Cell, params: PyTree, carry: PyTree, xs: Any, masks: Masks):
        batch_shape = batch_shape_of(cell, xs)
        check_real(cell, carry)
        inputs = StepInput(xs, masks.counts, masks.resets)
        self.inputs = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), inputs) if masks.reverse else inputs
        self.like, self.batch_ndim, self.steps = carry, len(batch_shape), xs.shape[0]
        self.first = flat(carry, self.batch_ndim)
        self._step = jax.vmap(timed_step(cell, params, batch_shape))

    def run(self, before: Array) -> tuple[Array, PyTree]:
        """`(after, ys)` of every step, from the states before it."""
        carry, ys = self._step(unflat(before, self.like, self.batch_ndim), self.inputs)
        return flat(carry, self.batch_ndim + 1), ys

    def step(self, before: Array) -> Array:
        return self.run(before)[0]

    def shifted(self, after: Array) -> Array:
        """The states before each step."""
        return jnp.concatenate([self.first[None], after[:-1]])

    def guess(self) -> Array:
        """The states after each step, if the carry before it were the first."""
        return self.step(jnp.broadcast_to(self.first, (self.steps, *self.first.shape)))

    def tree(self, rows: Array) -> PyTree:
        return unflat(rows, self.like, self.batch_ndim)


def is_real(carry: PyTree) -> bool:
    """Whether all leaves have one real floating-point dtype."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(carry)}
    return len(dtypes) == 1 and all([jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes])


def check_real(cell: Cell, carry: PyTree) -> None:
    """Raises TypeError unless `is_real`."""
    if not is_real(carry):
        dtypes = ", ".join([str(leaf.dtype) for leaf in jax.tree.leaves(carry)])
        raise TypeError(
            f"the carry of {cell!r} is {dtypes}; Newton's method needs all of it in one real floating-point dtype: use "
            'engine="scan", or write complex states as two real ones.'
        )


def corrected(problem: Problem, parallel: Parallel, after: Array) -> tuple[Array, Array]:
    """`(r, d)` `[T, *batch, S]`: the residual of the states, and the correction with damping and `jacobian`."""
    new, push = jax.linearize(problem.step, problem.shifted(after))
    residual = new - after
    a = (diagonals_of if parallel.jacobian == "diagonal" else matrices_of)(push, residual)
    if parallel.damping:
        counts, less = problem.inputs.counts, jnp.asarray(1 - parallel.damping, a.dtype)
        held = less if counts is None else jnp.where(counts, less, 1)  # what a masked step holds is not damped
        a = a * jnp.reshape(held, held.shape + (1,) * (a.ndim - held.ndim) * bool(held.ndim))
    return residual, solve_recurrence(a, residual, problem.inputs.resets)


def rounding(problem: Problem, after: Array) -> Array:
    """`[T, *batch, S]`: what a rounding error in every state, of random sign, becomes over the steps, to first order.

    The residual does not show it: evaluated alike, f(h_{t-1}) - h_t may be zero to the bit.
    """
    new, push = jax.linearize(problem.step, problem.shifted(after))
    signs = 2 * jax.random.bernoulli(jax.random.key(0), shape=after.shape).astype(after.dtype) - 1
    errors = signs * jnp.abs(after) * float(jnp.finfo(after.dtype).eps)
    counts = problem.inputs.counts
    errors = errors if counts is None else select(counts, errors, jnp.zeros_like(errors))
    return solve_recurrence(matrices_of(push, new), errors, problem.inputs.resets)


def size(rows: Array) -> Array:
    """`[*batch]` the largest absolute value; inf for NaN, which XLA's maximum may drop (jaxlib 0.10, CPU)."""
    known = jnp.isfinite(rows).all((0, -1))
    return jnp.where(known, jnp.abs(rows).max((0, -1)), jnp.inf)


_MOST_GROWTH = 100.0
"""By how much a correction may exceed all states: one that is larger, or not finite, tells nothing but that J grows."""


def _is_of_use(after: Array, residual: Array, d: Array) -> Array:
    """`[T, *batch, 1]` where to add d; elsewhere it is fixed-point iteration, h_t <- f(h_{t-1}), that goes on."""
    limit = _MOST_GROWTH * jnp.maximum(jnp.maximum(size(after), size(residual)), 1)
    return jnp.isfinite(d).all(-1, keepdims=True) & (jnp.abs(d) <= limit[..., None]).all(-1, keepdims=True)


State = tuple[Array, Array, Array, Array]
"""The number of corrections so far, the states, their residual and their next correction."""


def iterate(problem: Problem, parallel: Parallel, after: Array) -> tuple[Array, Reached]:
    """Corrects the states until the tolerance is met: by damped or diagonal corrections first, to √tolerance."""
    tolerance = parallel.tolerance_for(after.dtype)
    newton = dataclasses.replace(parallel, jacobian="full", damping=0.0)

    def met(after: Array, estimate: Array, tolerance: float) -> Array:
        return (estimate <= tolerance * jnp.maximum(size(after), 1)) & jnp.isfinite(estimate)

    def stage(parallel: Parallel, tolerance: float, count: Array, after: Array) -> State:
        def go_on(state: State) -> Array:
            count, after, _, d = state
            return ~met(after, size(d), tolerance).all() & (count < parallel.iterations)

        def correct(state: State) -> State:
            count, after, residual, d = state
            after = after + jnp.where(_is_of_use(after, residual, d), d, residual)
            return (count + 1, after, *corrected(problem, parallel, after))

        unknown = jnp.full_like(after, jnp.inf), jnp.zeros_like(after)  # adds nothing, and is not met
        count, after, residual, d = lax.while_loop(go_on, correct, (count - 1, after, unknown[1], unknown[0]))
        return count, after, residual, d

    count = jnp.zeros((), after.dtype)
    if newton != parallel:
        count, after, _, _ = stage(parallel, tolerance**0.5, count, after)
    count, after, residual, d = stage(newton, tolerance, count, after)
    estimate = size(d) + size(rounding(problem, after))
    return after, Reached(count, size(residual), estimate, met(after, estimate, tolerance))


def solve(
    problem: Problem, parallel: Parallel, instead: Callable[[], Array] | None = None
) -> tuple[Trajectory, Reached]:
    """The trajectory with its derivatives, from `iterate` or, if that does not converge, from `instead`."""

    def equations(given: Trajectory) -> Trajectory:
        return Trajectory(given.before - problem.shifted(given.after), given.after - problem.step(given.before))

    def find(_: Any, guess: Trajectory) -> tuple[Trajectory, PyTree]:
        after, reached = iterate(problem, parallel, guess.after)
        if instead is not None:
            after = lax.cond(reached.converged.all(), lambda: after, instead)
        elif parallel.above == "raise":
            after = jnp.where(_raising(parallel, reached), after, jnp.nan)
        numbers = jax.tree.map(lambda leaf: leaf.astype(after.dtype), reached)  # whose tangents are zeros
        return Trajectory(problem.shifted(after), after), numbers

    def solve_tangents(push: Callable[[Trajectory], Trajectory], right: Trajectory) -> Trajectory:
        """(δb, δh) with δb_t - δh_{t-1} = right.before and δh_t - J_t δb_t = right.after."""
        pushed = lambda v: -push(Trajectory(v, jnp.zeros_like(v))).after  # noqa: E731
        a = matrices_of(pushed, right.after)
        after = solve_recurrence(a, pushed(right.before) + right.after, problem.inputs.resets)
        moved = jnp.concatenate([jnp.zeros_like(after[:1]), after[:-1]])
        return Trajectory(moved + right.before, after)

    guess = problem.guess()
    found, numbers = lax.custom_root(
        equations, lax.stop_gradient(Trajectory(problem.shifted(guess), guess)), find, solve_tangents, has_aux=True
    )
    return found, numbers._replace(iterations=numbers.iterations.astype(int), converged=numbers.converged > 0)


def unroll_newton(
    parallel: Parallel, cell: Cell, params: PyTree, carry: PyTree, xs: Array, masks: Masks
) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """`(carry, (ys, carries))`."""
    problem = Problem(cell, params, carry, xs, masks)

    def by_scan() -> Array:
        every = unroll_scan(cell, params, carry, xs, masks)[1][1]
        rows = flat(every, problem.batch_ndim + 1)
        return jnp.flip(rows, 0) if masks.reverse else rows

    found, _ = solve(problem, parallel, by_scan if parallel.above == "scan" else None)
    ys = problem.run(found.before)[1]
    last, every = problem.tree(found.after[-1]), (ys, problem.tree(found.after))
    return last, jax.tree.map(lambda leaf: jnp.flip(leaf, 0), every) if masks.reverse else every


def named_error(parallel: Parallel, run: Callable[[], T]) -> T:
    """`run()`, with `NotConverged` in place of the error with its text that a compiled program raises.

    If it may raise one, this waits until the results are there, since JAX computes them after a call has returned.
    """
    try:
        results = run()
        return _waited(results) if parallel.above == "raise" else results
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"NotConverged: (.*)", str(error))
        if found is None:
            raise
        raise NotConverged(found[1]) from None


def _waited(results: T) -> T:
    traced = any([isinstance(leaf, Tracer) for leaf in jax.tree.leaves(results)])
    return results if traced else jax.block_until_ready(results)


def _raising(parallel: Parallel, reached: Reached) -> Array:
    """True; raises `NotConverged` on the host if a row has not converged."""

    def check(converged: Any, estimate: Any, iterations: Any) -> np.ndarray:
        converged, estimate = np.asarray(converged), np.asarray(estimate)
        if not converged.all():
            raise NotConverged(
                f"{parallel} did not converge: after {int(np.max(iterations))} iterations, the estimated error of "
                f"{int((~converged).sum())} of {converged.size} rows is above the tolerance, with up to "
                f"{float(np.max(estimate)):.3g}. The network may be chaotic (rnnjax.gradients.leading_exponent above "
                '0); use engine="auto", or choose above="scan" or "value".'
            )
        return np.asarray(True)

    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    return jax.pure_callback(check, flag, *reached[3:1:-1], reached.iterations, vmap_method="sequential")

"""The search for fixed points: from every start at once, steps that lower q(h) = ½‖F(h) - h‖².

    d = -B r,      r = F(h) - h,      B = (AᵀA + μI)⁻¹ Aᵀ,      A = J - I

With this B, d is the damped least-squares step of Levenberg (1944) and Marquardt (1963): with μ near 0 Newton's step,
with a large μ a short step down the gradient Aᵀr of q. More steps follow from the same Jacobian, for one evaluation of
F each: a change of rank one makes B map the last change of r to the last d (Broyden's first method, Mathematics of
Computation 19 (1965), 577), also if the step did not lower q and was not taken. After eight failures in a row the
Jacobian is evaluated anew, and μ falls; if none of its steps was taken, μ grows instead. So the search ends at a fixed
point, where no step from a new Jacobian lowers q (at multiple roots Broyden's steps alone would stop too early), or at
a stationary point of q.

All of it is one program without LAPACK: the least-squares problem is solved by Householder reflections.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rnnjax.cell import Cell, PyTree
from rnnjax.dynamics.problem import map_of, with_jacobian

FACTOR, SOME = 8.0, 1e-3
"""Of μ after good and bad Jacobians, and its value, relative to ‖A‖², from which it grows."""

FAILURES, ENOUGH = 8, 0.9
"""Steps in a row after which a Jacobian is given up; a step fails unless it multiplies q by less than `ENOUGH`."""


class Ends(NamedTuple):
    """Where the searches ended.

    Attributes:
      rows: `[N, S]`.
      residual: `[N, S]`, F(h) - h.
      finished: `[N]`, False if the iterations ran out.
      evaluations: `[N]` integers, evaluations of one step that the start took; a Jacobian counts as S of them.
    """

    rows: np.ndarray
    residual: np.ndarray
    finished: np.ndarray
    evaluations: np.ndarray

    @property
    def speed(self) -> np.ndarray:
        """`[N]`, q."""
        return (self.residual**2).sum(-1) / 2


def tolerance_of(dtype: np.dtype) -> float:
    """The largest q of a fixed point of length 1: 1.6e-24 in float64, 2e-11 in float32."""
    return float(np.finfo(dtype).eps ** 1.5 / 2)


def is_fixed(ends: Ends, tolerance: float) -> np.ndarray:
    """`[N]`, whether q <= tolerance (1 + ‖h‖²)."""
    return ends.speed <= tolerance * (1 + (ends.rows**2).sum(-1))


def search(
    cell: Cell,
    cycle: int,
    params: PyTree,
    x: Array,
    rows: np.ndarray,
    tolerance: float,
    iterations: int,
    progress: Callable[[int, int], None] | None = None,
) -> Ends:
    """Searches from `rows` `[N, S]`, in slices of one size, so that there is one program."""
    count, size = rows.shape
    most = min(512, max(8, 2**18 // size**2))  # the matrices of a slice fit a core's cache
    width = min(most, 1 << (count - 1).bit_length())
    found: list[Ends] = []
    for first in range(0, count, width):
        own = rows[first : first + width]
        padded = np.concatenate([own, np.repeat(own[:1], width - len(own), axis=0)])
        ended = _search(cell, cycle, params, x, jnp.asarray(padded), tolerance, iterations)
        found.append(Ends(*(np.asarray(leaf)[: len(own)] for leaf in ended)))
        if progress is not None:
            progress(min(first + width, count), count)
    return Ends(*(np.concatenate(leaves) for leaves in zip(*found, strict=True)))


class _State(NamedTuple):
    h: Array
    r: Array
    a: Array
    damping: Array  # μ / ‖A‖²
    done: Array
    steps: Array
    evaluations: Array


class _Steps(NamedTuple):
    """What changes in the steps from one Jacobian."""

    h: Array
    r: Array
    inverse: Array  # B
    longest: Array  # max |d_i| of all steps
    failures: Array  # in a row
    steps: Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def _search(
    cell: Cell, cycle: int, params: PyTree, x: Array, rows: Array, tolerance: float, iterations: int
) -> tuple[Array, Array, Array, Array]:
    function = map_of(cell, cycle, params, x)
    eps, size, zero = float(jnp.finfo(rows.dtype).eps), rows.shape[-1], jnp.zeros((), jnp.int32)

    def residual(h: Array) -> Array:
        return function(h) - h

    def merit(h: Array, r: Array) -> Array:
        """2 q, with what rounding leaves of h: else r would vanish where h is so large that F(h) rounds to h."""
        rounded = eps**2 * jnp.exp2(jnp.ceil(jnp.log2(1 + (h**2).sum())))  # the same after a short step
        return (r**2).sum() + rounded

    def stationary(a: Array, r: Array) -> Array:
        return ((a.T @ r) ** 2).sum() <= eps**1.25 * (r**2).sum()

    def one(h: Array) -> tuple[Array, Array, Array, Array]:
        r, a = with_jacobian(residual, h)
        done = ~jnp.isfinite(r).all() | stationary(a, r)
        start = _State(h, r, a, jnp.asarray(eps**2, h.dtype), done, zero, zero + cycle * (1 + size))
        end = lax.while_loop(lambda s: ~s.done & (s.steps < iterations), improve, start)
        return end.h, end.r, end.done, end.evaluations

    def improve(s: _State) -> _State:
        inverse = least_squares(s.a, jnp.eye(size, dtype=s.h.dtype), jnp.sqrt(s.damping * (s.a**2).sum()))
        first = _Steps(s.h, s.r, inverse, jnp.zeros((), s.h.dtype), zero, s.steps)
        end = lax.while_loop(lambda e: (e.failures < FAILURES) & (e.steps < iterations), step, first)
        before, after = merit(s.h, s.r), merit(end.h, end.r)
        better = after < before
        fixed = (end.r**2).sum() <= 2 * tolerance * (1 + (end.h**2).sum())
        done = (fixed & ~(after < ENOUGH * before)) | (end.longest <= eps * (1 + jnp.abs(end.h).max()))
        damping = jnp.where(better, jnp.maximum(s.damping / FACTOR, eps**2), jnp.maximum(s.damping * FACTOR, SOME))
        over = end.steps >= iterations
        anew = better & ~(done | over)
        a = jnp.where(anew, with_jacobian(residual, end.h)[1], s.a)
        evaluations = s.evaluations + cycle * (end.steps - s.steps + jnp.where(anew, size, 0))
        return _State(end.h, end.r, a, damping, done | (stationary(a, end.r) & ~fixed & ~over), end.steps, evaluations)

    def step(e: _Steps) -> _Steps:
        d = -e.inverse @ e.r
        h, r = e.h + d, residual(e.h + d)
        change = e.inverse @ (r - e.r)
        inverse = e.inverse + jnp.outer(d - change, d @ e.inverse) / (d @ change)
        inverse = jnp.where(jnp.isfinite(inverse).all(), inverse, e.inverse)
        before, after = merit(e.h, e.r), merit(h, r)
        failures = jnp.where(after < ENOUGH * before, 0, e.failures + 1)
        h, r = (jnp.where(after < before, new, old) for new, old in ((h, e.h), (r, e.r)))
        longest = jnp.where(jnp.isfinite(d).all(), jnp.abs(d).max(), jnp.inf)  # XLA's maximum may drop NaN on a CPU
        return _Steps(h, r, inverse, jnp.maximum(e.longest, longest), failures, e.steps + 1)

    return jax.vmap(one)(rows)


def least_squares(a: Array, b: Array, damping: Array) -> Array:
    """argmin ‖a d - b‖² + ‖damping d‖² for square `a` and `b` `[S, S]`, by Householder reflections of [a; damping I].

    Where the column of a singular matrix vanishes, the result is not finite.
    """
    size = a.shape[0]
    rows = jnp.arange(2 * size, dtype=jnp.int32)
    a = jnp.concatenate([a, damping * jnp.eye(size, dtype=a.dtype)])
    b = jnp.concatenate([b, jnp.zeros_like(b)])

    def reflect(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = state
        column = jnp.where(rows >= j, a[:, j], 0)
        length = jnp.sqrt((column**2).sum())
        v = column.at[j].add(jnp.where(column[j] < 0, -length, length))
        square = (v**2).sum()
        w = v * jnp.where(square > 0, 2 / square, 0)
        return a - jnp.outer(w, v @ a), b - jnp.outer(w, v @ b)

    def substitute(i: Array, d: Array) -> Array:
        j = size - 1 - i
        return d.at[j].set((b[j] - a[j] @ d) / a[j, j])

    a, b = lax.fori_loop(0, size, reflect, (a, b))
    return lax.fori_loop(0, size, substitute, jnp.zeros_like(b[:size]))

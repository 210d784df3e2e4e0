"""The search for fixed points: damped least-squares steps on q(h) = ½‖F(h) - h‖² from every start at once.

    d = argmin ‖r + A d‖² + μ ‖d‖²,      r = F(h) - h,   A = J - I

With μ near 0 this is Newton's step, and where A is singular the shortest of the least-squares steps; with a large μ it
is a short step down the gradient Aᵀr of q. A step that does not lower q is not taken, and μ grows; after a step that
lowers q as predicted it shrinks, so the search ends with Newton's quadratic convergence, and never leaves a local
minimum of q (Levenberg 1944, Marquardt 1963; the rule for μ by the ratio of the actual decrease to the predicted one).

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

FASTER, SLOWER, SOME = 1 / 30, 8.0, 1e-3
"""Factors of μ after good and bad steps, and its value, relative to ‖A‖², from which it grows."""


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
        ended = _search(cell, cycle, iterations, params, x, jnp.asarray(padded), tolerance)
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


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _search(
    cell: Cell, cycle: int, iterations: int, params: PyTree, x: Array, rows: Array, tolerance: float
) -> tuple[Array, Array, Array, Array]:
    function = map_of(cell, cycle, params, x)
    eps, size = float(jnp.finfo(rows.dtype).eps), rows.shape[-1]

    def at(h: Array) -> tuple[Array, Array]:
        return with_jacobian(lambda h: function(h) - h, h)

    def one(h: Array) -> tuple[Array, Array, Array, Array]:
        r, a = at(h)
        count = jnp.asarray(cycle * (1 + size), jnp.int32)
        no = jnp.zeros((), jnp.int32)
        start = _State(h, r, a, jnp.asarray(eps**2, h.dtype), ~jnp.isfinite(r).all(), no, count)
        end = lax.while_loop(lambda s: ~s.done & (s.steps < iterations), improve, start)
        return end.h, end.r, end.done, end.evaluations

    def improve(s: _State) -> _State:
        scale = (s.a**2).sum()
        d = least_squares(s.a, -s.r, jnp.sqrt(s.damping * scale))
        tried = s.h + d
        r, a = at(tried)
        before, after = (s.r**2).sum(), (r**2).sum()
        predicted = before - ((s.r + s.a @ d) ** 2).sum()
        ratio = (before - after) / predicted
        better = jnp.isfinite(after) & (after < before) & (ratio > 1e-4)
        calm, growing = jnp.maximum(s.damping * FASTER, eps**2), jnp.maximum(s.damping * SLOWER, SOME)
        damping = jnp.where(better, jnp.where(ratio > 0.75, calm, s.damping), growing)
        damping = jnp.where(better & (ratio < 0.25), growing, damping)

        fixed = before <= 2 * tolerance * (1 + (s.h**2).sum())
        tiny = jnp.abs(d).max() <= eps * (1 + jnp.abs(s.h).max())
        flat = ((s.a.T @ s.r) ** 2).sum() <= eps**1.25 * before
        done = (~better & (fixed | tiny)) | (flat & ~fixed) | (before == 0)
        h, r, a = (jnp.where(better, new, old) for new, old in ((tried, s.h), (r, s.r), (a, s.a)))
        count = s.evaluations + cycle * (1 + size * better.astype(jnp.int32))
        return _State(h, r, a, damping, done, s.steps + 1, count)

    return jax.vmap(one)(rows)


def least_squares(a: Array, b: Array, damping: Array) -> Array:
    """argmin ‖a d - b‖² + ‖damping d‖² for a square `a` `[S, S]`, by Householder reflections of [a; damping I].

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
        v, w = v, v * jnp.where(square > 0, 2 / square, 0)
        return a - w[:, None] * (v @ a)[None, :], b - w * (v @ b)

    def substitute(i: Array, d: Array) -> Array:
        j = size - 1 - i
        return d.at[j].set((b[j] - a[j] @ d) / a[j, j])

    a, b = lax.fori_loop(0, size, reflect, (a, b))
    return lax.fori_loop(0, size, substitute, jnp.zeros_like(b[:size]))

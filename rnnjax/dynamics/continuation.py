"""Follows fixed points while a parameter changes, and finds where they are born, meet, and lose stability.

A branch is a curve u(s) = (h(s), p(s)) on which F(h, p) = h. Each step predicts along the tangent and corrects with
Newton's method at right angles to it (pseudo-arclength: Keller 1977), so a branch goes on around folds, where p turns.
Between two points of a branch, a bifurcation is where an eigenvalue λ of J passes the unit circle:

    λ = 1    fold, where p turns; else a branching (pitchfork, transcritical)
    λ = -1   flip: a cycle of twice the period branches off
    |λ| = 1, complex: Neimark-Sacker: a closed curve branches off

It is located by bisection along the branch, and a branching, where the equations are singular, by interpolation from
both sides. The equations are JAX's, and the algebra NumPy's.

Reference: Kuznetsov, Elements of applied bifurcation theory, 3rd edition (2004), sections 4 and 10.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import closes_over_arrays
from rnnjax.cell import Cell, PyTree, unflat
from rnnjax.dynamics.problem import checked, checked_count, checked_rows, eigenvalues_of, map_of, with_jacobian
from rnnjax.dynamics.solve import is_fixed, search, tolerance_of

FOLD, BRANCHING, FLIP, NEIMARK_SACKER = "fold", "branching", "flip", "neimark-sacker"
CROSSED = 1e-12  # how far outside of the unit circle an eigenvalue counts, so that one that stays on it does not


class Bifurcation(NamedTuple):
    """A point of a branch at which an eigenvalue is on the unit circle.

    Attributes:
      kind: "fold", "branching", "flip" or "neimark-sacker".
      value: the parameter.
      carry: one carry.
      eigenvalues: `[S]` complex, largest modulus first.
    """

    kind: str
    value: float
    carry: PyTree
    eigenvalues: np.ndarray


class Branch(NamedTuple):
    """A curve of fixed points, in order; M points.

    Attributes:
      values: `[M]`, the parameter.
      carry: the carry's tree, leaves `[M, ...]`.
      eigenvalues: `[M, S]` complex, largest modulus first.
      stable: `[M]` booleans, whether all of them are inside the unit circle.
      bifurcations: those located on the branch, in its order.
      closed: whether the last point is the first one.
    """

    values: np.ndarray
    carry: PyTree
    eigenvalues: np.ndarray
    stable: np.ndarray
    bifurcations: tuple[Bifurcation, ...]
    closed: bool


def continue_in(
    cell: Cell,
    params_of: Callable[[Array], PyTree],
    x: ArrayLike,
    starts: PyTree,
    value: float,
    *,
    between: tuple[float, float],
    step: float = 0.02,
    cycle: int = 1,
    switch: bool = True,
    points: int = 2000,
) -> tuple[Branch, ...]:
    """The branches of fixed points through given ones, followed both ways in one parameter.

    Use float64 (`jax_enable_x64`): bifurcations are then located to some 1e-10, in float32 to 1e-3.

    Args:
      cell, x: as in `rnnjax.dynamics.fixed_points`.
      params_of: the parameters as a function of the parameter p that changes, which JAX can differentiate.
      starts: fixed points at `value` with a leading axis, such as `fixed_points(...).carry`; they are corrected first,
        and those that are no fixed points, or are on a branch already, are left out.
      value: p at the starts.
      between: the lowest and highest p; a branch ends there.
      step: the longest step along a branch, where a length is ‖(Δh, Δp / (highest - lowest p))‖. Small features need
        small steps: two eigenvalues that leave and enter within one step are missed.
      cycle: k, for cycles of k steps: a flip of F is a branching of F².
      switch: whether to follow the branches that leave at branchings too.
      points: the most points of one branch.
    Returns:
      A tuple of `Branch`, those of the starts first. Not for use under `jit`.
    Raises:
      TypeError, ValueError: as `fixed_points`; also if `between` is no interval around `value`, or no start is a fixed
        point.

    Example: the origin of h' = tanh(p h) loses its stability at p = 1, where two others branch off.

      >>> import jax.numpy as jnp, rnnjax
      >>> def params_of(p):
      ...     return rnnjax.ElmanParams(jnp.zeros((1, 1)), p[None, None], jnp.zeros(1))
      >>> with jax.enable_x64(True):
      ...     start = jnp.zeros((1, 1))
      ...     branches = continue_in(rnnjax.Elman(1), params_of, jnp.zeros(1), start, 0.5, between=(0.5, 2.0))
      >>> [(found.kind, round(found.value, 6)) for found in branches[0].bifurcations], len(branches)
      ([('branching', 1.0)], 2)
    """
    low, high = map(float, between)
    if not (np.isfinite([low, high]).all() and low < high and low <= value <= high):
        raise ValueError(f"`between` is {between}; give (lowest, highest) with lowest <= `value` = {value} <= highest.")
    if not 0 < step < np.inf:
        raise ValueError(f"`step` is {step!r}; give a positive length, such as 0.02.")
    dtype = jax.tree.leaves(jax.eval_shape(params_of, jnp.asarray(value, float)))[0].dtype
    params = params_of(jnp.asarray(value, dtype))
    cell, x, like = checked(cell, params, x, "continue_in")
    rows = checked_rows("starts", starts, like, leading=True)
    cycle, points = checked_count("cycle", cycle), checked_count("points", points)
    tolerance = tolerance_of(rows.dtype)
    ends = search(cell, cycle, params, x, rows, tolerance, 500)
    fixed = is_fixed(ends, tolerance)
    if not fixed.any():
        raise ValueError(f"none of `starts` is, or leads to, a fixed point at `value` = {value}; find some first.")

    apart = closes_over_arrays(jax.make_jaxpr(params_of)(jnp.asarray(value, dtype)))  # may be others at the next call
    parameters = (lambda p: params_of(p)) if apart else params_of
    curve = _Curve(cell, cycle, parameters, x, rows.dtype, low, high, step, points)
    found: list[Branch] = []
    traced: list[np.ndarray] = []
    todo = [np.append(row, curve.scaled(value)) for row in ends.rows[fixed]]
    ways: list[np.ndarray | None] = [None] * len(todo)
    while todo:
        u, way = todo.pop(0), ways.pop(0)
        if any(curve.has(each, u) for each in traced):
            continue
        us, closed = curve.both_ways(u, way)
        traced.append(us)
        bifurcations = []
        eigenvalues = np.array([eigenvalues_of(curve.jacobian(each)) for each in us])
        for kind, at in curve.bifurcations(us, eigenvalues):
            there = eigenvalues_of(curve.jacobian(at))
            bifurcations.append(Bifurcation(kind, curve.value(at), unflat(at[:-1], like), there))
            for start, tangent in curve.leaving(at) if switch and kind == BRANCHING else ():
                todo.append(start)
                ways.append(tangent)
        stable = np.abs(eigenvalues).max(-1) < 1
        values = np.array([curve.value(each) for each in us])
        found.append(Branch(values, unflat(us[:, :-1], like), eigenvalues, stable, tuple(bifurcations), closed))
    return tuple(found)


def _outside(values: np.ndarray) -> np.ndarray:
    """How many eigenvalues are beyond 1, beyond -1, and complex and outside of the unit circle."""
    real = np.imag(values) == 0
    beyond = [real & (np.real(values) > 1 + CROSSED), real & (np.real(values) < -1 - CROSSED)]
    return np.array([each.sum() for each in (*beyond, ~real & (np.abs(values) > 1 + CROSSED))])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _equations(
    cell: Cell, cycle: int, params_of: Callable[[Array], PyTree], x: Array, h: Array, value: Array
) -> tuple[Array, Array, Array]:
    """F(h) - h, J, and ∂F/∂p."""
    after, jacobian = with_jacobian(map_of(cell, cycle, params_of(value), x), h)
    by_value = jax.jvp(lambda p: map_of(cell, cycle, params_of(p), x)(h), (value,), (jnp.ones_like(value),))[1]
    return after - h, jacobian, by_value


class _Curve(NamedTuple):
    """The equation of a branch, in u = (h, π) with p = low + (high - low) π."""

    cell: Cell
    cycle: int
    params_of: Callable[[Array], PyTree]
    x: Array
    dtype: Any
    low: float
    high: float
    step: float
    points: int

    def scaled(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def value(self, u: np.ndarray) -> float:
        return float(self.low + (self.high - self.low) * u[-1])

    def at(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The residual `[S]` and its derivative `[S, S + 1]`."""
        value = jnp.asarray(self.value(u), self.dtype)
        found = _equations(self.cell, self.cycle, self.params_of, self.x, jnp.asarray(u[:-1], self.dtype), value)
        r, jacobian, by_value = (np.asarray(part, float) for part in found)
        return r, np.column_stack([jacobian - np.eye(len(r)), by_value * (self.high - self.low)])

    def jacobian(self, u: np.ndarray) -> np.ndarray:
        return self.at(u)[1][:, :-1] + np.eye(len(u) - 1)

    def corrected(self, guess: np.ndarray, tangent: np.ndarray) -> np.ndarray | None:
        """The point of the curve in the plane through `guess` at right angles to `tangent`, or None."""
        u, eps, last = guess, float(np.finfo(self.dtype).eps), np.inf
        for _ in range(12):
            r, matrix = self.at(u)
            off, matrix = np.append(r, tangent @ (u - guess)), np.vstack([matrix, tangent])
            if np.abs(off).max() <= eps * (1 + np.abs(u).max()):  # near a branching the next change would be noise
                return u
            try:
                change = np.linalg.solve(matrix, -off)
            except np.linalg.LinAlgError:
                change = np.linalg.lstsq(matrix, -off)[0]
            length = np.linalg.norm(change)
            if not np.isfinite(length):
                return None
            u = u + change
            if length <= 4 * eps * (1 + np.linalg.norm(u)) or (length >= last / 2 and last <= eps**0.6):
                return u
            last = length
        return u if last <= eps**0.6 else None

    def tangent(self, u: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
        """The unit tangent at a point, in the direction of `like`."""
        matrix = self.at(u)[1]
        if like is None:
            return np.linalg.svd(matrix)[2][-1]
        try:
            found = np.linalg.solve(np.vstack([matrix, like]), np.append(np.zeros(len(u) - 1), 1.0))
        except np.linalg.LinAlgError:
            return like
        return found / np.linalg.norm(found)

    def both_ways(self, u: np.ndarray, way: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """The points of the branch through `u` `[M, S + 1]`, and whether it is closed."""
        way = self.tangent(u, way)
        forwards, closed = self.follow(u, way)
        if closed:
            return np.array(forwards), True
        backwards, _ = self.follow(u, -way)
        return np.array([*backwards[:0:-1], *forwards]), False

    def follow(self, u: np.ndarray, way: np.ndarray) -> tuple[list[np.ndarray], bool]:
        found, first, size = [u], way, self.step
        while len(found) < self.points:
            new = self.corrected(found[-1] + size * way, way)
            smallest = size <= self.step / 2**12
            if new is not None:
                ahead = self.tangent(new, way)
                astray = np.linalg.norm(new - found[-1] - size * way) > size / 2 or ahead @ way < 0.9
            if new is None or (astray and not smallest):
                if smallest:
                    break
                size /= 2
                continue
            if not 0 <= new[-1] <= 1:
                end = self.at_edge(found[-1], new)
                found += [end] if end is not None else []
                break
            found.append(new)
            if len(found) > 4 and np.linalg.norm(new - u) < 0.75 * self.step and ahead @ first > 0.8:
                return [*found, u], True
            way, size = ahead, min(self.step, 1.5 * size)
        return found, False

    def at_edge(self, inside: np.ndarray, outside: np.ndarray) -> np.ndarray | None:
        """The point between two others where p is at the limit that `outside` exceeds."""
        limit = 0.0 if outside[-1] < 0 else 1.0
        share = (limit - inside[-1]) / (outside[-1] - inside[-1])
        if share < 1e-9:
            return None
        across = np.append(np.zeros(len(inside) - 1), 1.0)
        end = self.corrected(inside + share * (outside - inside), across)
        return None if end is None else np.append(end[:-1], limit)

    def has(self, us: np.ndarray, u: np.ndarray) -> bool:
        """Whether a point of the curve is on the branch with the points `us`."""
        if len(us) < 2:
            return False
        along = np.diff(us, axis=0)
        square = np.maximum((along**2).sum(-1), 1e-300)
        share = np.clip(((u - us[:-1]) * along).sum(-1) / square, 0, 1)
        distance = np.linalg.norm(us[:-1] + share[:, None] * along - u, axis=-1)
        i = int(distance.argmin())
        if distance[i] > self.step:
            return False
        on = self.corrected(us[i] + share[i] * along[i], along[i] / square[i] ** 0.5)
        near = np.finfo(self.dtype).eps ** 0.375
        return on is not None and bool(np.linalg.norm(on - u) <= near * (1 + np.linalg.norm(u)))

    def bifurcations(self, us: np.ndarray, eigenvalues: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The kind and place of each bifurcation on the branch with the points `us`."""
        counts = [_outside(values) for values in eigenvalues]
        for one, other, before, after in zip(us, us[1:], counts, counts[1:], strict=False):
            length = float(np.linalg.norm(other - one))
            if length == 0:
                continue
            way, left = (other - one) / length, 0.0
            for _ in range(len(one)):  # no more than S eigenvalues pass in one step
                if (before == after).all():
                    break
                left, u, past = self.change(one, way, left, length, before, other, after)
                kind = self.kind_of(u, one, way, left, length, past - before)
                if kind is not None:
                    yield kind, self.between_sides(u, one, way, left, length) if kind == BRANCHING else u
                before = past

    def change(
        self,
        one: np.ndarray,
        way: np.ndarray,
        left: float,
        right: float,
        before: np.ndarray,
        other: np.ndarray,
        after: np.ndarray,
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Where the counts first differ from `before`: the distance, the point, and the counts after it."""
        low, high, u, past = left, right, other, after
        while high - low > 2e-14 * max(1.0, float(np.linalg.norm(one))):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            tried = self.corrected(one + middle * way, way)
            counts = before if tried is None else _outside(eigenvalues_of(self.jacobian(tried)))
            if tried is not None and (counts != before).any():
                high, u, past = middle, tried, counts
            else:
                low = middle
        return high, u, past

    def kind_of(
        self, u: np.ndarray, one: np.ndarray, way: np.ndarray, place: float, length: float, change: np.ndarray
    ) -> str | None:
        """The kind, or None if eigenvalues only met on the real axis outside of the unit circle."""
        values = np.linalg.eigvals(self.jacobian(u))
        near = np.finfo(self.dtype).eps ** 0.25
        if change[0] and np.abs(values - 1).min() <= near:
            sides = [self.corrected(one + (place + side * 1e-3 * length) * way, way) for side in (-1, 1)]
            turns = [self.tangent(side, way)[-1] if side is not None else 0.0 for side in sides]
            return FOLD if turns[0] * turns[1] < 0 else BRANCHING
        if change[1] and np.abs(values + 1).min() <= near:
            return FLIP
        complex_ones = values[values.imag != 0]
        if change[2] and len(complex_ones) and np.abs(np.abs(complex_ones) - 1).min() <= near:
            return NEIMARK_SACKER
        return None

    def between_sides(self, u: np.ndarray, one: np.ndarray, way: np.ndarray, place: float, length: float) -> np.ndarray:
        """A branching, by cubics through points on both sides of `u`: at itself, Newton's steps are noise."""
        apart = np.array([-2.0, -1.0, 1.0, 2.0])
        beside = [self.corrected(one + (place + 0.05 * t * length) * way, way) for t in apart]
        sides = [side for side in beside if side is not None]
        if len(sides) < len(apart):
            return u
        values = [np.linalg.eigvals(self.jacobian(side)) - 1 for side in sides]
        passing = np.polyfit(apart, [each[np.abs(each).argmin()].real for each in values], 3)
        roots = np.roots(passing)
        root = roots[np.abs(roots).argmin()]
        if abs(root) > 0.5 or root.imag != 0:
            return u
        return root.real ** np.arange(3, -1, -1) @ np.polyfit(apart, np.array(sides), 3)

    def leaving(self, at: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Points beside a branching, in the directions in which J - I vanishes, and these directions."""
        _, values, directions = np.linalg.svd(self.at(at)[1][:, :-1])
        for value, direction in zip(values, directions, strict=True):
            if value <= np.finfo(self.dtype).eps ** 0.25:
                for sign in (1, -1):
                    way = sign * np.append(direction, 0.0)
                    u = self.corrected(at + self.step / 2 * way, way)
                    if u is not None and 0 <= u[-1] <= 1 and np.linalg.norm(u - at) < 2 * self.step:
                        yield u, way

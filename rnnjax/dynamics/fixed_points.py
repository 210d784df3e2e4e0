"""Fixed points and cycles of a cell under a constant input: found, merged, classified and certified.

    F(h) = h,   F(h) = carry after one step from h (after k steps, for cycles of k)

The search is one compiled program (`solve.py`); merging, eigenvalues and certificates follow in NumPy.

Reference: Sussillo and Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
networks, Neural Computation 25 (2013), 626. They minimise q = ½‖F(h) - h‖² by descent; here
Newton's and Broyden's steps do.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rnnjax.cell import Cell, PyTree, unflat
from rnnjax.dynamics.certify import certifier
from rnnjax.dynamics.problem import (
    checked,
    checked_count,
    checked_rows,
    eigenvalues_of,
    jacobians_at,
    map_of,
    orbits,
)
from rnnjax.dynamics.solve import Ends, is_fixed, search, tolerance_of

POINT, LINE, SURFACE, SLOW = "point", "line", "surface", "slow"


class FixedPoints(NamedTuple):
    """The N different points that the searches reached, sorted by speed; S numbers in a carry.

    Attributes:
      carry: the carry's tree, leaves `[N, ...]`. Of a cycle, one of its points.
      speed: `[N]`, q = ½‖F(h) - h‖²; at rounding error for a fixed point.
      residual: `[N]`, ‖F(h) - h‖.
      eigenvalues: `[N, S]` complex, of the Jacobian of F, largest modulus first.
      stable: `[N]` booleans, whether all eigenvalues are inside the unit circle, by more than rounding error.
      kind: `[N]` strings: "point", an isolated fixed point; "line" or "surface", a continuum of fixed points, of which
        `carry` is one; "slow", not a fixed point but where the search ended.
      period: `[N]` integers, the least number of steps, a divisor of `cycle`, after which the point returns; 0 if slow.
      certified: `[N]` booleans, whether it is proved that there is exactly one fixed point within `radius`.
      radius, error: `[N]`, in the norm max |h_i|; `error` bounds how far `carry` is from the exact point. NaN if not
        certified.
      why: N strings, why it is not certified, and what a slow point is; empty for a certified point.
      line: for each of the N None, or the carries of the points that were found on a continuum, leaves `[M, ...]`, in
        the order of their first principal component.
      found: `[N]` integers, how many starts ended here.
      arrived: `[starts]` integers, which of the N each start reached; -1 where F was not finite at the start.
      evaluations: `[starts]` integers, evaluations of the step; a Jacobian counts as S of them.
    """

    carry: PyTree
    speed: np.ndarray
    residual: np.ndarray
    eigenvalues: np.ndarray
    stable: np.ndarray
    kind: np.ndarray
    period: np.ndarray
    certified: np.ndarray
    radius: np.ndarray
    error: np.ndarray
    why: tuple[str, ...]
    line: tuple[PyTree | None, ...]
    found: np.ndarray
    arrived: np.ndarray
    evaluations: np.ndarray

    @property
    def index(self) -> np.ndarray:
        """`[N]` integers, the number of eigenvalues outside of the unit circle: 0 for a stable point."""
        return (np.abs(self.eigenvalues) > 1).sum(-1)


def fixed_points(
    cell: Cell,
    params: PyTree,
    x: ArrayLike,
    starts: PyTree,
    *,
    cycle: int = 1,
    tolerance: float | None = None,
    iterations: int = 500,
    certify: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> FixedPoints:
    """The fixed points of a cell under a constant input, or its cycles of `cycle` steps, that are reached from starts.

    From every start, damped Newton steps, and Broyden's steps between them, lower q = ½‖F(h) - h‖² to a fixed point,
    stable or not, or to a local minimum of q, which is a slow point; in strongly chaotic networks many starts end at
    those, so give more starts. Two ends within ε^(3/8) (1 + ‖h‖) of each other are one point: 1.3e-6 in float64,
    2.5e-3 in float32, and 100 times that for slow points. Use float64 (`jax_enable_x64`): float32 knows q to 2e-11
    only, cannot tell slow points from fixed ones below that, and merges points that are close.

    Args:
      cell: a cell with a step, or a `Stack` of such cells; a random wrapper runs without noise.
      params: its parameters.
      x: the input `[D]`, or `[*space, D]`; zeros for an autonomous network.
      starts: carries with a leading axis, leaves `[N, ...]`, such as those along a trajectory with added noise.
      cycle: k; the points of F^k, of which each cycle is returned once. Points of a smaller period are among them.
      tolerance: a point is fixed if q <= tolerance (1 + ‖h‖²); by default 1.6e-24, in float32 2e-11.
      iterations: the most steps from a start, each an evaluation of F^k; Jacobians come on top.
      certify: whether to prove each isolated point by `rnnjax.dynamics.certify`.
      progress: called as `progress(starts done, all starts)` after each slice of the starts.
    Returns:
      `FixedPoints`, arrays of NumPy. Not for use under `jit`.
    Raises:
      TypeError: `cell` is a class or has no single step, the carry is not float32 or float64, or values are traced.
      ValueError: `x` has batch axes, `starts` have no leading axis or do not fit, values are not finite, F is not
        finite at any start, or a count or tolerance is not positive.

    Example: h' = tanh(2 h) has three fixed points; 0 is unstable.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.zeros((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
      >>> starts = jnp.array([[-1.0], [0.1], [0.5], [1.0]])
      >>> found = fixed_points(rnnjax.Elman(1), params, jnp.zeros(1), starts, certify=False)
      >>> sorted(abs(round(float(h), 3)) for h in found.carry[:, 0]), int(found.stable.sum()), int(found.found.sum())
      ([0.0, 0.958, 0.958], 2, 4)
    """
    cell, x, like = checked(cell, params, x, "fixed_points")
    rows = checked_rows("starts", starts, like, leading=True)
    cycle, iterations = checked_count("cycle", cycle), checked_count("iterations", iterations)
    eps = float(np.finfo(rows.dtype).eps)
    tolerance = tolerance_of(rows.dtype) if tolerance is None else tolerance
    if not 0 < tolerance < np.inf:
        raise ValueError(f"`tolerance` is {tolerance!r}; give a positive number, the largest q of a fixed point.")

    look = functools.partial(search, cell, cycle, params, x, tolerance=tolerance, iterations=iterations)
    ends = look(rows, progress=progress)
    known = np.isfinite(ends.speed)
    if not known.any():
        raise ValueError(
            "the step is not finite at any of `starts`: check `params` for NaN, or start from smaller carries."
        )
    near = eps**0.375
    groups = _merged(ends, is_fixed(ends, tolerance), known, near)
    first = np.array([group[0] for group in groups])
    fixed = is_fixed(ends, tolerance)[first]
    if cycle > 1:
        groups, period = _one_of_each_cycle(groups, orbits(cell, cycle, params, x, ends.rows[first]), fixed, near)
        first = np.array([group[0] for group in groups])
        fixed = is_fixed(ends, tolerance)[first]
    else:
        period = fixed.astype(int)
    matrices = np.asarray(jacobians_at(cell, cycle, params, x, jnp.asarray(ends.rows[first]))[1])
    groups, dimension, lines = _continua(groups, ends.rows[first], matrices, fixed, look, tolerance, near)
    kept = [i for i, group in enumerate(groups) if group]
    order = sorted(kept, key=lambda i: ends.speed[first[i]])
    first, groups = first[order], [groups[i] for i in order]

    eigenvalues = eigenvalues_of(matrices[order])
    kind = np.array([POINT, LINE, SURFACE])[np.minimum(dimension[order], 2)]
    kind[~fixed[order]] = SLOW
    arrived = np.full(len(rows), -1)
    for number, group in enumerate(groups):
        arrived[group] = number
    points = ends.rows[first]
    said = _said(cell, cycle, params, x, points, kind, ends.finished[first], like, certify)
    return FixedPoints(
        unflat(points, like),
        ends.speed[first],
        np.sqrt(2 * ends.speed[first]),
        eigenvalues,
        np.abs(eigenvalues).max(-1) < 1 - 16 * eps,
        kind,
        period[order],
        *said,
        tuple([None if lines[i] is None else unflat(lines[i], like) for i in order]),
        np.array([len(group) for group in groups]),
        arrived,
        ends.evaluations,
    )


def _merged(ends: Ends, fixed: np.ndarray, known: np.ndarray, near: float) -> list[list[int]]:
    """Groups of starts that ended at one point, the one of least speed first; fixed points never join slow ones."""
    groups: list[list[int]] = []
    leaders = np.empty_like(ends.rows)
    for i in np.argsort(ends.speed, kind="stable"):
        if not known[i]:
            continue
        radius = near * (1 if fixed[i] else 100) * (1 + np.linalg.norm(ends.rows[i]))
        close = np.abs(leaders[: len(groups)] - ends.rows[i]).max(-1, initial=0) <= radius
        same = next((g for g in np.flatnonzero(close) if fixed[groups[g][0]] == fixed[i]), None)
        if same is None:
            leaders[len(groups)] = ends.rows[i]
            groups.append([int(i)])
        else:
            groups[same].append(int(i))
    return groups


def _one_of_each_cycle(
    groups: list[list[int]], paths: Array, fixed: np.ndarray, near: float
) -> tuple[list[list[int]], np.ndarray]:
    """Joins points of one cycle, and the period of each; `paths` `[N, cycle + 1, S]`."""
    whole = np.asarray(paths)
    radius = near * 10 * (1 + np.linalg.norm(whole[:, 0], axis=-1))
    back = np.abs(whole[:, 1:] - whole[:, :1]).max(-1) <= radius[:, None]
    joined, leaders = [], []
    for i, group in enumerate(groups):
        same = [
            g for g, j in enumerate(leaders)
            if fixed[i] and fixed[j] and (np.abs(whole[j, :-1] - whole[i, 0]).max(-1) <= radius[i]).any()
        ]  # fmt: skip
        if same:
            joined[same[0]] = joined[same[0]] + group
        else:
            joined.append(group)
            leaders.append(i)
    period = np.where(fixed & back.any(-1), back.argmax(-1) + 1, 0)
    return joined, period[leaders]


def _continua(
    groups: list[list[int]],
    rows: np.ndarray,
    matrices: np.ndarray,
    fixed: np.ndarray,
    look: Callable[[np.ndarray], Ends],
    tolerance: float,
    near: float,
) -> tuple[list[list[int]], np.ndarray, list[np.ndarray | None]]:
    """Joins fixed points of one continuum: groups (empty for those that were joined), dimensions, and points.

    A point is on a continuum if the search from a place beside it, in a direction in which J - I vanishes, ends beside
    it at another fixed point. Neighbours are of one continuum if the search from between them ends between them.
    """
    groups, (count, size) = list(groups), rows.shape
    dimension = np.zeros(count, int)
    lines: list[np.ndarray | None] = [None] * count
    _, values, directions = np.linalg.svd(matrices - np.eye(size))
    which, of = np.nonzero((values <= near) & fixed[:, None])
    if not len(which):
        return groups, dimension, lines
    away = 1e-2 * (1 + np.linalg.norm(rows[which], axis=-1, keepdims=True))
    both = np.concatenate([rows[which] + sign * away * directions[which, of] for sign in (-1, 1)])
    ends = look(both)
    apart = np.linalg.norm(ends.rows - np.tile(rows[which], (2, 1)), axis=-1)
    far = apart > np.tile(away[:, 0], 2) / 2
    goes_on = (is_fixed(ends, tolerance) & far).reshape(2, -1).any(0)
    np.add.at(dimension, which[goes_on], 1)
    members = np.flatnonzero(dimension)
    for own in _connected(rows, members, look, tolerance):
        centre = rows[own].mean(0)
        middle = own[np.linalg.norm(rows[own] - centre, axis=-1).argmin()]
        along = (rows[own] - centre) @ np.linalg.svd(rows[own] - centre)[2][0]
        lines[middle] = rows[own][np.argsort(along)]
        together = [start for j in own for start in groups[j]]
        for j in own:
            groups[j] = together if j == middle else []
        dimension[middle] = int(np.median(dimension[own]))
    return groups, dimension, lines


def _connected(
    rows: np.ndarray, members: np.ndarray, look: Callable[[np.ndarray], Ends], tolerance: float
) -> list[np.ndarray]:
    """The connected parts of a set of points on continua, by the edges of its shortest spanning tree."""
    if len(members) < 2:
        return [members] if len(members) else []
    points = rows[members]
    nearest = np.linalg.norm(points - points[0], axis=-1)
    parent, inside, edges = np.zeros(len(points), int), np.zeros(len(points), bool), []
    inside[0] = True
    for _ in range(len(points) - 1):
        j = int(np.where(inside, np.inf, nearest).argmin())
        edges.append((int(parent[j]), j))
        inside[j] = True
        distance = np.linalg.norm(points - points[j], axis=-1)
        parent, nearest = np.where(distance < nearest, j, parent), np.minimum(distance, nearest)
    one, other = np.array(edges).T
    between = (points[one] + points[other]) / 2
    ends = look(between)
    moved = np.linalg.norm(ends.rows - between, axis=-1)
    whole = is_fixed(ends, tolerance) & (moved <= np.linalg.norm(points[one] - points[other], axis=-1) / 4)
    label = np.arange(len(points))
    for (i, j), joins in zip(edges, whole, strict=True):
        if joins:
            label[label == label[j]] = label[i]
    return [members[label == each] for each in np.unique(label)]


def _said(
    cell: Cell,
    cycle: int,
    params: PyTree,
    x: Array,
    points: np.ndarray,
    kind: np.ndarray,
    finished: np.ndarray,
    like: PyTree,
    certify: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """`certified`, `radius`, `error` and `why` of each point."""
    certified, why = np.zeros(len(points), bool), [""] * len(points)
    radius, error = np.full((2, len(points)), np.nan)
    repeated = cell if cycle == 1 else Repeated(cell, cycle)
    prove = certifier(repeated, params, x) if certify and (kind == POINT).any() else None
    slow = kind == SLOW
    bends = _curvature(cell, cycle, params, x, jnp.asarray(points[slow])) if slow.any() else np.zeros(0)
    least = iter(np.asarray(bends))
    for i, point in enumerate(points):
        if kind[i] == SLOW:
            minimum = "a local minimum of q" if next(least) >= 0 else "a stationary point of q, no local minimum"
            why[i] = f"not a fixed point: {minimum}" if finished[i] else "not a fixed point: the iterations ran out"
        elif kind[i] != POINT:
            why[i] = f"not isolated: on a {kind[i]} of fixed points"
        elif prove is None:
            why[i] = "not tried: certify=False"
        else:
            found = prove(unflat(point, like))
            certified[i], why[i] = bool(found.certified), "" if found.certified else str(found.why)
            if found.certified:
                radius[i], error[i] = found.radius, found.error
    return certified, radius, error, tuple(why)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hessians(cell: Cell, cycle: int, params: PyTree, x: Array, rows: Array) -> Array:
    function = map_of(cell, cycle, params, x)
    return jax.vmap(jax.hessian(lambda h: ((function(h) - h) ** 2).sum() / 2))(rows)


def _curvature(cell: Cell, cycle: int, params: PyTree, x: Array, rows: Array) -> np.ndarray:
    """`[N]`, the least curvature of q at each of `rows`, 0 if it is rounding error."""
    values = np.linalg.eigvalsh(np.asarray(_hessians(cell, cycle, params, x, rows)))
    small = np.finfo(values.dtype).eps ** 0.5 * np.abs(values).max(-1)
    return np.where(values[:, 0] < -small, values[:, 0], 0)


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A cell whose step is `cycle` steps of `cell` with one input."""

    cell: Any
    cycle: int

    def init(self, key: Array, input_size: int, dtype: Any = None) -> PyTree:
        return self.cell.init(key, input_size, dtype)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        y: PyTree = None
        for _ in range(self.cycle):
            carry, y = self.cell.step(params, carry, x)
        return carry, y

"""How far given states are from the exact trajectory: a tube around them, step by step.

For h_t* = f(h*_{t-1}, x_t) and given h_t, the error e_t = h_t* - h_t has

    e_t = J_t e_{t-1} + r_t + R_t,   r_t = f(h_{t-1}, x_t) - h_t,   |R_t| <= ½ sup |f''| over the tube at t - 1

so that in a norm ‖A e‖₂, with a matrix A that is chosen for the network,

    b_t = ‖A J_t A⁻¹‖₂ b_{t-1} + ‖A r_t‖₂ + ½ ‖A c_t(b_{t-1})‖₂,   b_0 = 0

bounds it. The radius b_t and the bound c_t of the second derivative differ from step to step. All is in NumPy, in
float64 with outward rounding; it holds for the trajectory in exact arithmetic, with given numbers promoted exactly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnnjax._bounds.equations import Bounded
from rnnjax._bounds.intervals import EPS, Floats, Interval, NoBound, magnitude, matmul, point, subtract, up

LARGEST = 1e60
"""A larger radius is inf."""

BLOCK = 512
"""Steps whose matrices are in memory at once."""


class Coordinates(NamedTuple):
    """The norm ‖A e‖₂: A, X ≈ A⁻¹, and a bound of ‖(A X)⁻¹‖₂."""

    matrix: Floats
    inverse: Floats
    off: float


def coordinates_for(jacobians: Floats) -> list[Coordinates]:
    """Norms to try, of which the first suits the products of these Jacobians `[N, S, S]`: P = I + mean(Jᵀ P J)."""
    size = jacobians.shape[-1]
    plain = Coordinates(np.eye(size), np.eye(size), 1.0)
    p, turned = np.eye(size), jacobians.swapaxes(-1, -2)
    for _ in range(_TURNS):
        p = np.eye(size) + (turned @ p @ jacobians).mean(0)
        if not np.trace(p) < _MOST_WEIGHT * size:
            break
    try:
        a = np.linalg.cholesky(p).T
        x = np.linalg.inv(a)
    except np.linalg.LinAlgError:
        return [plain]
    left = subtract(point(np.eye(size)), matmul(point(a), point(x)))
    off = float(frobenius(magnitude(left)))
    return [Coordinates(a, x, float(up(1 / (1 - off)))), plain] if off < 0.5 else [plain]


_TURNS, _MOST_WEIGHT = 60, 1e6


def frobenius(sizes: Floats) -> Floats:
    """A bound of the Euclidean norm, over the last axis of a vector or the last two of a matrix of magnitudes."""
    axes = (-1,) if np.ndim(sizes) == 1 else (-2, -1)
    return up(np.sqrt(np.sum(sizes * sizes, axes)), sizes.size + 4)


def spectral_norms(m: Interval) -> Floats:
    """Bounds of ‖M‖₂ for interval matrices `[N, S, S]`.

    With G the midpoint and V its approximate right singular vectors, ‖G‖₂² <= ‖Vᵀ Gᵀ G V‖_∞ / (1 - ‖I - Vᵀ V‖_∞).
    """
    mid = 0.5 * m.lo + 0.5 * m.hi
    rest = up(np.maximum(m.hi - mid, mid - m.lo))
    v = np.linalg.eigh(mid.swapaxes(-1, -2) @ mid)[1]
    pushed = matmul(point(mid), point(v))
    gram = matmul(pushed.map(lambda end: end.swapaxes(-1, -2)), pushed)
    unit = matmul(point(v.swapaxes(-1, -2)), point(v))
    off = _rows(magnitude(subtract(point(np.broadcast_to(np.eye(v.shape[-1]), v.shape)), unit)))
    with np.errstate(all="ignore"):
        largest = up(np.sqrt(up(_rows(magnitude(gram)) / (1 - off), 4)), 4)
    size = v.shape[-1] ** 2 + 4
    return up(np.where(off < 0.5, largest, np.inf) + up(np.sqrt(np.sum(rest * rest, (-2, -1))), size))


def _rows(sizes: Floats) -> Floats:
    return up(np.max(np.sum(sizes, -1), -1), sizes.shape[-1] + 2)


class Path(NamedTuple):
    """Given states of one row, in scan order.

    Attributes:
      before: `[T, S]` those before each step, after a reset if there is one.
      after: `[T, S]`.
      xs: `[T, ...]` the inputs.
      counts: `[T]`, False at masked steps.
      known: `[T]`, True where the state before the step is exact: at the first, and after a reset.
    """

    before: Floats
    after: Floats
    xs: Floats
    counts: Floats
    known: Floats


def error_bound(bounded: Bounded, path: Path) -> float:
    """A bound of max |h* - h| over all steps and states; inf if none is found.

    Args:
      bounded: of the step, as a function of the state and the input.
      path: the given states.
    """
    if not (np.isfinite(path.after).all() and np.isfinite(path.before).all()):
        return np.inf
    steps = np.flatnonzero(path.counts)
    try:
        few = steps[np.linspace(0, len(steps) - 1, min(len(steps), 64)).astype(int)] if len(steps) else steps
        found = [bounded(path.before[t], path.before[t], path.xs[t]).jacobian for t in few]
        middles = np.stack([0.5 * j.lo + 0.5 * j.hi for j in found]) if found else np.zeros((1, bounded.size, 0))
        choices = coordinates_for(middles) if found else [Coordinates(np.eye(bounded.size), np.eye(bounded.size), 1.0)]
    except NoBound:
        return np.inf
    return next((b for c in choices if (b := _along(bounded, path, c)) < np.inf), np.inf)


def _along(bounded: Bounded, path: Path, norm: Coordinates) -> float:
    size = bounded.size
    widths = up(np.sqrt(np.sum(norm.inverse**2, -1)) * norm.off, size + 6)  # |e_i| <= widths_i ‖A e‖₂
    weights = np.abs(norm.matrix)
    b = worst = 0.0
    for start in range(0, len(path.after), BLOCK):
        block = range(start, min(start + BLOCK, len(path.after)))
        try:
            slopes, pushes = _linear_part(bounded, path, norm, block)
            for t, slope, push in zip(block, slopes, pushes, strict=True):
                b = 0.0 if path.known[t] else b
                bend = 0.0
                if path.counts[t] and b > 0:
                    reach = up(widths * b)
                    lower, upper = (
                        path.before[t] + sign * up(reach + np.abs(path.before[t]) * EPS) for sign in (-1, 1)
                    )
                    c = bounded(lower, upper, path.xs[t], weights=up(reach)).curvature
                    bend = 0.5 * float(frobenius(up(weights @ c, size + 2)))
                b = float(up(slope * b + push + bend, 8))
                if not b < LARGEST:
                    return np.inf
                worst = max(worst, b)
        except NoBound:
            return np.inf
    return float(up(worst * widths.max()))


def _linear_part(bounded: Bounded, path: Path, norm: Coordinates, block: range) -> tuple[Floats, Floats]:
    """Bounds of ‖A J_t A⁻¹‖₂ and ‖A r_t‖₂ for some steps; 1 and ‖A (h_{t-1} - h_t)‖₂ for masked ones."""
    size = bounded.size
    identity = point(np.eye(size))
    jacobians, residuals = [], []
    for t in block:
        value, jacobian = point(path.before[t]), identity
        if path.counts[t]:
            value, jacobian, _ = bounded(path.before[t], path.before[t], path.xs[t])
        jacobians.append(jacobian)
        residuals.append(subtract(value, point(path.after[t])))
    a, x = point(norm.matrix), point(norm.inverse)
    turned = matmul(matmul(a, _stacked(jacobians)), x)
    slopes = up(spectral_norms(turned) * norm.off)
    slopes = np.where(path.counts[block.start : block.stop], slopes, 1.0)
    r = _stacked(residuals).map(lambda end: end[..., None])
    sizes = magnitude(matmul(a, r))[..., 0]
    return slopes, up(np.sqrt(np.sum(sizes * sizes, -1)), size + 4)


def _stacked(parts: Sequence[Interval]) -> Interval:
    return Interval(np.stack([part.lo for part in parts]), np.stack([part.hi for part in parts]))

"""Intervals of float64 arrays with outward rounding, in NumPy.

An `Interval` holds every real number that the computation could give in exact arithmetic. Each operation widens its
result by more than its rounding error: a sum, product or root by one unit in the last place, a function of NumPy by
`ULPS` of them, a sum of n terms by n. `TINY` covers underflow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Floats = Any
"""A NumPy array of float64 (or a scalar)."""

EPS = 2.0**-52
TINY = 1e-300

ULPS = 16
"""By how many units in the last place a function of NumPy or `math` may be wrong; the documented figure is 4."""


class NoBound(ArithmeticError):
    """There is no bound: of this primitive at all, or over this box.

    Attributes:
      reason: in words.
      primitive: the name of the primitive in the jaxpr.
    """

    def __init__(self, reason: str, primitive: str = ""):
        super().__init__(f"`{primitive}` has no bound: {reason}" if primitive else reason)
        self.reason, self.primitive = reason, primitive


class Kink(NoBound):
    """The function has a kink or a jump inside the box, so its derivatives have no bound there."""


class Interval(NamedTuple):
    """All numbers from `lo` to `hi`, elementwise. Discrete values are intervals too, of their own dtype."""

    lo: Floats
    hi: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.lo)

    def map(self, function: Callable[[Floats], Floats]) -> "Interval":
        """Moves elements: `function` is applied to both ends."""
        return Interval(function(self.lo), function(self.hi))


def point(value: Any) -> Interval:
    value = np.asarray(value)
    return Interval(value, value)


def is_point(x: Interval) -> bool:
    return x.lo is x.hi or bool(np.all(x.lo == x.hi))


def widen(lo: Floats, hi: Floats, ulps: float = 1) -> Interval:
    return Interval(lo - (np.abs(lo) * (ulps * EPS) + TINY), hi + (np.abs(hi) * (ulps * EPS) + TINY))


def up(x: Floats, ulps: float = 2) -> Floats:
    """An upper bound of what was computed as `x` >= 0, with so many rounding errors."""
    return x * (1 + ulps * EPS) + TINY


def magnitude(x: Interval) -> Floats:
    """The largest absolute value."""
    return np.maximum(np.abs(x.lo), np.abs(x.hi))


def clip(x: Interval, lowest: float, highest: float) -> Interval:
    """Uses that the exact values are known to lie in `[lowest, highest]`."""
    return x.map(lambda end: np.clip(end, lowest, highest))


def add(a: Interval, b: Interval) -> Interval:
    return widen(a.lo + b.lo, a.hi + b.hi)


def negative(x: Interval) -> Interval:
    return Interval(-x.hi, -x.lo)


def subtract(a: Interval, b: Interval) -> Interval:
    return add(a, negative(b))


def multiply(a: Interval, b: Interval) -> Interval:
    if is_point(a):
        ends = a.lo * b.lo, a.lo * b.hi
    elif is_point(b):
        ends = a.lo * b.lo, a.hi * b.lo
    else:
        ends = a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi
    lo = hi = ends[0]
    for end in ends[1:]:
        lo, hi = np.minimum(lo, end), np.maximum(hi, end)
    return widen(lo, hi)


def reciprocal(x: Interval) -> Interval:
    if np.any((x.lo <= 0) & (x.hi >= 0)):
        raise NoBound("the denominator may be zero")
    return widen(1 / x.hi, 1 / x.lo)


def power(x: Interval, n: int) -> Interval:
    """x to a whole power, tight also if x may be zero."""
    if n < 0:
        return reciprocal(power(x, -n))
    if n < 2:
        return x if n else point(np.ones(x.shape))
    lo, hi = np.power(x.lo, n), np.power(x.hi, n)
    if n % 2 == 0:
        around_zero = (x.lo <= 0) & (x.hi >= 0)
        lo, hi = np.where(around_zero, 0, np.minimum(lo, hi)), np.maximum(lo, hi)
        return widen(lo, hi, n + ULPS).map(lambda end: np.maximum(end, 0))
    return widen(lo, hi, n + ULPS)


def monotone(function: Callable[[Floats], Floats]) -> Callable[[Interval], Interval]:
    """The range of an increasing function."""
    return lambda x: widen(function(x.lo), function(x.hi), ULPS)


def total(x: Interval, axis: Any) -> Interval:
    """The sum over axes."""
    terms = x.lo.size // max(np.sum(x.lo, axis).size, 1)
    error = terms * EPS * np.sum(magnitude(x), axis) + TINY
    return widen(np.sum(x.lo, axis) - error, np.sum(x.hi, axis) + error)


def matmul(a: Interval, b: Interval) -> Interval:
    """`[..., M, K] @ [..., K, N]` by midpoints and radii (Rump 1999): a few products of matrices by BLAS."""
    terms = np.shape(a.lo)[-1]
    (a_mid, a_rad), (b_mid, b_rad) = _ball(a), _ball(b)
    mid, sizes = a_mid @ b_mid, np.abs(b_mid)
    rad = (terms + 4) * EPS * (np.abs(a_mid) @ sizes)
    if b_rad is not None:
        rad = rad + np.abs(a_mid) @ b_rad
        sizes = sizes + b_rad
    if a_rad is not None:
        rad = rad + a_rad @ sizes
    rad = rad * (1 + (2 * terms + 16) * EPS) + terms * TINY
    return widen(mid - rad, mid + rad)


def _ball(x: Interval) -> tuple[Floats, Floats | None]:
    if is_point(x):
        return x.lo, None
    mid = 0.5 * x.lo + 0.5 * x.hi
    return mid, up(np.maximum(x.hi - mid, mid - x.lo))


class Inverse(NamedTuple):
    """An approximate inverse A of a matrix M, and what is known for certain, in the norm max |v_i| / w_i.

    Attributes:
      matrix: A, `[S, S]`.
      norm: a bound of ‖A‖.
      residual: a bound of ‖I - A M‖ for every M in the interval. Below 1, A and all those M are invertible, and
        ‖M⁻¹‖ <= ‖A‖ / (1 - residual); it is inf if no inverse was found.
    """

    matrix: Floats
    norm: float
    residual: float


def inverse_bound(matrix: Interval, weights: Floats | None = None) -> Inverse:
    """Inverts the midpoint of an interval matrix `[S, S]`, and bounds what is left by intervals."""
    size = matrix.shape[0]
    with np.errstate(all="ignore"):
        try:
            found = np.linalg.inv(0.5 * matrix.lo + 0.5 * matrix.hi)
        except np.linalg.LinAlgError:
            return Inverse(np.full((size, size), np.nan), np.inf, np.inf)
        if not np.isfinite(found).all():
            return Inverse(found, np.inf, np.inf)
        left = subtract(point(np.eye(size)), matmul(point(found), matrix))
        residual = norm_bound(left, weights)
        return Inverse(found, norm_bound(point(found), weights), residual if np.isfinite(residual) else np.inf)


def norm_bound(x: Interval, weights: Floats | None = None) -> float:
    """A bound of max |v_i| / w_i for a vector `[S]`, and of the norm that it induces for a matrix `[S, S]`."""
    w = np.ones(x.shape[0]) if weights is None else np.asarray(weights, np.float64)
    sizes = magnitude(x) if len(x.shape) == 1 else up(magnitude(x) @ w, len(w) + 2)
    return float(np.max(up(sizes / w), initial=0.0))

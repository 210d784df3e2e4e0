"""What is known about a function of h over a box: its values, its first derivatives, and the size of its second.

A `Jet` describes one array in the function's equations. Its slope is an interval for every derivative, so a change of
sign cancels; its bend is one number per element, the largest |Σ_jk ∂²f/∂h_j∂h_k u_j v_k| over all |u_j|, |v_j| <= 1.
For f(a): bend = |f''| |a'|² + |f'| bend_a with |a'| = Σ_j |∂a/∂h_j|, and for a product B(a, b):
bend = B(bend_a, |b|) + B(|a|, bend_b) + 2 B(|a'|, |b'|).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnjax._bounds.intervals import (
    Floats,
    Interval,
    Kink,
    NoBound,
    add,
    is_point,
    magnitude,
    matmul,
    multiply,
    negative,
    point,
    total,
    up,
)


class Jet(NamedTuple):
    """Bounds of one array `[*shape]`.

    Attributes:
      value: `[*shape]`.
      slope: `[*shape, S]`, or None for a constant.
      bend: `[*shape]`, or None for an affine function.
    """

    value: Interval
    slope: Interval | None = None
    bend: Floats | None = None


def constant(value: Any) -> Jet:
    return Jet(point(value))


def steepness(x: Jet) -> Floats:
    """Σ_j |∂x/∂h_j|: the norm of the first derivative."""
    assert x.slope is not None
    return up(magnitude(x.slope).sum(-1), x.slope.shape[-1] + 2)


def _with_last_axis(x: Interval) -> Interval:
    return x.map(lambda end: np.asarray(end)[..., None])


def _sum(*terms: Any) -> Any:
    """The sum of magnitudes, of which some may be None."""
    found = [term for term in terms if term is not None]
    return None if not found else up(sum(found[1:], found[0]), len(found))


def pointwise(x: Jet, value: Interval, first: Interval, second: Interval | None) -> Jet:
    """f(x), from the ranges of f, f' and f'' over the values of x."""
    assert x.slope is not None
    slope = multiply(_with_last_axis(first), x.slope)
    own = None if second is None else up(magnitude(second) * steepness(x) ** 2, 4)
    inherited = None if x.bend is None else up(magnitude(first) * x.bend)
    return Jet(value, slope, _sum(own, inherited))


def linear(x: Jet, on_interval: Callable[[Interval], Interval], on_sizes: Callable[[Floats], Floats]) -> Jet:
    """A linear function of one array that leaves a last axis alone; `on_sizes` is that of its absolute weights."""
    slope = None if x.slope is None else on_interval(x.slope)
    bend = None if x.bend is None else on_sizes(x.bend)
    return Jet(on_interval(x.value), slope, bend)


def plus(a: Jet, b: Jet) -> Jet:
    a, b = alike(a, b)
    slope = add(a.slope, b.slope) if a.slope is not None and b.slope is not None else a.slope or b.slope
    return Jet(add(a.value, b.value), slope, _sum(a.bend, b.bend))


def minus(x: Jet) -> Jet:
    return Jet(negative(x.value), None if x.slope is None else negative(x.slope), x.bend)


def times(a: Jet, b: Jet) -> Jet:
    a, b = alike(a, b)
    slopes = [
        multiply(_with_last_axis(other.value), own.slope) for own, other in ((a, b), (b, a)) if own.slope is not None
    ]
    return _product(a, b, multiply(a.value, b.value), slopes, np.multiply, 4)


def contract(a: Jet, b: Jet) -> Jet:
    """`[..., M, K] @ [..., K, N]`."""
    slopes = []
    if a.slope is not None:
        *rows, terms, size = a.slope.shape
        turned = a.slope.map(lambda end: end.swapaxes(-1, -2).reshape(*rows[:-1], rows[-1] * size, terms))
        shape = (*rows, size, b.value.shape[-1])
        slopes.append(matmul(turned, b.value).map(lambda end: end.reshape(shape).swapaxes(-1, -2)))
    if b.slope is not None:
        *terms_, columns, size = b.slope.shape
        flat = b.slope.map(lambda end: end.reshape(*terms_, columns * size))
        shape = (*a.value.shape[:-1], columns, size)
        slopes.append(matmul(a.value, flat).map(lambda end: end.reshape(shape)))
    return _product(a, b, matmul(a.value, b.value), slopes, np.matmul, a.value.shape[-1] + 4)


def _product(
    a: Jet, b: Jet, value: Interval, slopes: list[Interval], of_sizes: Callable[..., Floats], rounding: int
) -> Jet:
    both = a.slope is not None and b.slope is not None
    bend = _sum(
        None if a.bend is None else up(of_sizes(a.bend, magnitude(b.value)), rounding),
        None if b.bend is None else up(of_sizes(magnitude(a.value), b.bend), rounding),
        up(2 * of_sizes(steepness(a), steepness(b)), rounding) if both else None,
    )
    return Jet(value, add(*slopes) if both else slopes[0] if slopes else None, bend)


def alike(*jets: Jet) -> list[Jet]:
    """The same with one shape: JAX lets axes of length 1 stand for longer ones in elementwise equations."""
    shape = np.broadcast_shapes(*[x.value.shape for x in jets])
    numbers = [np.arange(np.size(x.value.lo)).reshape(x.value.shape) for x in jets]
    pairs = zip(jets, numbers, strict=True)
    return [x if x.value.shape == shape else take([x], np.broadcast_to(index, shape)) for x, index in pairs]


def take(jets: Sequence[Jet], index: np.ndarray) -> Jet:
    """The array whose elements are elements of `jets`: `index` counts those of the first, then of the next, ..."""
    size = next((x.slope.shape[-1] for x in jets if x.slope is not None), None)

    def taken(arrays: Sequence[Any], *last: int) -> Any:
        flat = [np.reshape(array, (-1, *last)) for array in arrays]
        return (flat[0] if len(flat) == 1 else np.concatenate(flat))[index]

    def ends(of: Callable[[Jet], Interval], *last: int) -> Interval:
        parts = [of(x) for x in jets]
        if all(part.lo is part.hi for part in parts):
            return point(taken([part.lo for part in parts], *last))
        return Interval(taken([part.lo for part in parts], *last), taken([part.hi for part in parts], *last))

    def slope_of(x: Jet) -> Interval:
        return point(np.zeros((*x.value.shape, size or 0))) if x.slope is None else x.slope

    bend = None
    if any(x.bend is not None for x in jets):
        bend = taken([np.zeros(x.value.shape) if x.bend is None else x.bend for x in jets])
    return Jet(ends(lambda x: x.value), None if size is None else ends(slope_of, size), bend)


def select(which: Interval, cases: Sequence[Jet]) -> Jet:
    """Case number `which`, elementwise; it must be the same in all of the box."""
    if not is_point(which):
        raise Kink("which case holds changes inside the box")
    cases = alike(*cases)
    shape = cases[0].value.shape
    chosen = np.broadcast_to(np.asarray(which.lo).astype(int), shape)
    return take(cases, chosen * int(np.prod(shape)) + np.arange(int(np.prod(shape))).reshape(shape))


def larger(a: Jet, b: Jet) -> Jet:
    a, b = alike(a, b)
    if a.slope is None and b.slope is None:
        return Jet(Interval(np.maximum(a.value.lo, b.value.lo), np.maximum(a.value.hi, b.value.hi)))
    first, second = a.value.lo > b.value.hi, b.value.lo > a.value.hi
    if not np.all(first | second):
        raise Kink("the larger of two values changes inside the box")
    return select(point(second), [a, b])


def smaller(a: Jet, b: Jet) -> Jet:
    return minus(larger(minus(a), minus(b)))


def absolute(x: Jet) -> Jet:
    if x.slope is None:
        zero = (x.value.lo <= 0) & (x.value.hi >= 0)
        sizes = np.abs(x.value.lo), np.abs(x.value.hi)
        return Jet(Interval(np.where(zero, 0, np.minimum(*sizes)), np.maximum(*sizes)))
    below = x.value.hi < 0
    if not np.all(below | (x.value.lo > 0)):
        raise Kink("the sign of the argument changes inside the box")
    return select(point(below), [x, minus(x)])


def summed(x: Jet, axes: tuple[int, ...]) -> Jet:
    terms = int(np.prod([x.value.shape[axis] for axis in axes]))
    return linear(x, lambda part: total(part, axes), lambda sizes: up(np.sum(sizes, axes), terms + 2))


def check(x: Jet) -> None:
    """Raises NoBound for what is not finite; constants may be infinite, as a mask is, or NaN, where not used."""
    for part in () if x.slope is None else (*x.value, *x.slope, *(() if x.bend is None else (x.bend,))):
        if not np.isfinite(part).all():
            raise NoBound("it is not finite everywhere in the box")

"""The bounds of each primitive of JAX.

`RULES[name](params, *jets)` returns the output's `Jet`, or a list of them. A primitive that only moves elements runs on
their numbers, once, and the jets' elements are then moved alike.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnjax._bounds import intervals as iv
from rnnjax._bounds import jets
from rnnjax._bounds.intervals import Interval, Kink, NoBound, is_point, monotone, multiply, point, power, reciprocal
from rnnjax._bounds.jets import Jet, constant, take

Rule = Callable[..., Any]


def _scaled(by: float, x: Interval) -> Interval:
    return multiply(point(np.float64(by)), x)


def _one_minus(x: Interval) -> Interval:
    return iv.subtract(point(1.0), x)


def _positive(x: Interval) -> Interval:
    if np.any(x.lo <= 0):
        raise NoBound("the argument may be zero or negative")
    return x


# f, f' and f'' of functions of one number: the ranges over an interval.

_tanh, _exp, _log, _sqrt = (monotone(f) for f in (np.tanh, np.exp, np.log, np.sqrt))
_erf = monotone(np.vectorize(math.erf, otypes=[float]))
_minus_erfc = monotone(np.vectorize(lambda x: -math.erfc(x), otypes=[float]))
_logistic = monotone(lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))) / (1 + np.exp(-np.abs(x))))
_softplus = monotone(lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def _log1p(x: Interval) -> Interval:
    if np.any(x.lo <= -1):
        raise NoBound("the argument may be -1 or less")
    return monotone(np.log1p)(x)


def _tanh_first(x: Interval) -> Interval:
    return iv.clip(_one_minus(power(iv.clip(_tanh(x), -1, 1), 2)), 0, 1)


def _tanh_second(x: Interval) -> Interval:
    return iv.clip(_scaled(-2, multiply(_tanh(x), _tanh_first(x))), -0.76981, 0.76981)  # its largest: 4 / (3 √3)


def _logistic_first(x: Interval) -> Interval:
    """σ' = ¼ - (σ - ½)²"""
    return iv.clip(iv.subtract(point(0.25), power(iv.subtract(_logistic(x), point(0.5)), 2)), 0, 0.25)


def _logistic_second(x: Interval) -> Interval:
    second = multiply(_logistic_first(x), _one_minus(_scaled(2, _logistic(x))))
    return iv.clip(second, -0.096226, 0.096226)  # its largest: √3 / 18


def _sine(x: Interval) -> Interval:
    def contains(phase: float) -> Any:
        """Whether phase + 2πk may be in the interval."""
        turns = (np.asarray(x.lo) - phase) / (2 * np.pi), (np.asarray(x.hi) - phase) / (2 * np.pi)
        slack = (np.abs(turns[0]) + np.abs(turns[1]) + 1) * 16 * iv.EPS
        return np.floor(turns[1] + slack) >= np.ceil(turns[0] - slack)

    ends = np.sin(x.lo), np.sin(x.hi)
    lo = np.where(contains(-np.pi / 2), -1, np.minimum(*ends) - iv.ULPS * iv.EPS)
    hi = np.where(contains(np.pi / 2), 1, np.maximum(*ends) + iv.ULPS * iv.EPS)
    return iv.clip(Interval(lo, hi), -1, 1)


_HALF_PI = Interval(np.float64(1.5707963267948963), np.float64(1.570796326794897))


def _cosine(x: Interval) -> Interval:
    return _sine(iv.add(x, _HALF_PI))


def _bell(x: Interval) -> Interval:
    """erf' = 2/√π exp(-x²)"""
    return multiply(iv.widen(2 / math.sqrt(math.pi), 2 / math.sqrt(math.pi), 4), _exp(iv.negative(power(x, 2))))


def _half_power(n: int) -> Callable[[Interval], Interval]:
    """x^(n/2), for odd n."""
    return lambda x: power(_sqrt(_positive(x)), n)


_Range = Callable[[Interval], Interval]

FUNCTIONS: dict[str, tuple[_Range, _Range, _Range]] = {
    "tanh": (lambda x: iv.clip(_tanh(x), -1, 1), _tanh_first, _tanh_second),
    "logistic": (lambda x: iv.clip(_logistic(x), 0, 1), _logistic_first, _logistic_second),
    "exp": (lambda x: iv.clip(_exp(x), 0, np.inf), _exp, _exp),
    "expm1": (monotone(np.expm1), _exp, _exp),
    "log": (
        lambda x: _log(_positive(x)),
        reciprocal,
        lambda x: iv.negative(reciprocal(power(x, 2))),
    ),
    "log1p": (
        _log1p,
        lambda x: reciprocal(iv.add(x, point(1.0))),
        lambda x: iv.negative(reciprocal(power(iv.add(x, point(1.0)), 2))),
    ),
    "sqrt": (
        lambda x: _sqrt(x if np.all(x.lo >= 0) else _positive(x)).map(lambda end: np.maximum(end, 0)),
        lambda x: _scaled(0.5, _half_power(-1)(x)),
        lambda x: _scaled(-0.25, _half_power(-3)(x)),
    ),
    "rsqrt": (
        _half_power(-1),
        lambda x: _scaled(-0.5, _half_power(-3)(x)),
        lambda x: _scaled(0.75, _half_power(-5)(x)),
    ),
    "sin": (_sine, _cosine, lambda x: iv.negative(_sine(x))),
    "cos": (_cosine, lambda x: iv.negative(_sine(x)), lambda x: iv.negative(_cosine(x))),
    "erf": (lambda x: iv.clip(_erf(x), -1, 1), _bell, lambda x: _scaled(-2, multiply(x, _bell(x)))),
    "erfc": (
        lambda x: iv.clip(iv.negative(_minus_erfc(x)), 0, 2),
        lambda x: iv.negative(_bell(x)),
        lambda x: _scaled(2, multiply(x, _bell(x))),
    ),
    "softplus": (_softplus, _logistic, _logistic_first),
}


def _apply(value: _Range, first: _Range, second: _Range, x: Jet) -> Jet:
    if x.slope is None:
        return Jet(value(x.value))
    return jets.pointwise(x, value(x.value), first(x.value), second(x.value))


def function(name: str, x: Jet) -> Jet:
    return _apply(*FUNCTIONS[name], x)


def _whole_power(x: Jet, n: int) -> Jet:
    if n in (0, 1):
        return x if n else constant(np.ones(x.value.shape))

    def scaled_power(by: float, exponent: int) -> _Range:
        return lambda v: _scaled(by, power(v, exponent))

    return _apply(lambda v: power(v, n), scaled_power(n, n - 1), scaled_power(n * (n - 1), n - 2), x)


def _any_power(params: Any, x: Jet, exponent: Jet) -> Jet:
    n = np.unique(exponent.value.lo)
    if (
        exponent.slope is None
        and is_point(exponent.value)
        and n.size == 1
        and n[0] == np.round(n[0])
        and abs(n[0]) < 64
    ):
        return _whole_power(x, int(n[0]))
    return function("exp", jets.times(function("log", x), exponent))


def logaddexp(a: Jet, b: Jet) -> Jet:
    """log(exp(a) + exp(b)), smooth where its formula, with a maximum, is not."""
    return jets.plus(b, function("softplus", jets.plus(a, jets.minus(b))))


def _multiply(params: Any, a: Jet, b: Jet) -> Jet:
    return _whole_power(a, 2) if a is b else jets.times(a, b)


def _divide(params: Any, a: Jet, b: Jet) -> Jet:
    if b.slope is None and is_point(b.value) and np.all(b.value.lo != 0):  # rounded once
        (value,) = (iv.widen(np.minimum(*ends), np.maximum(*ends)) for ends in [[e / b.value.lo for e in a.value]])
        return jets.times(a, Jet(reciprocal(b.value)))._replace(value=value)
    return jets.times(a, _whole_power(b, -1))


def _sign(params: Any, x: Jet) -> Jet:
    signs = x.value.map(np.sign)
    if x.slope is not None and not np.all((signs.lo == signs.hi) & (signs.lo != 0)):
        raise Kink("the sign of the argument changes inside the box")
    return Jet(signs)


def _less(a: Interval, b: Interval) -> Any:
    return np.asarray(a.hi < b.lo)


def _compare(turned: bool, or_equal: bool) -> Rule:
    """a < b or a <= b as an interval of truth values: [False, True] if both may be. What meets in one point is both."""

    def rule(params: Any, a: Jet, b: Jet) -> Jet:
        first, second = (b.value, a.value) if turned else (a.value, b.value)
        true, false = _less(first, second), _less(second, first)
        if a.slope is None and b.slope is None:
            true = np.asarray(first.hi <= second.lo) if or_equal else true
            false = false if or_equal else np.asarray(second.hi <= first.lo)
        return Jet(Interval(true, ~false))

    return rule


def _equal(params: Any, a: Jet, b: Jet) -> Jet:
    if a is b and np.issubdtype(np.asarray(a.value.lo).dtype, np.floating):  # x == x: not NaN
        return constant(np.ones(a.value.shape, bool))
    apart = _less(a.value, b.value) | _less(b.value, a.value)
    same = ~apart if a.slope is None and b.slope is None and is_point(a.value) and is_point(b.value) else ~apart & False
    return Jet(Interval(same, ~apart))


def _not(params: Any, x: Jet) -> Jet:
    return Jet(Interval(~x.value.hi, ~x.value.lo))


def _convert(params: Any, x: Jet) -> Jet:
    new, lo = np.dtype(params["new_dtype"]), np.asarray(x.value.lo)
    if np.issubdtype(lo.dtype, np.floating) and np.issubdtype(new, np.floating):
        if new.itemsize < 8 and not (x.slope is None and is_point(x.value) and np.all(lo == lo.astype(new))):
            raise NoBound(f"it rounds to {new}; write the step so that float64 stays float64")
        return x
    if x.slope is not None or not is_point(x.value):
        raise Kink(f"a step from {lo.dtype} to {new} may lie inside the box")
    if np.issubdtype(new, np.complexfloating):
        raise NoBound("complex numbers have no bounds here; write the step with real and imaginary parts")
    return constant(lo.astype(np.float64 if np.issubdtype(new, np.floating) else new))


def _reduce_sum(params: Any, x: Jet) -> Jet:
    return jets.summed(x, tuple(params["axes"]))


def _reduce(pair: Callable[[Jet, Jet], Jet]) -> Rule:
    """A maximum or minimum over axes: one pair after the other."""

    def rule(params: Any, x: Jet) -> Jet:
        index = np.arange(int(np.prod(x.value.shape))).reshape(x.value.shape)
        axes = tuple(params["axes"])
        index = np.moveaxis(index, axes, range(len(axes)))
        index = index.reshape(-1, *index.shape[len(axes) :])
        result = take([x], index[0])
        for row in index[1:]:
            result = pair(result, take([x], row))
        return result

    return rule


def _cumsum(params: Any, x: Jet) -> Jet:
    axis, backwards = params["axis"], params["reverse"]
    terms = x.value.shape[axis]

    def added(a: np.ndarray) -> np.ndarray:
        return np.flip(np.cumsum(np.flip(a, axis), axis), axis) if backwards else np.cumsum(a, axis)

    def on_interval(part: Interval) -> Interval:
        error = terms * iv.EPS * added(iv.magnitude(part)) + iv.TINY
        return iv.widen(added(part.lo) - error, added(part.hi) + error)

    return jets.linear(x, on_interval, lambda sizes: iv.up(added(sizes), terms + 2))


def _turned(x: Jet, permutation: Sequence[int], shape: Sequence[int]) -> Jet:
    index = np.arange(int(np.prod(x.value.shape))).reshape(x.value.shape)
    return take([x], index.transpose(permutation).reshape(shape))


def _dot_general(params: Any, a: Jet, b: Jet) -> Jet:
    (a_contract, b_contract), (a_batch, b_batch) = params["dimension_numbers"]
    a_shape, b_shape = a.value.shape, b.value.shape
    a_free = [i for i in range(len(a_shape)) if i not in (*a_contract, *a_batch)]
    b_free = [i for i in range(len(b_shape)) if i not in (*b_contract, *b_batch)]
    batch, rows = [a_shape[i] for i in a_batch], [a_shape[i] for i in a_free]
    columns, terms = [b_shape[i] for i in b_free], math.prod(a_shape[i] for i in a_contract)
    flat = math.prod(batch)
    left = _turned(a, [*a_batch, *a_free, *a_contract], (flat, math.prod(rows), terms))
    right = _turned(b, [*b_batch, *b_contract, *b_free], (flat, terms, math.prod(columns)))
    product = jets.contract(left, right)
    return take([product], np.arange(math.prod(product.value.shape)).reshape(*batch, *rows, *columns))


def _convolution(params: Any, x: Jet, kernel: Jet) -> Jet:
    """A product with the patches of `x`, whose elements are moved by the numbers that patches of numbers have."""
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        raise NoBound("convolutions in groups are not supported")
    x_spec, kernel_spec, out_spec = params["dimension_numbers"]
    numbers = np.arange(1.0, x.value.lo.size + 1).reshape(x.value.shape).transpose(x_spec)
    taps = [kernel.value.shape[axis] for axis in kernel_spec[2:]]
    how = {key: params[key] for key in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")}
    with jax.enable_x64(True):
        found = np.asarray(lax.conv_general_dilated_patches(jnp.asarray(numbers), taps, **how))
    patches = take([constant(np.zeros(1)), x], np.moveaxis(found, 1, -1).round().astype(int))  # [N, *space, P]
    weights = _turned(kernel, kernel_spec, (kernel.value.shape[kernel_spec[0]], -1))
    where = {"dimension_numbers": (((len(taps) + 1,), (1,)), ((), ()))}
    product = _dot_general(where, patches, weights)  # [N, *space, O]
    now = [0, len(taps) + 1, *range(1, len(taps) + 1)]
    order = [now[out_spec.index(axis)] for axis in range(len(out_spec))]
    return _turned(product, order, [product.value.shape[axis] for axis in order])


RULES: dict[str, Rule] = {
    "add": lambda params, a, b: jets.plus(a, b),
    "add_any": lambda params, a, b: jets.plus(a, b),
    "sub": lambda params, a, b: jets.plus(a, jets.minus(b)),
    "neg": lambda params, x: jets.minus(x),
    "mul": _multiply,
    "div": _divide,
    "integer_pow": lambda params, x: _whole_power(x, params["y"]),
    "square": lambda params, x: _whole_power(x, 2),
    "pow": _any_power,
    "max": lambda params, a, b: jets.larger(a, b),
    "min": lambda params, a, b: jets.smaller(a, b),
    "clamp": lambda params, least, x, most: jets.smaller(jets.larger(x, least), most),
    "abs": lambda params, x: jets.absolute(x),
    "sign": _sign,
    "select_n": lambda params, which, *cases: jets.select(which.value, cases),
    "gt": _compare(turned=True, or_equal=False),
    "lt": _compare(turned=False, or_equal=False),
    "ge": _compare(turned=True, or_equal=True),
    "le": _compare(turned=False, or_equal=True),
    "eq": _equal,
    "ne": lambda params, a, b: _not(params, _equal(params, a, b)),
    "and": lambda params, a, b: Jet(Interval(a.value.lo & b.value.lo, a.value.hi & b.value.hi)),
    "or": lambda params, a, b: Jet(Interval(a.value.lo | b.value.lo, a.value.hi | b.value.hi)),
    "not": _not,
    "is_finite": lambda params, x: constant(np.isfinite(x.value.lo) & np.isfinite(x.value.hi)),
    "stop_gradient": lambda params, x: x,  # the derivative of the function, not that of JAX
    "copy": lambda params, x: x,
    "copy_p": lambda params, x: x,
    "optimization_barrier": lambda params, *xs: list(xs),
    "convert_element_type": _convert,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce(jets.larger),
    "reduce_min": _reduce(jets.smaller),
    "cumsum": _cumsum,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "iota": lambda params: constant(np.indices(params["shape"])[params["dimension"]].astype(params["dtype"])),
    **{name: (lambda params, x, name=name: function(name, x)) for name in FUNCTIONS},
}

# Primitives that move elements.


def _broadcast(params: Any, x: np.ndarray) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for axis, length in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = length
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _slice(params: Any, x: np.ndarray) -> np.ndarray:
    steps = params["strides"] or [1] * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], steps))]


def _split(params: Any, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


MOVES: dict[str, Callable[..., Any]] = {
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "rev": lambda params, x: np.flip(x, tuple(params["dimensions"])),
    "split": _split,
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
}
"""In NumPy, as they are in most steps; those of `MOVED_BY_JAX` run in JAX."""

MOVED_BY_JAX = {"pad": 2, "gather": 1, "dynamic_slice": 1, "scatter": None, "dynamic_update_slice": 2}
"""How many of the operands are moved; the others are whole numbers, the places (of a scatter the second of three)."""


def move(primitive: Any, params: Any, inputs: Sequence[Jet]) -> Any:
    name = primitive.name
    count = MOVED_BY_JAX.get(name, len(inputs))
    moved = [0, 2] if count is None else list(range(count))
    sizes = [math.prod(inputs[i].value.shape) for i in moved]
    starts = np.cumsum([0, *sizes])
    numbers = [
        np.arange(s, s + n).reshape(inputs[i].value.shape) for s, n, i in zip(starts, sizes, moved, strict=False)
    ]
    if name in MOVES:
        index = MOVES[name](params, *numbers)
    else:
        with jax.enable_x64(True):
            operands = [jnp.asarray(numbers[moved.index(i)] if i in moved else _exact(x)) for i, x in enumerate(inputs)]
            index = np.asarray(primitive.bind(*operands, **params))
    parts = [inputs[i] for i in moved]
    if isinstance(index, list):
        return [take(parts, each) for each in index]
    if np.any((index < 0) | (index >= starts[-1])):
        raise NoBound("it reads outside of the array")
    return take(parts, index)


def _exact(x: Jet) -> Any:
    if x.slope is not None or not is_point(x.value):
        raise NoBound("where it reads depends on the carry")
    return x.value.lo

"""Bounds of a function, from its equations: its jaxpr, run on jets instead of arrays."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from rnnjax._bounds import intervals as iv
from rnnjax._bounds import jets, rules
from rnnjax._bounds.intervals import Floats, Interval, NoBound
from rnnjax._bounds.jets import Jet

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""What wraps a function without changing its values, and where its equations are."""


class Bounds(NamedTuple):
    """What holds for every h in the box.

    Attributes:
      value: `[n]`, F(h).
      jacobian: `[n, S]`, ∂F_i/∂h_j.
      curvature: `[n]`, at least |Σ_jk ∂²F_i/∂h_j∂h_k u_j v_k| for all |u_j| <= w_j and |v_j| <= w_j; zero only if
        F is affine in the box.
    """

    value: Interval
    jacobian: Interval
    curvature: Floats


class _Equation(NamedTuple):
    run: Callable[..., Any]
    name: str
    inputs: list[int]
    outputs: list[int]


class Bounded:
    """Bounds of `function(h, *others)` over boxes of h; traced once, in float64 even where x64 is off.

    What needs neither h nor the further arguments is computed once. Derivatives are those of the function that is
    computed: a `stop_gradient` or a custom derivative in it changes nothing.

    Args:
      function: maps h `[S]`, and any further arguments, to one array, whose elements are F.
      size: S.
      *others: further arguments, or their shapes; pytrees. They are constants of F, given with each box.
    Example: tanh over [-1, 1] is steep at most by 1, and bends at most by 4 / (3 √3).

      >>> bounds = Bounded(jnp.tanh, 1)([-1.0], [1.0])
      >>> bounds.jacobian.hi.round(3).tolist(), bounds.curvature.round(3).tolist()
      ([[1.0]], [0.77])
    """

    def __init__(self, function: Callable[..., Any], size: int, *others: Any):
        self.size, self._count = size, 0
        self._equations: list[_Equation] = []
        self._known: dict[int, Jet] = {}
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), _wide(a.dtype)), others)
            closed = jax.make_jaxpr(lambda h, rest: jnp.ravel(function(h, *rest)))(
                jax.ShapeDtypeStruct((size,), "float64"), wide
            )
            self._inputs = [self._new() for _ in closed.jaxpr.invars]
            (self._output,) = self._inline(closed, self._inputs)
        late = set(self._inputs)
        self._late = []  # all that needs h or the others; the rest is computed here, once
        for equation in self._equations:
            if late.intersection(equation.inputs):
                late.update(equation.outputs)
                self._late.append(equation)
        self._refusal: NoBound | None = None
        try:
            self._run([e for e in self._equations if not late.intersection(e.outputs)], self._known)
        except NoBound as error:
            self._refusal = error

    def _new(self, value: Any = None) -> int:
        self._count += 1
        if value is not None:
            self._known[self._count] = jets.constant(_array(value))
        return self._count

    def _inline(self, closed: Any, inputs: Sequence[int]) -> list[int]:
        jaxpr, consts = (closed.jaxpr, closed.consts) if isinstance(closed, ClosedJaxpr) else (closed, ())
        env = dict(zip(jaxpr.invars, inputs, strict=True))
        env.update((var, self._new(value)) for var, value in zip(jaxpr.constvars, consts, strict=True))

        def number(v: Any) -> int:
            dtype = v.aval.dtype
            return self._new(np.asarray(v.val, dtype)) if isinstance(v, Literal) else env[v]

        for eqn in jaxpr.eqns:
            name, given = eqn.primitive.name, [number(v) for v in eqn.invars]
            inner = eqn.params.get(_CALLS[name]) if name in _CALLS else None
            if inner is None:
                outputs = [self._new() for _ in eqn.outvars]
                self._equations.append(_Equation(_runner(eqn), name, given, outputs))
            elif _is_logaddexp(inner, name):
                outputs = [self._new()]
                self._equations.append(_Equation(rules.logaddexp, "logaddexp", given, outputs))
            else:
                outputs = self._inline(inner, given)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [number(v) for v in jaxpr.outvars]

    def _run(self, equations: Sequence[_Equation], env: dict[int, Jet]) -> None:
        with np.errstate(all="ignore"):
            for equation in equations:
                try:
                    results = equation.run(*[env[i] for i in equation.inputs])
                    results = results if isinstance(results, list) else [results]
                    for result in results:
                        jets.check(result)
                except NoBound as error:
                    raise type(error)(error.reason, error.primitive or equation.name) from None
                env.update(zip(equation.outputs, results, strict=True))

    def __call__(self, lower: Any, upper: Any, *others: Any, weights: Any = None) -> Bounds:
        """Bounds over the box of all h with lower <= h <= upper.

        Args:
          lower, upper: `[S]`.
          *others: as in the constructor.
          weights: w `[S]` > 0 of the norm max |v_i| / w_i; ones if not given.
        Raises:
          Kink: F has a kink or a jump in the box.
          NoBound: a primitive has no bound, at all or over this box.
        """
        if self._refusal is not None:
            raise self._refusal
        w = np.ones(self.size) if weights is None else np.asarray(weights, np.float64)
        box = Interval(np.asarray(lower, np.float64), np.asarray(upper, np.float64))
        leaves = [_array(leaf) for leaf in jax.tree.leaves(others)]
        given = [Jet(box, iv.point(np.diag(w))), *map(jets.constant, leaves)]
        env = self._known | dict(zip(self._inputs, given, strict=True))
        self._run(self._late, env)
        value, slope, bend = env[self._output]
        if not (np.isfinite(value.lo) & np.isfinite(value.hi)).all():
            raise NoBound("its result is not finite", "the function")
        if slope is None:
            slope = iv.point(np.zeros((*value.shape, self.size)))
        elif weights is not None:
            slope = iv.multiply(slope, iv.reciprocal(iv.point(w)))
        return Bounds(value, slope, np.zeros(value.shape) if bend is None else bend)


def _wide(dtype: Any) -> Any:
    return np.dtype("float64") if jnp.issubdtype(dtype, jnp.floating) else dtype


def _array(value: Any) -> Any:
    """In NumPy, floats in float64; arrays of keys as they are."""
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    value = np.asarray(value)
    return value.astype(_wide(value.dtype))


def _runner(eqn: Any) -> Callable[..., Any]:
    primitive, params, name = eqn.primitive, eqn.params, eqn.primitive.name
    dtypes = [v.aval.dtype for v in (*eqn.invars, *eqn.outvars)]
    discrete = not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes)
    imaginary = any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)
    rule = rules.RULES.get(name)

    def run(*inputs: Jet) -> Any:
        if imaginary:
            raise NoBound("complex numbers have no bounds here; write the step with real and imaginary parts")
        if name in rules.MOVES or name in rules.MOVED_BY_JAX:
            return rules.move(primitive, params, inputs)
        if discrete and all(iv.is_point(x.value) for x in inputs):  # whole numbers and truth values: as JAX has it
            with jax.enable_x64(True):
                results = primitive.bind(*[jnp.asarray(x.value.lo) for x in inputs], **params)
            return [jets.constant(np.asarray(r)) for r in (results if primitive.multiple_results else [results])]
        if rule is None:
            raise NoBound("no rule for it is known; write the step without it")
        return rule(params, *inputs)

    return run


def _is_logaddexp(inner: Any, name: str) -> bool:
    """Whether a custom derivative is that of `jnp.logaddexp`, on which softplus and log_sigmoid rest."""
    if name != "custom_jvp_call" or [eqn.primitive.name for eqn in inner.jaxpr.eqns][:1] != ["max"]:
        return False
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in inner.jaxpr.invars]
    if len(shapes) != 2:
        return False
    (reference,) = jax.make_jaxpr(jnp.logaddexp)(*shapes).jaxpr.eqns
    return reference.primitive.name == name and str(reference.params["call_jaxpr"]) == str(inner)

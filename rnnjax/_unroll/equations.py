"""A step as a list of equations that can be rewritten: its jaxpr, with calls inlined.

JAX traces a function to a list of primitive equations. Here they become `Equation`s between `Value`s, which have shapes
but no arrays. `evaluate` runs such a list. This module uses `jax.make_jaxpr`, `jax.core.eval_jaxpr` and the types of
`jax.extend.core`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, DebugInfo, Jaxpr, JaxprEqn, Literal

from rnnjax._unroll.arguments import varying_alike
from rnnjax.cell import PyTree

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
"""What wraps a function without changing its values, and where its equations are."""

_ONE_EQUATION = DebugInfo("one equation of a step", "rnnjax._unroll.equations", None, None)


class Value:
    """An array in a step's equations, with its shape and dtype; `constant` is its value if it is a constant number."""

    __slots__ = ("constant", "dtype", "shape")

    def __init__(self, shape: Sequence[int], dtype: Any, constant: Any = None):
        self.shape, self.dtype, self.constant = tuple(shape), dtype, constant

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Equation:
    """`outputs = run(*inputs)`: a primitive of JAX with its parameters, or a rewrite of one."""

    __slots__ = ("inputs", "name", "output", "outputs", "params", "run")

    def __init__(
        self,
        name: str,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        run: Callable[..., Sequence[Any]],
        params: Mapping[str, Any] | None = None,
    ):
        self.name, self.inputs, self.outputs, self.run = name, list(inputs), list(outputs), run
        self.params = params or {}
        self.output = self.outputs[0] if self.outputs else Value((), None)

    def __repr__(self) -> str:
        return f"{self.outputs} = {self.name} {self.inputs}"


class Program:
    """Equations from `inputs` and `closed_over` to `outputs`; `closed_over` are arrays in the function's closure."""

    def __init__(self, equations: list[Equation], inputs: list[Value], closed_over: list[Value], outputs: list[Value]):
        self.equations, self.inputs, self.closed_over, self.outputs = equations, inputs, closed_over, outputs


def traced(function: Callable[..., Any], *args: Any) -> tuple[Program, list[Any], Any, bool]:
    """Traces `function` at arguments of these shapes.

    Returns:
      `(program, arrays, result, has_effects)`, with the arrays that the function closes over, in the order of
      `program.closed_over`, and the shapes of its result.
    """
    closed, result = jax.make_jaxpr(function, return_shape=True)(*args)
    arrays: list[Any] = []
    closed_over: list[Value] = []
    equations: list[Equation] = []

    def value_of(var: Any) -> Value:
        return Value(var.aval.shape, var.aval.dtype)

    def number(literal: Any) -> Value:
        return Value(np.shape(literal.val), literal.aval.dtype, literal.val)

    def close_over(jaxpr: Any, consts: Sequence[Any], env: dict[Any, Value]) -> None:
        for var, array in zip(jaxpr.constvars, consts, strict=True):
            env[var] = value_of(var)
            closed_over.append(env[var])
            arrays.append(array)

    def inline(jaxpr: Any, env: dict[Any, Value]) -> list[Value]:
        for eqn in jaxpr.eqns:
            inputs = [number(v) if isinstance(v, Literal) else env[v] for v in eqn.invars]
            if eqn.primitive.name == "pvary":  # concerns types in a `shard_map`; `evaluate` adds it again
                env.update(zip(eqn.outvars, inputs, strict=True))
                continue
            inner = eqn.params.get(_CALLS[eqn.primitive.name]) if eqn.primitive.name in _CALLS else None
            if inner is None:
                outputs = [value_of(v) for v in eqn.outvars]
                equations.append(Equation(eqn.primitive.name, inputs, outputs, _runner(eqn), eqn.params))
            else:
                inside = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
                scope = dict(zip(inside.invars, inputs, strict=True))
                close_over(inside, getattr(inner, "consts", ()), scope)
                outputs = inline(inside, scope)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [number(v) if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]

    env = {v: value_of(v) for v in closed.jaxpr.invars}
    inputs = [env[v] for v in closed.jaxpr.invars]
    close_over(closed.jaxpr, closed.consts, env)
    outputs = inline(closed.jaxpr, env)
    return Program(equations, inputs, closed_over, outputs), arrays, result, bool(closed.effects)


def _runner(eqn: JaxprEqn) -> Callable[..., Sequence[Any]]:
    """A function that runs one equation of a jaxpr, with its derivative rules."""
    primitive, params = eqn.primitive, eqn.params
    if primitive.name in SIMPLE:
        if primitive.multiple_results:
            return lambda *values: primitive.bind(*values, **params)
        return lambda *values: (primitive.bind(*values, **params),)
    variables = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, Literal)))
    where = [next(i for i, v in enumerate(eqn.invars) if v is variable) for variable in variables]
    alone = Jaxpr((), variables, eqn.outvars, [eqn], eqn.effects, debug_info=_ONE_EQUATION)
    return lambda *values: jax.core.eval_jaxpr(alone, (), *[values[i] for i in where])


def evaluate(
    equations: Iterable[Equation],
    env: dict[Value, Any],
    *,
    instead: Mapping[Value, Any] | None = None,
    rules: Mapping[Value, Callable[..., Any]] | None = None,
) -> dict[Value, Any]:
    """Runs the equations and adds their outputs to `env`; equations whose outputs are already there are skipped.

    Args:
      instead: values that *later* equations use instead of computed ones, while `env` keeps the computed ones. This
        splits a computation into independent parts.
      rules: replacements for equations, by their first output.
    """
    in_shard_map = bool(jax.sharding.get_abstract_mesh().manual_axes)
    for eqn in equations:
        if eqn.outputs and eqn.outputs[0] in env:
            continue
        values: list[Any] = []
        for v in eqn.inputs:
            if v.constant is not None:
                values.append(v.constant)
            elif instead is not None and v in instead:
                values.append(instead[v])
            else:
                values.append(env[v])
        if in_shard_map:
            values = varying_alike(values)
        if rules is not None and eqn.outputs and eqn.outputs[0] in rules:
            env[eqn.outputs[0]] = rules[eqn.outputs[0]](*values)
        else:
            env.update(zip(eqn.outputs, eqn.run(*values), strict=True))
    return env


def value_in(env: Mapping[Value, Any], value: Value) -> Any:
    """The computed value, or the number of a constant."""
    return env[value] if value.constant is None else jnp.asarray(value.constant, value.dtype)


def needed_for(outputs: Iterable[Value], equations: Sequence[Equation]) -> list[Equation]:
    """The equations on which `outputs` depend, in topological order."""
    made = {v: eqn for eqn in equations for v in eqn.outputs}
    done: dict[Equation, None] = {}
    waiting = [made[v] for v in reversed(list(outputs)) if v in made]
    while waiting:
        eqn = waiting[-1]
        before = [made[v] for v in eqn.inputs if v in made and made[v] not in done] if eqn not in done else []
        if before:
            waiting.extend(reversed(before))
        else:
            done[waiting.pop()] = None
    return list(done)


def users_of(equations: Iterable[Equation]) -> dict[Value, list[Equation]]:
    """The equations that read each value."""
    users: dict[Value, list[Equation]] = {}
    for eqn in equations:
        for value in eqn.inputs:
            users.setdefault(value, []).append(eqn)
    return users


def bytes_of(tree: PyTree) -> int:
    """The bytes of arrays, or of anything with a shape and a dtype."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        for length in leaf.shape:
            size = size * length
        total = total + size
    return total


# Equations that rewrites create.


def add(a: Value, b: Value, out: Value | None = None) -> Equation:
    return Equation("add", [a, b], [out or Value(a.shape, a.dtype)], lambda a, b: (lax.add(a, b),))


def matmul(x: Value, w: Value, like: Equation, out: Value | None = None) -> Equation:
    """x [K] @ w [K, N], with the precision of the `dot_general` that it replaces."""
    how = {k: like.params[k] for k in ("precision", "preferred_element_type", "out_sharding") if k in like.params}

    def run(x: Any, w: Any) -> tuple[Any]:
        return (lax.dot_general(x, w, (((0,), (0,)), ((), ())), **how),)

    return Equation("matmul", [x, w], [out or Value(w.shape[1:], like.output.dtype)], run, how)


def transpose(w: Value) -> Equation:
    return Equation("transpose", [w], [Value(w.shape[::-1], w.dtype)], lambda w: (w.T,), {"permutation": (1, 0)})


def part(value: Value, start: int, stop: int, axis: int, out: Value | None = None) -> Equation:
    """Elements `[start, stop)` of one axis."""
    shape = list(value.shape)
    shape[axis] = stop - start
    starts, limits = [0] * len(shape), list(value.shape)
    starts[axis], limits[axis] = start, stop
    params = {"start_indices": tuple(starts), "limit_indices": tuple(limits), "strides": None}
    run = lambda v: (lax.slice(v, params["start_indices"], params["limit_indices"]),)  # noqa: E731
    return Equation("slice", [value], [out or Value(shape, value.dtype)], run, params)


def joined(values: Sequence[Value], axis: int) -> Equation:
    shape = list(values[0].shape)
    shape[axis] = sum([v.shape[axis] for v in values])
    out = Value(shape, values[0].dtype)
    return Equation("concatenate", values, [out], lambda *v: (lax.concatenate(v, axis),), {"dimension": axis})


def cut(value: Value, outputs: Sequence[Value]) -> Equation:
    """Splits `value` [n] into consecutive `outputs`."""
    sizes = tuple([v.shape[0] for v in outputs])
    return Equation("split", [value], outputs, lambda v: lax.split(v, sizes, axis=0), {"sizes": sizes, "axis": 0})


_ELEMENTWISE = """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh
    custom_jvp_call digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log
    log1p logistic lt max min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh
    sqrt square stop_gradient sub tan tanh xor
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Elementwise primitives."""

LAYOUT = frozenset(["broadcast_in_dim", "reshape", "squeeze", "expand_dims", "slice", "split", "concatenate"])
"""Primitives that move elements."""

SIMPLE = (ELEMENTWISE | LAYOUT | {"dot_general", "transpose", "reduce_sum", "reduce_max", "pad", "rev", "iota"}) - {
    "custom_jvp_call"
}
"""Primitives without inner equations."""

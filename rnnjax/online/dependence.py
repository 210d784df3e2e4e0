"""Which numbers of a function's result depend on which numbers of its arguments, read from its equations.

The pattern holds for all inputs. Every equation is replaced by a linear one with non-negative coefficients: a sum of
its arguments where it is elementwise, the product with ones where it is a product. The nonzero entries of the matrix of
the whole are the pattern. Only zeros that are constants of the function, as in a mask, break a dependence.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun

from rnnjax._unroll.equations import ELEMENTWISE, Equation, Program, Value, traced

Pattern = list[np.ndarray]
"""For each leaf of the arguments, booleans `[size of the result, size of the leaf]`."""

_NO_DERIVATIVE = frozenset(["floor", "ceil", "round", "sign", "stop_gradient", "nextafter", "is_finite"])
_MOVES = frozenset(
    ["reshape", "squeeze", "expand_dims", "slice", "split", "transpose", "broadcast_in_dim", "rev", "reduce_sum"]
)
_INDEXED = frozenset(["dynamic_slice", "gather"])
_REDUCTIONS = frozenset(["reduce_max", "reduce_min", "reduce_prod"])
_CUMULATIVE = frozenset(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"])
_PRODUCTS = frozenset(["dot_general", "conv_general_dilated"])


def dependence(function: Callable[..., Array], *args: Any) -> tuple[Pattern, bool, bool]:
    """The pattern of `function`, whose result is one vector.

    Args:
      function: of arrays or trees.
      args: arrays, or their shapes.
    Returns:
      `(pattern, own_rule, closes_over)`: the pattern for the leaves of `args`; whether a part of the function has a
      backward pass of its own; and whether it closes over arrays, whose zeros were read.

    Example: each unit of a diagonal recurrence depends on its own weight.

      >>> pattern, _, _ = dependence(lambda w, h: jnp.tanh(w * h), jnp.ones(2), jnp.ones(2))
      >>> pattern[0].astype(int).tolist()
      [[1, 0], [0, 1]]
    """
    program, arrays, result, _ = traced(function, *args)
    with jax.ensure_compile_time_eval():
        known: dict[Value, Any] = {
            v: np.asarray(array)
            for v, array in zip(program.closed_over, arrays, strict=True)
            if not isinstance(array, Tracer)
        }
        shapes = [jnp.ones(v.shape, "float32") for v in program.inputs]
        _, pull = jax.vjp(functools.partial(_run, program, known), *shapes)
        size = result.shape[0]
        found = jax.vmap(pull)(jnp.eye(size, dtype="float32")) if size else [jnp.zeros((0, *s.shape)) for s in shapes]
        pattern = [np.asarray(leaf).reshape(size, -1) != 0 for leaf in found]
    own_rule = any([eqn.name.startswith("custom_vjp") for eqn in program.equations])
    return pattern, own_rule, bool(arrays)


def _run(program: Program, known: dict[Value, Any], *inputs: Array) -> Array:
    """The linear function, of the program's first output."""
    env: dict[Value, Array] = dict(zip(program.inputs, inputs, strict=True))
    known = dict(known)

    def constant(value: Value) -> Any:
        return value.constant if value.constant is not None else known.get(value)

    for eqn in program.equations:
        flows = [env.get(v) for v in eqn.inputs]
        constants = [constant(v) for v in eqn.inputs]
        if all([each is not None for each in constants]):
            known.update(zip(eqn.outputs, map(np.asarray, eqn.run(*map(jnp.asarray, constants))), strict=True))
        elif any([flow is not None for flow in flows]):
            outs = _through(eqn, flows, constants)
            for out, flow in zip(eqn.outputs, outs, strict=True):
                if flow is not None and jnp.issubdtype(out.dtype, jnp.inexact):
                    env[out] = flow
    out = program.outputs[0]
    return env.get(out, jnp.zeros(out.shape, "float32"))


def _through(eqn: Equation, flows: list[Any], constants: list[Any]) -> Sequence[Any]:
    """The flows of an equation's outputs; None where they depend on nothing."""
    name, shape = eqn.name, eqn.output.shape
    if name in _NO_DERIVATIVE:
        return [None] * len(eqn.outputs)
    if name in _MOVES or (name in _INDEXED and all([each is not None for each in constants[1:]])):
        if flows[0] is None:
            return [None] * len(eqn.outputs)
        return eqn.run(flows[0], *constants[1:])
    if name in ("concatenate", "pad"):
        zeros = [jnp.zeros(v.shape, "float32") for v in eqn.inputs]
        return eqn.run(*[z if flow is None else flow for z, flow in zip(zeros, flows, strict=True)])
    if name in _REDUCTIONS:
        return [flows[0].sum(eqn.params["axes"])]
    if name in _CUMULATIVE:
        return [lax.cumsum(flows[0], eqn.params["axis"], eqn.params["reverse"])]
    if name == "select_n" and constants[0] is not None:
        cases = [jnp.zeros(shape, "float32") if flow is None else flow for flow in flows[1:]]
        return [lax.select_n(jnp.asarray(constants[0]), *cases)]
    if name == "mul" or name in _PRODUCTS:
        return [_product(eqn, flows, [_size(*each) for each in zip(eqn.inputs, constants, strict=True)])]
    if _is_elementwise(eqn):
        flows = flows[1:] if name == "select_n" else flows
        return [sum([flow + jnp.zeros(shape, "float32") for flow in flows if flow is not None])] * len(eqn.outputs)
    total = sum([flow.sum() for flow in flows if flow is not None])
    return [jnp.full(out.shape, total) for out in eqn.outputs]


def _size(value: Value, constant: Any) -> Array:
    """1 where a factor may be nonzero."""
    return jnp.ones(value.shape, "float32") if constant is None else jnp.asarray(constant != 0, "float32")


def _product(eqn: Equation, flows: list[Any], sizes: list[Array]) -> Array | None:
    def run(a: Array, b: Array) -> Array:
        if eqn.name == "mul":
            return a * b
        if eqn.name == "dot_general":
            return lax.dot_general(a, b, eqn.params["dimension_numbers"])
        names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
        counts = {name: eqn.params[name] for name in (*names, "feature_group_count", "batch_group_count")}
        return lax.conv_general_dilated(a, b, **counts)

    (left, right), (of_left, of_right) = flows, sizes
    terms = [] if left is None else [run(left, of_right)]
    return sum(terms + ([] if right is None else [run(of_left, right)]))  # pyright: ignore[reportReturnType]


def _is_elementwise(eqn: Equation) -> bool:
    """Whether each number of the outputs depends on one number of each input, in the same place."""
    if any([v.shape not in ((), eqn.output.shape) for v in eqn.inputs]):
        return False
    inner = eqn.params.get("call_jaxpr")
    if inner is None:
        return eqn.name in ELEMENTWISE or eqn.name in ("real", "imag", "conj", "complex")
    program = traced(jaxpr_as_fun(inner), *[jax.ShapeDtypeStruct(v.shape, v.dtype) for v in eqn.inputs])[0]
    return all([_is_elementwise(each) or _spreads_a_number(each) for each in program.equations])


def _spreads_a_number(eqn: Equation) -> bool:
    return eqn.name == "broadcast_in_dim" and eqn.inputs[0].shape == ()

"""Floating-point operations of the matmuls in a function, read from its equations."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """2 m n k for every product of an m × k with a k × n matrix; arguments may be `jax.ShapeDtypeStruct`s.

    What is pointwise is left out, a scan counts for each of its steps, and of a conditional the dearest branch counts.

    Example:

      >>> matmul_flops(lambda x, w: jax.nn.relu(x @ w), jax.numpy.ones((5, 3)), jax.numpy.ones((3, 4)))
      120
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr: Jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(_shape(eqn.invars[0])[axis] for axis in contracted)
            total += 2 * depth * math.prod(_shape(eqn.outvars[0]))
            continue
        inside = [_flops(inner) for inner in _inner(eqn.params.values())]
        if inside:
            total += max(inside) if eqn.primitive.name == "cond" else sum(inside) * eqn.params.get("length", 1)
    return total


def _inner(values: Any) -> list[Jaxpr]:
    found = []
    for value in values:
        if isinstance(value, ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, Jaxpr):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _inner(value)
    return found


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape

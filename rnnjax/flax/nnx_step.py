"""Reads the step of an nnx cell as a pure function."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from rnnjax.cell import PyTree
from rnnjax.flax.conventions import Call
from rnnjax.flax.own_step import StepOfModule, why_not_by_rows


@dataclasses.dataclass(frozen=True)
class NnxStep(StepOfModule):
    """An nnx module's step as an rnnjax cell; the module is rebuilt from its parts at every call.

    Attributes:
      graph, tree: the result of `nnx.split` without the arrays.
      used: for each array of the state, whether the step reads it; unused arrays, such as an unused random stream, are
        not passed.
    """

    graph: Any
    tree: Any
    used: tuple[bool, ...]
    features: tuple[int, ...]

    def call(self, params: PyTree, carry: PyTree, inputs: Array) -> tuple[PyTree, PyTree]:
        arrays = iter(params)
        leaves = [next(arrays) if used else _NOTHING for used in self.used]
        return nnx.merge(self.graph, jax.tree.unflatten(self.tree, leaves))(carry, inputs)


_NOTHING = np.zeros(())


def as_step(cell: Any, call: Call, carry: PyTree) -> tuple[NnxStep, list[Any], str | None]:
    """A cell's step, its parameters, and the reason why it is not a pure function of them, or `None` if it is."""
    graph, state = nnx.split(cell)
    leaves, tree = jax.tree.flatten(state)
    same_variables = True

    def step(leaves: list[Any], carry: PyTree, x: Array) -> tuple[tuple[PyTree, PyTree], list[Any]]:
        nonlocal same_variables
        module = nnx.merge(graph, jax.tree.unflatten(tree, leaves))
        results = module(carry, x)
        after, tree_after = jax.tree.flatten(nnx.split(module)[1])
        same_variables = tree_after == tree
        return results, after if same_variables else []

    closed, ((after, y), _) = jax.make_jaxpr(step, return_shape=True)(leaves, carry, call.first_step)
    if not same_variables:
        return NnxStep(graph, tree, (), call.features), [], "its step adds variables to it"
    inputs, outputs = closed.jaxpr.invars[: len(leaves)], closed.jaxpr.outvars[-len(leaves) :] if leaves else []
    names = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
    changed = [
        name for name, v, out in zip(names, inputs, outputs, strict=True) if handed_on(closed.jaxpr, out) is not v
    ]
    read = [v for eqn in closed.jaxpr.eqns for v in eqn.invars]
    read += closed.jaxpr.outvars[: len(closed.jaxpr.outvars) - len(leaves)]
    used = tuple(
        [
            jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) or any([v is each for each in read])
            for leaf, v in zip(leaves, inputs, strict=True)
        ]
    )
    params = [leaf for leaf, kept in zip(leaves, used, strict=True) if kept]
    why = f"its step changes its state ({', '.join(changed)})" if changed else why_not_by_rows(call, carry, after, y)
    return NnxStep(graph, tree, used, call.features), params, why


def handed_on(jaxpr: Any, v: Any) -> Any:
    """The jaxpr input that a value equals, traced through remat and jit calls that return it; else the value itself.

    Example:

      >>> jaxpr = jax.make_jaxpr(lambda a, b: jax.checkpoint(lambda a, b: (a, a + b))(a, b))(1.0, 2.0).jaxpr
      >>> [handed_on(jaxpr, v) in jaxpr.invars for v in jaxpr.outvars]
      [True, False]
    """
    made = next(((eqn, i) for eqn in jaxpr.eqns for i, out in enumerate(eqn.outvars) if out is v), None)
    if made is None or made[0].primitive.name not in ("checkpoint", "remat2", "jit", "pjit"):
        return v
    eqn, i = made
    inner = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    source = handed_on(inner, inner.outvars[i])
    place = next((k for k, each in enumerate(inner.invars) if each is source), None)
    return v if place is None else handed_on(jaxpr, eqn.invars[place])

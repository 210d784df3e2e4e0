"""How much memory a backward pass needs, from its equations alone: what is alive at its worst moment."""

from typing import Any

import jax
from jax import Array
from jax.extend.core import Jaxpr, Literal

from rnnjax._unroll.composites import Part, Run
from rnnjax._unroll.remat import Footprint
from rnnjax.cell import PyTree


def footprint_of(engines: Run, part: Part) -> Footprint:
    """The bytes that each step adds to the forward and backward pass of this part, uncut; and those of its carry.

    Traced for two short lengths of time, of which the difference counts. What is given and what is returned is counted
    apart, as `passing`: the inputs, the outputs, and the gradients of both.
    """

    def forward_and_backward(params: PyTree, carry: PyTree, xs: Array, masks: Any, cotangents: PyTree):
        def outputs(params: PyTree, carry: PyTree, xs: Array):
            return engines(part.cell, params, carry, xs, masks)

        ys, pullback = jax.vjp(outputs, params, carry, xs)
        return ys, pullback(cotangents)

    def peak_and_passing(steps: int) -> tuple[int, int]:
        over_time = part.xs, part.masks
        xs, masks = jax.tree.map(lambda a: jax.ShapeDtypeStruct((steps, *a.shape[1:]), a.dtype), over_time)
        given = part.params, part.carry, xs, masks
        cotangents = jax.eval_shape(lambda *of: engines(part.cell, *of), *given)
        alive = peak_bytes(jax.make_jaxpr(forward_and_backward)(*given, cotangents).jaxpr)
        return alive, 2 * (bytes_of(xs) + bytes_of(cotangents[1]))

    step, passing = (
        more - less for more, less in zip(peak_and_passing(_STEPS + 1), peak_and_passing(_STEPS), strict=True)
    )
    return Footprint(part.xs.shape[0], bytes_of(part.carry), step, passing)


_STEPS = 29
"""Enough that arrays over time outweigh what does not depend on it, such as the gradients of the parameters."""


def peak_bytes(jaxpr: Jaxpr) -> int:
    """The most that is alive at once while the equations run in this order, inputs and outputs not counted.

    Each array is written once and freed after its last use; a loop has only its results. A compiler that fuses makes do
    with less, and rarely by much: what has to live through a loop must be written.

    Example: tanh(x) is needed until exp(x) is there, and both are 400 bytes.

      >>> import jax.numpy as jnp
      >>> peak_bytes(jax.make_jaxpr(lambda x: (jnp.tanh(x) * jnp.exp(x)).sum())(jnp.ones(100, "float32")).jaxpr)
      1200
    """
    outputs = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    last_use: dict[Any, int] = {}
    for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
        if any(v in outputs or v in last_use for v in eqn.outvars):
            for v in eqn.invars:
                if not isinstance(v, Literal):
                    last_use.setdefault(v, i)
    free = outputs | set(jaxpr.invars) | set(jaxpr.constvars)
    alive = most = 0
    for i, eqn in enumerate(jaxpr.eqns):
        alive += sum(bytes_of(v.aval) for v in eqn.outvars if v in last_use and v not in free)
        most = max(most, alive)
        done = {v for v in eqn.invars if not isinstance(v, Literal) and last_use.get(v) == i and v not in free}
        alive -= sum(bytes_of(v.aval) for v in done)
    return most


def bytes_of(tree: PyTree) -> int:
    """Of arrays, or of anything with a shape and a dtype."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        for length in leaf.shape:
            size = size * length
        total = total + size
    return total

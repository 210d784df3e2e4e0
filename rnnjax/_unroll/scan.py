"""Runs the step as written, in `jax.lax.scan`, or in a Python loop, the reference for all engines."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.arguments import Masks, StepInput, timed_step
from rnnjax.cell import Cell, PyTree, batch_shape_of


def unroll_scan(
    cell: Cell, params: PyTree, carry: PyTree, xs: Array, masks: Masks, *, unroll: int = 1
) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """`(carry, (ys, carries))`, with a program size independent of T; a loop body has `unroll` copies of the step."""
    step = _giving_carries(cell, params, xs)
    inputs = StepInput(xs, masks.counts, masks.resets)
    return lax.scan(step, carry, inputs, reverse=masks.reverse, unroll=unroll)


def unroll_loop(
    cell: Cell, params: PyTree, carry: PyTree, xs: Array, masks: Masks
) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """T calls of the step: in eager mode each runs in Python; under `jit` T copies are compiled."""
    step = _giving_carries(cell, params, xs)
    inputs = StepInput(xs, masks.counts, masks.resets)
    steps = range(xs.shape[0])
    found = []
    for t in reversed(steps) if masks.reverse else steps:
        carry, out = step(carry, jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
        found.append(out)
    if masks.reverse:
        found.reverse()
    return carry, jax.tree.map(lambda *rows: jnp.stack(rows), *found)


def _giving_carries(cell: Cell, params: PyTree, xs: Array):
    """A step that also outputs its carry; XLA removes the carries if they are not used."""
    step = timed_step(cell, params, batch_shape_of(cell, xs))

    def both(carry: PyTree, inputs: StepInput):
        carry, y = step(carry, inputs)
        return carry, (y, carry)

    return both

"""The step as it is written: inside `jax.lax.scan`, or in a Python loop, the reference that every engine must equal."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.arguments import Masks, StepInput, timed_step
from rnnjax.cell import Cell, PyTree


def unroll_scan(
    cell: Cell, params: PyTree, carry: PyTree, xs: Array, masks: Masks, *, unroll: int = 1
) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """`(carry, (ys, carries))`, compiled once for any T; `unroll` copies of the step go into one loop body."""
    step = _giving_carries(cell, params, xs)
    inputs = StepInput(xs, masks.counts, masks.resets)
    return lax.scan(step, carry, inputs, reverse=masks.reverse, unroll=unroll)


def unroll_loop(
    cell: Cell, params: PyTree, carry: PyTree, xs: Array, masks: Masks
) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """T calls of the step, one after the other: eager it pays Python for each, jitted it compiles T copies."""
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
    """XLA leaves out what is not used: the carries cost nothing where nobody asks for them."""
    step = timed_step(cell, params, xs.shape[1:-1])

    def both(carry: PyTree, inputs: StepInput):
        carry, y = step(carry, inputs)
        return carry, (y, carry)

    return both

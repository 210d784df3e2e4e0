"""The Python loop: the reference that every other engine must equal, and the slow side of the benchmark."""

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.masking import StepInput, timed_step
from rnnjax._unroll.timing import Timing
from rnnjax.cell import Cell, PyTree


def unroll_loop(cell: Cell, params: PyTree, carry: PyTree, xs: Array, timing: Timing) -> tuple[PyTree, PyTree]:
    """T calls of the step, one after the other: eager it pays Python for each, jitted it compiles T copies."""
    step = timed_step(cell, params, xs.shape[1:-1])
    inputs = StepInput(xs, timing.counts, timing.resets)
    steps = range(xs.shape[0])
    ys = []
    for t in reversed(steps) if timing.reverse else steps:
        carry, y = step(carry, jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
        ys.append(y)
    if timing.reverse:
        ys.reverse()
    return carry, jax.tree.map(lambda *rows: jnp.stack(rows), *ys)

"""`jax.lax.scan`: one copy of the step, compiled once for any T."""

from jax import Array, lax

from rnnjax._unroll.masking import StepInput, timed_step
from rnnjax._unroll.timing import Timing
from rnnjax.cell import Cell, PyTree


def unroll_scan(
    cell: Cell, params: PyTree, carry: PyTree, xs: Array, timing: Timing, *, unroll: int = 1
) -> tuple[PyTree, PyTree]:
    """The step inside `lax.scan`; `unroll` copies of it go into one loop body."""
    step = timed_step(cell, params, xs.shape[1:-1])
    inputs = StepInput(xs, timing.counts, timing.resets)
    return lax.scan(step, carry, inputs, reverse=timing.reverse, unroll=unroll)

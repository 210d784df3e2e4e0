"""One step under a `Timing`, the same for every engine and for the gradient instrument.

Padding must be inert for values *and* gradients, NaN and inf in it included. Selecting afterwards is not enough:
0 × NaN in the backward pass is NaN. So the input of a step that does not count is replaced by zero *before* the step
(`blank`), and its carry and output are selected away after it (`timed_step`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.timing import Timing
from rnnjax.cell import Cell, PyTree


class StepInput(NamedTuple):
    """What one step sees; over all of time each leaf has a leading T. `None` where the `Timing` has none."""

    x: PyTree
    counts: Array | None
    resets: Array | None


def blank(xs: Array, timing: Timing) -> Array:
    """`xs` with an exact zero at every step that does not count. `[T, *batch, D]`."""
    return xs if timing.counts is None else jnp.where(timing.counts[..., None], xs, jnp.zeros_like(xs))


def select(flags: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Row by row, `on_true` where `flags` `[*batch]` holds, else `on_false`; leaves are `[*batch, ...]`."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(flags.reshape(flags.shape + (1,) * (a.ndim - flags.ndim)), a, b)

    return jax.tree.map(pick, on_true, on_false)


def timed_step(
    cell: Cell, params: PyTree, batch_shape: tuple[int, ...]
) -> Callable[[PyTree, StepInput], tuple[PyTree, PyTree]]:
    """The cell's step with resets before it and holding after it, in the order that `jax.lax.scan` wants."""

    def step(carry: PyTree, inputs: StepInput) -> tuple[PyTree, PyTree]:
        if inputs.resets is not None:
            carry = select(inputs.resets, cell.initial_carry(params, batch_shape), carry)
        new_carry, y = cell.step(params, carry, inputs.x)
        if inputs.counts is None:
            return new_carry, y
        return select(inputs.counts, new_carry, carry), select(inputs.counts, y, jax.tree.map(jnp.zeros_like, y))

    return step

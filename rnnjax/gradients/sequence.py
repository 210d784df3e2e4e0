"""A sequence made ready for the instrument: checked, masked, and turned so that time runs forwards."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rnnjax.cell import Cell, PyTree
from rnnjax.unroll.checks import check_carry, checked_xs
from rnnjax.unroll.masking import StepInput, blank
from rnnjax.unroll.timing import make_timing

Loss = Callable[[PyTree], Array]
"""A scalar function of the outputs `ys` `[T, *batch, ...]`; it may weigh every step."""


class Sequence(NamedTuple):
    """What `adjoint` and its kin work on.

    Attributes:
      carry: the carry before the first step.
      inputs: leaves `[T, *batch, ...]` in running order.
      loss: of the outputs in running order (the user's is of the outputs in input order).
    """

    carry: PyTree
    inputs: StepInput
    loss: Loss

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.inputs.x.shape[1:-1]


def prepare(
    cell: Cell,
    params: PyTree,
    carry: PyTree | None,
    xs: ArrayLike,
    loss: Loss,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    resets: ArrayLike | None,
    reverse: bool,
) -> Sequence:
    """Checks everything that `rnnjax.unroll` checks, and what a gradient needs beyond it.

    Raises:
      TypeError: the cell has no single step (`Bidirectional`), the carry is not float32 or float64.
      ValueError: as `rnnjax.unroll`.
    """
    if not hasattr(cell, "step"):
        raise TypeError(
            f"{cell!r} has no single step, so no single carry whose gradient could be followed; take its halves one by "
            "one: the loss of one half is yours as a function of that half's outputs, with the other's held fixed."
        )
    xs = checked_xs(xs)
    timing = make_timing(xs, lengths, mask, resets, reverse)
    xs = blank(xs, timing)
    carry = cell.initial_carry(params, xs.shape[1:-1]) if carry is None else carry
    check_carry(cell, params, carry, xs)
    for path, leaf in jax.tree.leaves_with_path(carry):
        dtype = jnp.result_type(leaf)
        if dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"`carry`{jax.tree_util.keystr(path)} is {dtype}; the log of a norm needs float32 or float64: "
                "draw parameters with `init(..., dtype='float32')` and cast `xs` to match."
            )
    inputs = StepInput(xs, timing.counts, timing.resets)
    if not timing.reverse:
        return Sequence(carry, inputs, loss)
    return Sequence(carry, in_input_order(inputs, True), lambda ys: loss(in_input_order(ys, True)))


def in_input_order(tree: PyTree, reverse: bool) -> PyTree:
    """Leaves `[T, ...]` from running order to input order, or back."""
    return jax.tree.map(lambda leaf: jnp.flip(leaf, 0), tree) if reverse else tree


def output_gradient(loss: Loss, ys: PyTree) -> PyTree:
    """dL/dy_t for every t, a tree like `ys`; raises ValueError where the loss is not one real number."""
    value = jax.eval_shape(loss, ys)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"`loss(ys)` is {value}; it must be one floating-point number: sum or average over steps and rows."
        )
    return jax.grad(loss)(ys)


def outputs_in_carry(cell: Cell, params: PyTree, carry: PyTree, x: Array) -> list[int | None]:
    """For each leaf of y, which leaf of the carry it *is*, if any: the LSTM's y is its h.

    Where the output is part of the carry, a change of the carry after step t changes y_t too, so dL/d(carry_t) has a
    share straight from y_t. Read off the step's own trace: y and the carry are one variable there.
    """
    (new_carry, y), jaxpr = _trace(cell, params, carry, x)
    count = len(jax.tree.leaves(new_carry))
    variables = [id(variable) for variable in jaxpr.outvars]
    carry_variables, y_variables = variables[:count], variables[count:]
    assert len(y_variables) == len(jax.tree.leaves(y))
    return [carry_variables.index(v) if v in carry_variables else None for v in y_variables]


def _trace(cell: Cell, params: PyTree, carry: PyTree, x: Array):
    closed, shapes = jax.make_jaxpr(cell.step, return_shape=True)(params, carry, x)
    return shapes, closed.jaxpr

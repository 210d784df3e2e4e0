"""A sequence made ready for the instrument: checked, masked, and turned so that time runs forwards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll.checks import check_carry, check_cell, checked_xs
from rnnjax._unroll.masking import StepInput, blank, make_masks
from rnnjax.cell import Cell, PyTree

Loss = Callable[[PyTree], Array]
"""A scalar function of the outputs `ys` `[T, *batch, ...]`; it may weigh every step."""


class Sequence(NamedTuple):
    """What `adjoint` and its kin work on.

    Attributes:
      carry: the carry before the first step.
      inputs: leaves `[T, *batch, ...]` in scan order.
      loss: of the outputs in scan order (the user's is of the outputs in input order).
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
      ValueError: as `rnnjax.unroll`; and, once it is called, a loss that is not one real number.
    """
    check_has_step(cell)
    xs = checked_xs(xs)
    masks = make_masks(xs, lengths, mask, resets, reverse)
    xs = blank(xs, masks)
    carry = cell.initial_carry(params, xs.shape[1:-1]) if carry is None else carry
    check_carry(cell, params, carry, xs)
    check_floating(carry)
    inputs = in_input_order(StepInput(xs, masks.counts, masks.resets), reverse)

    def checked_loss(ys: PyTree) -> Array:
        value = loss(in_input_order(ys, reverse))
        shape, dtype = jnp.shape(value), jnp.result_type(value)
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"`loss(ys)` is {dtype} {list(shape)}; it must be one floating-point number: sum or average over steps "
                "and rows."
            )
        return value

    return Sequence(carry, inputs, checked_loss)


def check_has_step(cell: Cell) -> None:
    """Raises TypeError where there is no single carry to follow, or no step that could be followed."""
    check_cell(cell)
    if not hasattr(cell, "step"):
        raise TypeError(
            f"{cell!r} has no single step, so no single carry whose gradient could be followed; take its halves one by "
            "one: the loss of one half is yours as a function of that half's outputs, with the other's held fixed."
        )


def check_floating(carry: PyTree) -> None:
    """Raises TypeError where a part of the carry has no gradient, or one whose norm its dtype cannot hold."""
    for path, leaf in jax.tree.leaves_with_path(carry):
        dtype, where = jnp.result_type(leaf), jax.tree_util.keystr(path)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"`carry`{where} is {dtype}; what is not floating point has no gradient: keep counters and flags out "
                "of the carry (pass them in through `xs`), or make them float32."
            )
        if dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"`carry`{where} is {dtype}; the log of a norm needs float32 or float64: "
                "draw parameters with `init(..., dtype='float32')` and cast `xs` to match."
            )


def in_input_order(tree: PyTree, reverse: bool) -> PyTree:
    """Leaves `[T, ...]` from scan order to input order, or back."""
    return jax.tree.map(lambda leaf: jnp.flip(leaf, 0), tree) if reverse else tree


def inexact(tree: PyTree) -> list[Array]:
    """The leaves that have a gradient; an output may also count, or be a flag."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def gradient_of_outputs(loss: Loss, ys: PyTree) -> list[Array]:
    """dL/dy for each leaf of `inexact(ys)`."""
    leaves, tree = jax.tree.flatten(ys)
    which = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def of_these(given: list[Array]) -> Array:
        merged = list(leaves)
        for i, leaf in zip(which, given, strict=True):
            merged[i] = leaf
        return loss(tree.unflatten(merged))

    return jax.grad(of_these)([leaves[i] for i in which])


def outputs_in_carry(cell: Cell, params: PyTree, carry: PyTree, x: Array) -> list[int | None]:
    """For each leaf of `inexact(y)`, which leaf of the carry it *is*, if any: the LSTM's y is its h.

    Where the output is part of the carry, a change of the carry after step t changes y_t too, so dL/d(carry_t) has a
    share straight from y_t. Read off the step's own trace: y and the carry are one variable there.
    """
    closed, (new_carry, y) = jax.make_jaxpr(cell.step, return_shape=True)(params, carry, x)
    origins = _origins(closed.jaxpr, [(id(variable),) for variable in closed.jaxpr.invars])
    count = len(jax.tree.leaves(new_carry))
    in_carry, in_y = origins[:count], origins[count:]
    homes = [in_carry.index(origin) if origin in in_carry else None for origin in in_y]
    followed = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(y)]
    return [home for home, counts in zip(homes, followed, strict=True) if counts]


_CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")
"""What wraps a function without changing its values; inside, the same variable twice is still one value."""


def _origins(program: Any, given: list[tuple], path: tuple = ()) -> list[tuple]:
    """A name for each output of a jaxpr, the same for two outputs that are one value, also where a step is jitted."""
    known = {id(variable): origin for variable, origin in zip(program.invars, given, strict=True)}

    def origin(variable: Any) -> tuple:
        return known.get(id(variable), (*path, id(variable)))

    for call in program.eqns:
        inner = call.params.get("jaxpr", call.params.get("call_jaxpr"))
        if call.primitive.name in _CALLS and inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            if len(inner.invars) == len(call.invars):
                found = _origins(inner, [origin(variable) for variable in call.invars], (*path, id(call)))
                known |= {id(variable): each for variable, each in zip(call.outvars, found, strict=True)}
    return [origin(variable) for variable in program.outvars]

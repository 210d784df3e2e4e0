"""Cells put together, and walking over their parts."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll.checks import check_carry
from rnnjax._unroll.masking import Masks
from rnnjax.cell import C, P, PyTree

Run = Callable[[Any, PyTree, PyTree, Array, Masks], tuple[PyTree, PyTree]]
"""`(cell, params, carry, xs, masks) -> (carry, ys)`: unroll one part with the options of the call under way."""


@runtime_checkable
class Composite(Protocol[P, C]):
    """Cells put together, such as a stack: says how its parts are run, and each part is unrolled on its own.

    Where an attribute `causal` is true, no output depends on a later input. Then time can be cut for all of the parts
    at once, and what one part hands to the next is not stored for all of time.
    """

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> P: ...

    def initial_carry(self, params: P, batch_shape: tuple[int, ...] = ()) -> C: ...

    def unroll_parts(self, run: Run, params: P, carry: C, xs: Array, masks: Masks) -> tuple[C, PyTree]: ...


class Part(NamedTuple):
    """A cell and the shapes of what it is unrolled with."""

    cell: Any
    params: PyTree
    carry: PyTree
    xs: Any  # [T, *batch, D]
    masks: Masks


def is_causal(cell: Any) -> bool:
    """Whether time can be cut: a cell's can, and that of cells put together if they say so."""
    return not isinstance(cell, Composite) or bool(getattr(cell, "causal", False))


def is_layer(cell: Any) -> bool:
    """Whether an engine runs it as it is: no cells put together."""
    return not isinstance(cell, Composite)


def output_size(cell: Any, params: PyTree, input_size: int) -> int:
    """The width of a cell's outputs for inputs `[..., input_size]`, from the shapes of one step."""

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if isinstance(cell, Composite):
            return cell.unroll_parts(run, params, carry, xs, masks)
        carry, y = cell.step(params, carry, xs[0])
        return carry, jax.tree.map(lambda leaf: leaf[None], y)

    def outputs(params: PyTree) -> Array:
        xs = jax.numpy.zeros((1, input_size), jax.tree.leaves(params)[0].dtype)
        return run(cell, params, cell.initial_carry(params), xs, Masks())[1]

    return jax.eval_shape(outputs, params).shape[-1]


def parts_of(whole: Part, where: Callable[[Any], bool]) -> list[Part]:
    """The outermost parts for which `where` holds, in the order in which they run; nothing is computed."""
    found = []

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if where(cell):
            found.append(Part(cell, *shapes_of((params, carry, xs, masks))))
            return _run_all(cell, params, carry, xs, masks)
        return cell.unroll_parts(run, params, carry, xs, masks)

    jax.eval_shape(lambda *arrays: run(whole.cell, *arrays), *whole[1:])
    return found


def shapes_of(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jax.numpy.shape(leaf), jax.numpy.result_type(leaf)), tree)


def _run_all(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
    """The shapes that an unroll gives, from one step; runs inside `jax.eval_shape` alone."""
    if not is_layer(cell):
        return cell.unroll_parts(_run_all, params, carry, xs, masks)
    y = check_carry(cell, params, carry, xs).y
    return carry, jax.tree.map(lambda leaf: jax.numpy.zeros((xs.shape[0], *leaf.shape), leaf.dtype), y)

"""Which engine runs a layer, and why; and running it."""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
from jax import Array

from rnnjax._unroll.footprints import bytes_of
from rnnjax._unroll.hoist import unroll_hoisted
from rnnjax._unroll.masking import Masks
from rnnjax._unroll.reading import Read, Reading, read
from rnnjax._unroll.scan import unroll_loop, unroll_scan
from rnnjax.cell import Cell, PyTree

Engine = Literal["auto", "loop", "scan", "hoisted"]


class NotHoistable(ValueError):
    """Why the `hoisted` engine, which was asked for by name, cannot run this cell."""


class Choice(NamedTuple):
    """An engine other than "auto", the reason for it, and what was read of the cell if it needs that."""

    engine: str
    why: str
    found: Read | None = None


class Layered(NamedTuple):
    """What a layer's last carry is given back as where the carry after each step is wanted too."""

    last: PyTree
    every: PyTree  # [T, *batch, ...]


def check_engine(engine: Any, unroll: Any) -> None:
    """Raises ValueError for an engine that there is not, and for copies of a step that it cannot make."""
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}; choose one of {', '.join(map(repr, get_args(Engine)))}.")
    if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"unroll is {unroll!r}; it must be a positive integer.")
    if engine == "loop" and unroll != 1:
        raise ValueError(f'unroll is {unroll}, but engine "loop" has no scan body; use engine="scan".')


def choose_engine(engine: str, cell: Cell, params: PyTree, carry: PyTree, xs: Array) -> Choice:
    """`engine` itself where it is named; for "auto", "hoisted" wherever it can serve and pays, else "scan".

    The two give the same numbers. The hoisted engine does the same matmuls in fewer and larger calls, and fewer of them
    inside the loop of the backward pass, so where gates are pointwise it is the first choice at every size.

    Raises:
      NotHoistable: "hoisted" was named and cannot serve this cell.
    """
    if engine == "loop":
        return Choice(engine, "named: the reference, one step after the other in Python")
    if engine == "scan":
        return Choice(engine, "named: the step as it is written inside `jax.lax.scan`")
    batch_ndim = xs.ndim - 2
    row, x = _row_of(carry, batch_ndim), _row_of(xs, batch_ndim + 1)
    found = read(cell, params, row, x, batched=batch_ndim > 0)
    obstacle = found.reading.only_scan or found.reading.own_rule
    if obstacle is None and engine == "auto" and _is_slower_hoisted(found.reading, xs.shape[1:-1]):
        why = f"its gates are not pointwise ({found.reading.why}), and for so many rows all of it in one loop is faster"
        return Choice("scan", f'auto: {why}; engine="hoisted" takes out what can leave')
    if obstacle is None:
        how = "named" if engine == "hoisted" else "auto"
        return Choice("hoisted", f"{how}: {_what_leaves(found.reading)}", found)
    if engine == "hoisted":
        raise NotHoistable(f'{cell!r} cannot be hoisted: {obstacle}; use engine="scan".')
    why = f"auto: hoisted cannot serve it: {obstacle}"
    if found.reading.only_scan is not None or not found.reading.ahead:
        return Choice("scan", why)
    return Choice("scan", f"{why}; what needs no carry is computed ahead of the loop", found)


_MOST_ROWS, _MOST_BYTES = 16, 16_384
"""Where gates are not pointwise, hoisting pays on a CPU up to so many rows, and bytes of products with the carry.

Measured with an LSTM with layer norm on two cores, jax 0.10, training step of scan over hoisted, float32; rows x units:
1x64 1.34, 4x32 1.39, 8x64 1.21, 16x64 1.49; beyond 8x256 0.85, 16x128 0.90, 32x32 0.71, 32x64 0.71, 64x256 0.82 (one
point is a tie, 32x128 1.1). The forward pass is within 0.95 to 1.12 at all of them.
"""


def _is_slower_hoisted(reading: Reading, batch_shape: tuple[int, ...]) -> bool:
    rows = math.prod(batch_shape)
    if reading.gates is not None or jax.default_backend() != "cpu" or not isinstance(rows, int):
        return False
    return rows > _MOST_ROWS or rows * bytes_of([p.out for p in reading.products]) > _MOST_BYTES


def _row_of(tree: PyTree, axes: int) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), tree)


def _what_leaves(reading: Reading) -> str:
    if reading.gates is not None:
        return "every matmul that needs no carry leaves the loop, in the derivative too"
    products, weights = len([eqn for eqn in reading.ahead if eqn.name in _PRODUCTS]), len(reading.products)
    return (
        f"what needs no carry leaves the loop ({products} of its products), and so do the gradients of the weights of "
        f"{weights} products with the carry; slopes stay inside, as its gates are not pointwise: {reading.why}"
    )


_PRODUCTS = ("matmul", "feature", "dot_general")


def run_layer(
    choice: Choice,
    cell: Cell,
    params: PyTree,
    carry: PyTree,
    xs: Array,
    masks: Masks,
    *,
    unroll: int = 1,
    carries: bool = False,
) -> tuple[PyTree, PyTree]:
    """`(carry, ys)` of one layer on the engine that was chosen; with `carries` the carry is `Layered`."""
    if choice.found is not None:
        last, ys, every = unroll_hoisted(choice.found, cell, params, carry, xs, masks, unroll=unroll, carries=carries)
    elif choice.engine == "loop":
        last, (ys, every) = unroll_loop(cell, params, carry, xs, masks)
    else:
        last, (ys, every) = unroll_scan(cell, params, carry, xs, masks, unroll=unroll)
    return (Layered(last, every) if carries else last), ys


def split_carries(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The last carries of all layers, and those after each step, each in the tree of the cells put together."""
    layered = lambda leaf: isinstance(leaf, Layered)  # noqa: E731
    last = jax.tree.map(lambda both: both.last, tree, is_leaf=layered)
    return last, jax.tree.map(lambda both: both.every, tree, is_leaf=layered)

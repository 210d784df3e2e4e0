"""Which engine runs a layer, and why: the one place where that is decided."""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
from jax import Array

from rnnjax._unroll.hoisted import unroll_hoisted
from rnnjax._unroll.loop import unroll_loop
from rnnjax._unroll.pointwise import NotHoistable
from rnnjax._unroll.scan import unroll_scan
from rnnjax._unroll.timing import Timing
from rnnjax.cell import Cell, PyTree

Engine = Literal["auto", "loop", "scan", "hoisted"]


class Choice(NamedTuple):
    """An engine other than "auto", and the reason for it."""

    engine: str
    why: str


def check_engine(engine: Any, unroll: Any) -> None:
    """Raises ValueError for an engine that there is not, and for copies of a step that it cannot make."""
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}; choose one of {', '.join(map(repr, get_args(Engine)))}.")
    if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"unroll is {unroll!r}; it must be a positive integer.")
    if engine == "loop" and unroll != 1:
        raise ValueError(f'unroll is {unroll}, but engine "loop" has no scan body; use engine="scan".')


def choose_engine(engine: str, cell: Cell, params: PyTree, xs: Array) -> Choice:
    """`engine` itself where it is named; for "auto", "hoisted" wherever it can serve, else "scan".

    The two give the same numbers. The hoisted engine does the same matmuls in fewer and larger calls, and fewer of them
    inside the loop of the backward pass, so it is the first choice at every size.

    Raises:
      NotHoistable: "hoisted" was named and cannot serve this cell.
    """
    if engine == "loop":
        return Choice(engine, "named: the reference, one step after the other in Python")
    if engine == "scan":
        return Choice(engine, "named: the step as it is written inside `jax.lax.scan`")
    obstacle = why_not_hoisted(cell, params, xs)
    if obstacle is None:
        how = "named" if engine == "hoisted" else "auto"
        return Choice("hoisted", f"{how}: every matmul that needs no carry leaves the loop, in the derivative too")
    if engine == "hoisted":
        raise NotHoistable(obstacle)
    return Choice("scan", f"auto: hoisted cannot serve it: {obstacle}")


def run_engine(
    engine: str, cell: Cell, params: PyTree, carry: PyTree, xs: Array, timing: Timing, *, unroll: int = 1
) -> tuple[PyTree, PyTree]:
    """One layer on an engine other than "auto"."""
    if engine == "loop":
        return unroll_loop(cell, params, carry, xs, timing)
    chosen = unroll_hoisted if engine == "hoisted" else unroll_scan
    return chosen(cell, params, carry, xs, timing, unroll=unroll)


def why_not_hoisted(cell: Cell, params: PyTree, xs: Array) -> str | None:
    """What keeps the hoisted engine from serving this cell, in words; `None` if nothing does.

    It is tried on the shapes of a single row, as that is how the engine reads a cell. The answer is kept for cells that
    are equal.
    """
    leaves, tree = jax.tree.flatten(params)
    shapes = tuple(_shape(leaf) for leaf in leaves)
    x = jax.ShapeDtypeStruct(xs.shape[-1:], xs.dtype)
    try:
        hash(cell)
    except TypeError:  # a cell of arrays, or with a list among its fields, works like any other
        return _obstacle.__wrapped__(cell, tree, shapes, x)
    return _obstacle(cell, tree, shapes, x)


@functools.lru_cache(maxsize=256)
def _obstacle(cell: Cell, tree: Any, shapes: tuple[Any, ...], x: jax.ShapeDtypeStruct) -> str | None:
    params = jax.tree.unflatten(tree, shapes)
    xs = jax.ShapeDtypeStruct((1, *x.shape), x.dtype)

    def split_step(params: PyTree, xs: Array):
        carry, us = cell.initial_carry(params, ()), cell.project(params, xs)
        return cell.gate(params, carry, jax.tree.map(lambda u: u[0], us), cell.mix(params, carry))

    def hoisted(params: PyTree, xs: Array):
        return unroll_hoisted(cell, params, cell.initial_carry(params, ()), xs, Timing())

    try:
        jax.eval_shape(split_step, params, xs)
    except Exception as error:  # of the cell's own, whose `step` may well work
        what = f"{type(error).__name__}: {error}"
        return f'{cell!r} cannot do project, mix and gate for a single row ({what}); use engine="scan".'
    try:
        jax.eval_shape(hoisted, params, xs)
    except NotHoistable as error:  # anything else is an error of ours and not to be hidden behind another engine
        return str(error)
    return None


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jax.numpy.shape(leaf), jax.numpy.result_type(leaf))

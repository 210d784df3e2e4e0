"""The one contract for time, from the call to the engine.

A call goes through this file from top to bottom: `unroll` checks what it is given; `run_program` keeps one compiled
program for equal cells and options; `runner` cuts time into segments and gives every layer an engine; `choose_engine`
says which, and why, from what is read of the cell's step; `run_layer` runs it (`hoist.py`, `scan.py`).
"""

import collections
import contextlib
import dataclasses
import math
import weakref
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args, overload

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import (
    Composite,
    Masks,
    Part,
    Run,
    StepInput,
    check_carry,
    explicit_axes,
    is_causal,
    is_layer,
    make_whole,
    settled,
    shapes_of,
    sharding_over_time,
    timed_step,
    typed_mesh,
    varying_alike,
)
from rnnjax._unroll.equations import bytes_of
from rnnjax._unroll.hoist import unroll_hoisted
from rnnjax._unroll.reading import Read, Reading, read
from rnnjax._unroll.remat import (
    Checkpoint,
    check_checkpoint,
    check_chunk,
    cuts_of,
    in_segments,
    share_of_budget,
)
from rnnjax._unroll.scan import unroll_loop, unroll_scan
from rnnjax.cell import C, Cell, P, PyTree, over_time

Engine = Literal["auto", "loop", "scan", "hoisted"]


@overload
def unroll(
    cell: Cell[P, C] | Composite[P, C],
    params: P,
    xs: ArrayLike,
    *,
    carry: C | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    engine: Engine = "auto",
    checkpoint: Checkpoint = None,
    chunk: int | None = None,
    unroll: int = 1,
    carries: Literal[False] = False,
) -> tuple[C, PyTree]: ...


@overload
def unroll(
    cell: Cell[P, C] | Composite[P, C],
    params: P,
    xs: ArrayLike,
    *,
    carry: C | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    engine: Engine = "auto",
    checkpoint: Checkpoint = None,
    chunk: int | None = None,
    unroll: int = 1,
    carries: Literal[True],
) -> tuple[C, PyTree, C]: ...


@overload
def unroll(
    cell: Cell[P, C] | Composite[P, C],
    params: P,
    xs: ArrayLike,
    *,
    carry: C | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    engine: Engine = "auto",
    checkpoint: Checkpoint = None,
    chunk: int | None = None,
    unroll: int = 1,
    carries: bool,
) -> tuple[Any, ...]: ...


@over_time
def unroll(
    cell: Cell[P, C] | Composite[P, C],
    params: P,
    xs: ArrayLike,
    *,
    carry: C | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    engine: Engine = "auto",
    checkpoint: Checkpoint = None,
    chunk: int | None = None,
    unroll: int = 1,
    carries: bool = False,
) -> Any:
    """Applies a cell over time: carry_t, y_t = step(params, carry_{t-1}, x_t) for t = 1..T.

    A step that does not count, by `lengths` or by `mask`, holds the carry and gives exactly zero output; NaN or inf in
    its input changes no output and no gradient, bit for bit.

    An eager call is compiled once for equal cells, options and shapes; the last 256 cells and options are kept. Meshes
    whose axes are part of an array's type, explicit or of a `jax.shard_map` around the call, are followed: the carry is
    cut as `xs` is.

    Args:
      cell: a `Cell`, or cells put together (`Stack`, `Bidirectional`).
      params: its parameters, from `cell.init` or your own.
      carry: the carry before the first step; `None` for `cell.initial_carry`.
      xs: `[T, *batch, D]`, time first, any number of batch axes.
      lengths: `[*batch]` integers in 0..T: step t of row b counts while t < lengths[b]; beyond it nothing happens.
      mask: `[T, *batch]` booleans, False at interior gaps.
      resets: `[T, *batch]` booleans: the carry becomes the initial carry before that step, in running order.
      reverse: each row runs from its own end to its start; `ys` stays in input order.
      engine: "hoisted" (every matmul that needs no carry leaves the loop, in the derivative too), "scan"
        (`jax.lax.scan`), "loop" (Python; the reference), or "auto": "hoisted" where it can serve, else "scan".
      checkpoint: keeps less for the backward pass, and computes the rest again: time is cut into segments, of which the
        carry at the start is stored. A number of steps for a segment; "sqrt" for about √T; `MemoryBudget(bytes)` for
        segments within segments until the estimate fits. Each level costs one more forward pass.
      chunk: the hoisted engine projects the inputs of this many steps at once, not of all T; nothing is recomputed.
      unroll: how many steps go into one body of the scan.
      carries: whether to give the carry after each step too.
    Returns:
      `(carry, ys)`: the carry after each row's last step, and the outputs `[T, *batch, ...]`; with `carries` also the
      carry after each step, `(carry, ys, carries)`, each leaf `[T, *batch, ...]`, held where a step is masked.
    Raises:
      ValueError: a shape that does not fit, T = 0, lengths outside 0..T (where their values are
        known), an unknown engine, a named one that cannot serve this cell, a budget that cannot be met.
      TypeError: an integer input, a dtype other than the parameters', a mask that is not boolean.
    See also:
      `rnnjax.explain`, for which engine runs each layer and why, the segments, and the bytes and FLOPs to expect.

    Example: two rows of different length in one batch; the first output beyond the end of a row is zero.

      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, ys = rnnjax.unroll(cell, params, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 2]))
      >>> ys.shape, float(jnp.abs(ys[2:, 1]).max())
      ((5, 2, 4), 0.0)
    """
    options = Options(engine, unroll, checkpoint, chunk, carries)
    whole = make_whole(cell, params, carry, xs, lengths, mask, resets, reverse)
    last, ys = run_program(options, whole)
    if not carries:
        return last, ys
    last, every = split_carries(last)
    return last, ys, every


@dataclasses.dataclass(frozen=True)
class Options:
    """How `unroll` is to run, checked; none of it changes a number."""

    engine: Engine = "auto"
    unroll: int = 1
    checkpoint: Checkpoint = None
    chunk: int | None = None
    carries: bool = False

    def __post_init__(self) -> None:
        check_engine(self.engine, self.unroll)
        if self.checkpoint is not None:
            check_checkpoint(self.checkpoint)
        if self.chunk is not None:
            check_chunk(self.chunk)
        if not isinstance(self.carries, bool):
            raise TypeError(f"carries is {self.carries!r}; it is True or False: whether to give every step's carry.")


def check_engine(engine: Any, unroll: Any) -> None:
    """Raises ValueError for an engine that there is not, and for copies of a step that it cannot make."""
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}; choose one of {', '.join(map(repr, get_args(Engine)))}.")
    if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"unroll is {unroll!r}; it must be a positive integer.")
    if engine == "loop" and unroll != 1:
        raise ValueError(f'unroll is {unroll}, but engine "loop" has no scan body; use engine="scan".')


_MOST_PROGRAMS = 256
"""How many pairs of cell and options keep their program; the oldest goes first."""

_PROGRAMS: "collections.OrderedDict[Any, Callable[..., tuple[PyTree, PyTree]]]" = collections.OrderedDict()
_CLOSE_OVER: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
"""Cells whose programs are not kept: they close over arrays, which may be others at the next call, and go with them."""


def run_program(options: Options, whole: Part) -> tuple[PyTree, PyTree]:
    """`(carry, ys)`, from the program kept for this cell where one can be kept."""
    cell, *arrays = whole
    if options.engine == "loop" or _jit_is_off() or _is_staged() or not _are_arrays(arrays):
        return runner(options, whole)(*whole)
    try:
        hash(cell)
    except TypeError:  # as with a list among its fields
        return runner(options, whole)(*whole)
    program = _PROGRAMS.get((options, cell)) or _new_program(options, cell, arrays)
    if program is not None:
        with contextlib.suppress(ClosesOverArrays):  # of these shapes, where it did not of others
            return program(*arrays)
    return runner(options, whole)(*whole)


def _new_program(options: Options, cell: Any, arrays: list[Any]) -> Any:
    """A program that is kept from now on; `None` for a cell that closes over arrays."""
    with contextlib.suppress(TypeError):  # takes no weak references
        if cell in _CLOSE_OVER:
            return None

    def run(*arrays: Any) -> tuple[PyTree, PyTree]:
        whole = Part(cell, *arrays)
        return runner(options, whole, kept=True)(*whole)

    program = jax.jit(run)
    try:
        program.trace(*arrays)
    except ClosesOverArrays:
        with contextlib.suppress(TypeError):
            _CLOSE_OVER[cell] = True
        return None
    _PROGRAMS[options, cell] = program
    if len(_PROGRAMS) > _MOST_PROGRAMS:
        _PROGRAMS.popitem(last=False)
    return program


class ClosesOverArrays(Exception):
    """A cell refers to arrays that are not among its arguments: at the next call they may be others."""


def _jit_is_off() -> bool:
    config: Any = jax.config  # its switches are attributes that JAX adds at run time
    return config.jax_disable_jit


def _is_staged() -> bool:
    """Whether the code that runs now is being traced for a program of somebody else's: then no array has a value."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def _are_arrays(tree: PyTree) -> bool:
    """Python numbers among parameters stay numbers in a step, and are not traced."""
    return all([isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in jax.tree.leaves(tree)])


def runner(options: Options, whole: Part, kept: bool = False) -> Run:
    """What `unroll` calls: every part in its segments, every layer on its engine; `whole` gives the shapes."""
    engines = on_engines(options, kept)
    if options.checkpoint is None and options.chunk is None:
        return engines
    uncut = on_engines(options)  # for what is traced to see how much memory it needs
    share = share_of_budget(options.checkpoint, uncut, whole)

    def with_carries(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        carry, ys = engines(cell, params, carry, xs, masks)
        last, every = split_carries(carry) if options.carries else (carry, ())
        return last, (ys, every)

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if not is_causal(cell):
            return cell.unroll_parts(run, params, carry, xs, masks)
        part = Part(cell, *shapes_of((params, carry, xs, masks)))
        cuts = cuts_of(options.checkpoint, options.chunk, uncut, part, share)
        last, (ys, every) = in_segments(with_carries, cuts)(cell, params, carry, xs, masks)
        return (Layered(last, every) if options.carries else last), ys

    return run


def on_engines(options: Options, kept: bool = False) -> Run:
    """Every layer on its engine, over all the steps it is given at once.

    Args:
      kept: the program made of this will serve other calls too: then a cell that closes over arrays is refused.
    """

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if not is_layer(cell):
            return cell.unroll_parts(run, params, carry, xs, masks)
        if check_carry(cell, params, carry, xs).closes_over and kept:
            raise ClosesOverArrays
        if typed_mesh((params, carry, xs, masks)) is None:
            return on_engine(cell, params, carry, xs, masks)
        return on_mesh(cell, params, carry, xs, masks)

    def on_engine(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        choice = choose_engine(options.engine, cell, params, carry, xs)
        return run_layer(choice, cell, params, carry, xs, masks, unroll=options.unroll, carries=options.carries)

    def on_mesh(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        """The hoisted engine's reshapes join the axes of time and batch, for which an explicit type has no words.

        So it leaves explicit axes to XLA, and what comes out is cut as the steps would cut it.
        """
        mesh = typed_mesh((params, carry, xs, masks))
        params, carry, xs, masks = varying_alike((params, carry, xs, masks))
        inputs = StepInput(xs, masks.counts, masks.resets)
        step = timed_step(cell, params, xs.shape[1:-1])
        carry, (new, y) = settled(lambda carry: step(carry, jax.tree.map(lambda leaf: leaf[0], inputs)), carry)
        axes = explicit_axes(mesh)
        if options.engine in ("loop", "scan") or not axes:
            return on_engine(cell, params, carry, xs, masks)
        last, every = jax.tree.map(lambda aval: aval.sharding, new), jax.tree.map(sharding_over_time, new)
        cut = Layered(last, every) if options.carries else last, jax.tree.map(sharding_over_time, y)
        run: Any = jax.sharding.auto_axes(lambda *arrays: on_engine(cell, *arrays), axes=axes, out_sharding=cut)
        return run(params, carry, xs, masks)

    return run


class NotHoistable(ValueError):
    """Why the `hoisted` engine, which was asked for by name, cannot run this cell."""


class Choice(NamedTuple):
    """An engine other than "auto", the reason for it, and what was read of the cell if it needs that."""

    engine: str
    why: str
    found: Read | None = None


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


class Layered(NamedTuple):
    """What a layer's last carry is given back as where the carry after each step is wanted too."""

    last: PyTree
    every: PyTree  # [T, *batch, ...]


def split_carries(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The last carries of all layers, and those after each step, each in the tree of the cells put together."""
    layered = lambda leaf: isinstance(leaf, Layered)  # noqa: E731
    last = jax.tree.map(lambda both: both.last, tree, is_leaf=layered)
    return last, jax.tree.map(lambda both: both.every, tree, is_leaf=layered)


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

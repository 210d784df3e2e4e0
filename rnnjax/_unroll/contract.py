"""`unroll`, from the call to the engine.

A call goes through this file from top to bottom: `unroll` checks its arguments; `run_program` caches one compiled
program for equal cells and options; `runner` splits time into segments and gives every layer an engine; `choose_engine`
chooses the engine from the traced step; `run_layer` runs it (`hoist.py`, `scan.py`).
"""

import collections
import contextlib
import dataclasses
import functools
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
from rnnjax._unroll.associative import Linear, NotLinear, read_linear, unroll_associative
from rnnjax._unroll.equations import bytes_of
from rnnjax._unroll.hoist import unroll_hoisted
from rnnjax._unroll.newton import Parallel, named_error, unroll_newton
from rnnjax._unroll.noise import Noise, with_noise
from rnnjax._unroll.reading import NOTHING_LEAVES, Read, Reading, read
from rnnjax._unroll.remat import (
    Checkpoint,
    check_checkpoint,
    check_chunk,
    cuts_of,
    in_segments,
    share_of_budget,
)
from rnnjax._unroll.scan import unroll_loop, unroll_scan
from rnnjax.cell import C, Cell, P, PyTree, batch_shape_of, over_time

EngineName = Literal["auto", "loop", "scan", "hoisted", "associative", "parallel"]
Engine = EngineName | Parallel


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
    key: Array | None = None,
    noise: Noise | None = None,
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
    key: Array | None = None,
    noise: Noise | None = None,
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
    key: Array | None = None,
    noise: Noise | None = None,
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
    key: Array | None = None,
    noise: Noise | None = None,
) -> Any:
    """Applies a cell over time: carry_t, y_t = step(params, carry_{t-1}, x_t) for t = 1..T.

    A masked step, by `lengths` or `mask`, does not change the carry and outputs exactly zero. NaN or inf in its input
    affects no output and no gradient.

    An eager call compiles once for equal cells, options and shapes; the last 256 pairs of cell and options are cached.
    On an explicit mesh, or inside `jax.shard_map`, the carry is sharded like `xs`.

    Args:
      cell: a `Cell`, or a composite (`Stack`, `Bidirectional`).
      params: its parameters, from `cell.init` or your own.
      carry: the carry before the first step; `None` for `cell.initial_carry`.
      xs: `[T, *batch, D]`, time first, with any number of batch axes; `[T, *batch, *space, D]` for a convolutional
        cell, or a composite of them.
      lengths: `[*batch]` integers in 0..T; steps t >= lengths[b] of row b are masked.
      mask: `[T, *batch]` booleans, False at masked steps (gaps).
      resets: `[T, *batch]` booleans, True where the carry is reset to the initial carry before that step, in scan
        order.
      reverse: run each row from its own end to its start; `ys` stays in input order.
      engine: "hoisted" (every matmul that does not need the carry leaves the loop, in the derivative too), "scan"
        (`jax.lax.scan`), "loop" (a Python loop; the reference), "associative" (`jax.lax.associative_scan`, for a step
        that is linear in its carry), `rnnjax.Parallel(...)` (Newton's method for all steps at once, for networks that
        are not chaotic; "parallel" for its defaults), or "auto": "hoisted" if possible, else "scan".
      checkpoint: remat: time is split into segments, only the carry at the start of each segment is stored, and the
        rest is recomputed in the backward pass. The number of steps per segment; "sqrt" for about √T; or
        `MemoryBudget(bytes)` for nested segments until the estimate fits. Each level costs one more forward pass.
      chunk: steps per input projection in the hoisted engine, instead of all T; nothing is recomputed.
      unroll: steps per body of the scan.
      carries: also return the carry after each step.
      key: draws the noise of random wrappers, such as `Dropout`, as in training. Without it they use the expectation.
      noise: noise that is drawn already (`rnnjax.draw_noise`), instead of a key.
    Returns:
      `(carry, ys)`: the carry after each row's last step, and the outputs `[T, *batch, ...]`; with `carries`,
      `(carry, ys, carries)`, where each leaf of `carries` is `[T, *batch, ...]` and does not change at masked steps.
    Raises:
      ValueError: a shape does not fit, T = 0, lengths are outside 0..T (if their values are known), the engine is
        unknown or cannot run this cell, or the memory budget cannot be met.
      TypeError: the input is integer, or differs in dtype from the parameters; or a mask is not boolean.
      NotConverged: the engine is `Parallel(above="raise")` and did not reach its tolerance (inside of `jax.jit`, a
        `jax.errors.JaxRuntimeError` that names it).
    See also:
      `rnnjax.explain` shows which engine runs each layer and why, the segments, and the expected bytes and FLOPs.

    Example: two rows of different lengths in one batch; the first output after the end of a row is zero.

      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, ys = rnnjax.unroll(cell, params, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 2]))
      >>> ys.shape, float(jnp.abs(ys[2:, 1]).max())
      ((5, 2, 4), 0.0)
    """
    options = Options(engine, unroll, checkpoint, chunk, carries)
    whole = make_whole(cell, params, carry, xs, lengths, mask, resets, reverse, key, noise)
    run = functools.partial(run_program, options, whole)
    last, ys = named_error(options.engine, run) if isinstance(options.engine, Parallel) else run()
    if not carries:
        return last, ys
    last, every = split_carries(last)
    return last, ys, every


@dataclasses.dataclass(frozen=True)
class Options:
    """Checked options of `unroll`; none of them changes the results."""

    engine: Engine = "auto"
    unroll: int = 1
    checkpoint: Checkpoint = None
    chunk: int | None = None
    carries: bool = False

    def __post_init__(self) -> None:
        check_engine(self.engine, self.unroll)
        if self.engine == "parallel":
            object.__setattr__(self, "engine", Parallel())
        if self.checkpoint is not None:
            check_checkpoint(self.checkpoint)
        if self.chunk is not None:
            check_chunk(self.chunk)
        if not isinstance(self.carries, bool):
            raise TypeError(
                f"carries is {self.carries!r}; it must be True or False: whether to return every step's carry."
            )


def check_engine(engine: Any, unroll: Any) -> None:
    """Raises ValueError for an unknown engine, or an invalid `unroll`."""
    if not isinstance(engine, Parallel) and engine not in get_args(EngineName):
        choices = ", ".join(map(repr, get_args(EngineName)))
        raise ValueError(f"engine is {engine!r}; choose one of {choices}, or a `rnnjax.Parallel`.")
    if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"unroll is {unroll!r}; it must be a positive integer.")
    if engine == "loop" and unroll != 1:
        raise ValueError(f'unroll is {unroll}, but engine "loop" has no scan body; use engine="scan".')


_MOST_PROGRAMS = 256
"""The number of pairs of cell and options whose programs are cached; the oldest is dropped first."""

_PROGRAMS: "collections.OrderedDict[Any, Callable[..., tuple[PyTree, PyTree]]]" = collections.OrderedDict()
_CLOSE_OVER: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
"""Cells whose programs are not cached, because they close over arrays, which may change and must not be kept alive."""


def run_program(options: Options, whole: Part) -> tuple[PyTree, PyTree]:
    """`(carry, ys)`, from a cached program if this cell can have one."""
    cell, *arrays = whole
    if options.engine == "loop" or _jit_is_off() or _is_staged() or not _are_arrays(arrays):
        return runner(options, whole)(*whole)
    try:
        hash(cell)
    except TypeError:  # not hashable, for example with a list among its fields
        return runner(options, whole)(*whole)
    program = _PROGRAMS.get((options, cell)) or _new_program(options, cell, arrays)
    if program is not None:
        with contextlib.suppress(ClosesOverArrays):  # for these shapes, though not for others
            return program(*arrays)
    return runner(options, whole)(*whole)


def _new_program(options: Options, cell: Any, arrays: list[Any]) -> Any:
    """A new cached program; `None` for a cell that closes over arrays."""
    with contextlib.suppress(TypeError):  # the cell does not support weak references
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
    """A cell refers to arrays that are not among its arguments, and may be different at the next call."""


def _jit_is_off() -> bool:
    config: Any = jax.config  # JAX adds its switches as attributes at run time
    return config.jax_disable_jit


def _is_staged() -> bool:
    """Whether the current code is being traced by an outer transformation, so that arrays have no values."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def _are_arrays(tree: PyTree) -> bool:
    """Whether all leaves are arrays; Python numbers among parameters stay numbers and are not traced."""
    return all([isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in jax.tree.leaves(tree)])


def runner(options: Options, whole: Part, kept: bool = False) -> Run:
    """The function that runs every part in its segments and every layer on its engine; `whole` has the shapes."""
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
    """Runs every layer on its engine, over all given steps at once.

    Args:
      kept: whether the program will be cached; then a cell that closes over arrays raises `ClosesOverArrays`.
    """

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if not is_layer(cell):
            return cell.unroll_parts(run, params, carry, xs, masks)
        if check_carry(cell, params, carry, xs, masks.noise).closes_over and kept:
            raise ClosesOverArrays
        cell, xs = with_noise(cell, xs, masks.noise, len(batch_shape_of(cell, xs)))
        masks = dataclasses.replace(masks, noise=None)
        if typed_mesh((params, carry, xs, masks)) is None:
            return on_engine(cell, params, carry, xs, masks)
        return on_mesh(cell, params, carry, xs, masks)

    def on_engine(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        choice = choose_engine(options.engine, cell, params, carry, xs)
        return run_layer(choice, cell, params, carry, xs, masks, unroll=options.unroll, carries=options.carries)

    def on_mesh(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        """The hoisted engine merges the axes of time and batch, which explicit types cannot express.

        So explicit axes are left to XLA, and the results get the sharding that the steps would give.
        """
        mesh = typed_mesh((params, carry, xs, masks))
        params, carry, xs, masks = varying_alike((params, carry, xs, masks))
        inputs = StepInput(xs, masks.counts, masks.resets)
        step = timed_step(cell, params, batch_shape_of(cell, xs))
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
    """The engine is "hoisted", but cannot run this cell; the message says why."""


class Choice(NamedTuple):
    """An engine other than "auto", the reason for it, and the `Reading` of the cell if the engine needs it."""

    engine: str
    why: str
    found: Read | None = None
    linear: Linear | None = None
    parallel: Parallel | None = None


def choose_engine(engine: str | Parallel, cell: Cell, params: PyTree, carry: PyTree, xs: Array) -> Choice:
    """The named engine, or, for "auto", "hoisted" if it can run the cell and is faster, else "scan".

    Both give the same numbers. The hoisted engine computes the same matmuls in fewer and larger calls, with fewer of
    them inside the backward loop, so it is the first choice at every size if gates are elementwise.

    Raises:
      NotHoistable: the engine is "hoisted" and cannot run this cell.
    """
    if engine == "loop":
        return Choice("loop", "named: a Python loop over the steps, the reference")
    if engine == "scan":
        return Choice("scan", "named: the step as written, inside `jax.lax.scan`")
    batch_shape = batch_shape_of(cell, xs)
    row, x = _row_of(carry, len(batch_shape)), _row_of(xs, len(batch_shape) + 1)
    found = read(cell, params, row, x, batched=len(batch_shape) > 0)
    obstacle = found.reading.only_scan or found.reading.own_rule
    if isinstance(engine, Parallel):
        return _parallel(engine, obstacle, cell, params, row, x)
    if engine == "associative":
        return _associative(obstacle, cell, params, row, x)
    if obstacle is None and engine == "auto" and _is_slower_hoisted(found.reading, batch_shape):
        why = f"its gates are not elementwise ({found.reading.why}), and for so many rows a single loop is faster"
        return Choice("scan", f'auto: {why}; engine="hoisted" hoists what it can')
    if obstacle is None:
        how = "named" if engine == "hoisted" else "auto"
        return Choice("hoisted", f"{how}: {_what_leaves(found.reading)}", found)
    if engine == "hoisted":
        raise NotHoistable(f'{cell!r} cannot be hoisted: {obstacle}; use engine="scan".')
    why = f"auto: hoisted cannot run it: {obstacle}"
    if found.reading.only_scan is not None or not found.reading.ahead:
        return Choice("scan", why)
    return Choice("scan", f"{why}; what does not need the carry is computed ahead of the loop", found)


def _associative(obstacle: str | None, cell: Cell, params: PyTree, carry: PyTree, x: Any) -> Choice:
    """The choice of the associative engine; raises `NotLinear` if it cannot run the cell."""
    try:
        if obstacle not in (None, NOTHING_LEAVES):
            raise NotLinear(obstacle)
        linear = read_linear(cell, params, carry, x)
    except NotLinear as reason:
        raise NotLinear(f'{cell!r} cannot run as an associative scan: {reason}; use engine="auto".') from None
    return Choice("associative", "named: the step is linear in its carry; a parallel scan over time", linear=linear)


def _parallel(parallel: Parallel, obstacle: str | None, cell: Cell, params: PyTree, carry: PyTree, x: Any) -> Choice:
    """Newton's method; or a single parallel scan, which is exact, if the step is linear in its carry."""
    try:
        linear = _associative(obstacle, cell, params, carry, x).linear
    except NotLinear:
        how = "Newton's method" if parallel.jacobian == "full" else "corrections with the diagonal of the Jacobian"
        return Choice("parallel", f"named: {how} for all steps at once", parallel=parallel)
    return Choice("associative", "parallel: the step is linear in its carry, so that one scan is exact", linear=linear)


_MOST_ROWS, _MOST_BYTES = 16, 16_384
"""If gates are not elementwise, hoisting is faster on a CPU up to this many rows, and bytes of products with the carry.

Measured with a layer-norm LSTM on two cores, jax 0.10, float32; training time of scan over hoisted, for rows x units:
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
        return "every matmul that does not need the carry leaves the loop, in the derivative too"
    products, weights = len([eqn for eqn in reading.ahead if eqn.name in _PRODUCTS]), len(reading.products)
    return (
        f"what does not need the carry leaves the loop ({products} products), and so do the weight gradients of "
        f"{weights} products with the carry; slopes stay inside because its gates are not elementwise: {reading.why}"
    )


_PRODUCTS = ("matmul", "feature", "dot_general", "conv_general_dilated")


class Layered(NamedTuple):
    """The last carry of a layer together with the carry after each step."""

    last: PyTree
    every: PyTree  # [T, *batch, ...]


def split_carries(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The last carries of all layers, and the carries after each step, each in the tree of the composite."""
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
    """`(carry, ys)` of one layer on the chosen engine; with `carries`, the carry is `Layered`."""
    if choice.found is not None:
        last, ys, every = unroll_hoisted(choice.found, cell, params, carry, xs, masks, unroll=unroll, carries=carries)
    elif choice.linear is not None:
        last, (ys, every) = unroll_associative(choice.linear, cell, params, carry, xs, masks)
    elif choice.parallel is not None:
        last, (ys, every) = unroll_newton(choice.parallel, cell, params, carry, xs, masks)
    elif choice.engine == "loop":
        last, (ys, every) = unroll_loop(cell, params, carry, xs, masks)
    else:
        last, (ys, every) = unroll_scan(cell, params, carry, xs, masks, unroll=unroll)
    return (Layered(last, every) if carries else last), ys

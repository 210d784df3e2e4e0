"""The one contract for time."""

from typing import Any, Literal, overload

from jax.typing import ArrayLike

from rnnjax._unroll.checks import check_cell, checked_xs
from rnnjax._unroll.composites import Composite, Part
from rnnjax._unroll.engines import Engine, split_carries
from rnnjax._unroll.masking import blank, make_masks
from rnnjax._unroll.placement import rows_like
from rnnjax._unroll.planning import Options
from rnnjax._unroll.program import run_program
from rnnjax._unroll.remat import Checkpoint
from rnnjax.cell import C, Cell, P, PyTree, over_time


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


def make_whole(
    cell: Cell | Composite,
    params: PyTree,
    carry: PyTree | None,
    xs: ArrayLike,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    resets: ArrayLike | None,
    reverse: bool,
) -> Part:
    """The arguments checked, padding blanked, and the initial carry in place of `None`."""
    check_cell(cell)
    xs = checked_xs(xs)
    masks = make_masks(xs, lengths, mask, resets, reverse)
    carry = cell.initial_carry(params, xs.shape[1:-1]) if carry is None else carry
    return Part(cell, params, rows_like(xs, carry, 1), blank(xs, masks), masks)

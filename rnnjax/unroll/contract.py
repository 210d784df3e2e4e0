"""The one contract for time, and the choice of engine."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from jax import Array
from jax.typing import ArrayLike, DTypeLike

from rnnjax.cell import Cell, PyTree
from rnnjax.unroll.checks import check_carry, checked_xs
from rnnjax.unroll.hoisted import unroll_hoisted
from rnnjax.unroll.loop import unroll_loop
from rnnjax.unroll.masking import blank
from rnnjax.unroll.scan import unroll_scan
from rnnjax.unroll.timing import Timing, make_timing

Engine = Literal["auto", "loop", "scan", "hoisted"]

Run = Callable[[Any, PyTree, PyTree, Array, Timing], tuple[PyTree, PyTree]]
"""`(cell, params, carry, xs, timing) -> (carry, ys)`: unroll one layer with the options of the call under way."""


@runtime_checkable
class Composite(Protocol):
    """Cells put together, such as a stack: says how its parts are run, and each part is unrolled on its own."""

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree: ...

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree: ...

    def unroll_parts(
        self, run: Run, params: PyTree, carry: PyTree, xs: Array, timing: Timing
    ) -> tuple[PyTree, PyTree]: ...


def unroll(
    cell: Cell | Composite,
    params: PyTree,
    carry: PyTree | None,
    xs: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    engine: Engine = "auto",
    unroll: int = 1,
) -> tuple[PyTree, PyTree]:
    """Applies a cell over time: carry_t, y_t = step(params, carry_{t-1}, x_t) for t = 1..T.

    A step that does not count, by `lengths` or by `mask`, holds the carry and gives exactly zero output; NaN or inf in
    its input changes no output and no gradient, bit for bit.

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
        (`jax.lax.scan`), "loop" (Python; the reference), or "auto".
      unroll: how many steps go into one body of the scan.
    Returns:
      `(carry, ys)`: the carry after each row's last step, and the outputs `[T, *batch, ...]`.
    Raises:
      ValueError: a shape that does not fit, T = 0, lengths outside 0..T (where their values are
        known), an unknown engine.
      TypeError: an integer input, a dtype other than the parameters', a mask that is not boolean.

    Example: two rows of different length in one batch; the first output beyond the end of a row is zero.

      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, ys = rnnjax.unroll(cell, params, None, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 2]))
      >>> ys.shape, float(jnp.abs(ys[2:, 1]).max())
      ((5, 2, 4), 0.0)
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}; choose one of {', '.join(map(repr, get_args(Engine)))}.")
    if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"unroll is {unroll!r}; it must be a positive integer.")
    if engine == "loop" and unroll != 1:
        raise ValueError(f'unroll is {unroll}, but engine "loop" has no scan body; use engine="scan".')

    def run(part: Cell | Composite, params: PyTree, carry: PyTree | None, xs: Array, timing: Timing):
        if carry is None:
            carry = part.initial_carry(params, xs.shape[1:-1])
        if isinstance(part, Composite):
            return part.unroll_parts(run, params, carry, xs, timing)
        check_carry(part, params, carry, xs)
        if engine == "loop":
            return unroll_loop(part, params, carry, xs, timing)
        if engine == "hoisted":
            return unroll_hoisted(part, params, carry, xs, timing, unroll=unroll)
        return unroll_scan(part, params, carry, xs, timing, unroll=unroll)

    xs = checked_xs(xs)
    timing = make_timing(xs, lengths, mask, resets, reverse)
    return run(cell, params, carry, blank(xs, timing), timing)

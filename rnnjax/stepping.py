"""A single step with the masking and resets of `unroll`, for actors and streams."""

# pyright: reportUnknownMemberType=false

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll import Noise, Noisy, with_weights
from rnnjax._unroll.arguments import (
    StepInput,
    as_array,
    check_alike,
    check_cell,
    rows_like,
    select,
    timed_step,
)
from rnnjax.cell import C, Cell, P, PyTree, batch_shape_of, check_space


def step(
    cell: Cell[P, C],
    params: P,
    carry: C | None,
    x: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    noise: Noise | None = None,
) -> tuple[C, PyTree]:
    """One step of a cell: carry_t, y_t = step(params, carry_{t-1}, x_t).

    T calls, each with the carry of the previous one, give the same result as one `rnnjax.unroll`. A masked row keeps
    its carry and outputs exactly zero; NaN or inf in its input affects no output and no gradient.

    Args:
      cell: a cell with a single step, or a `Stack` or `Readout` of such cells.
      params: its parameters.
      carry: the current carry; `None` for `cell.initial_carry`.
      x: `[*batch, D]`, with any number of batch axes; `[*batch, *space, D]` for a convolutional cell.
      mask: `[*batch]` booleans, False where a row has no input at this step.
      resets: `[*batch]` booleans, True where the carry is reset to the initial carry before this step, even if masked.
      noise: drawn noise of this step (`rnnjax.draw_noise`, of which each leaf of `steps` is indexed by time).
    Returns:
      `(carry, y)`: the carry after the step, and the output `[*batch, ...]`.
    Raises:
      TypeError: the cell needs the whole sequence (`Bidirectional`), `x` and the parameters differ in dtype, or a mask
        is not boolean.
      ValueError: a shape does not fit.

    Example: two environments; the second has just started a new episode.

      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GRU(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, _ = rnnjax.step(cell, params, None, jnp.ones((2, 3)))
      >>> carry, y = rnnjax.step(cell, params, carry, jnp.ones((2, 3)), resets=jnp.array([False, True]))
      >>> y.shape, bool(jnp.allclose(y[1], rnnjax.step(cell, params, None, jnp.ones(3))[1]))
      ((2, 4), True)
    """
    carry, inputs, batch_shape = step_arguments(cell, params, carry, x, mask, resets)
    if noise is not None:
        params = with_weights(cell, params, noise.weights)
    if noise is not None and jax.tree.leaves(noise.steps):
        inputs = inputs._replace(x=Noisy(inputs.x, noise.steps))
    new_carry, y = timed_step(cell, params, batch_shape)(carry, inputs)
    fix = "a step must give back a carry of the same tree, shapes and dtypes as it was given"
    check_alike(f"the carry that {type(cell).__name__}.step returns", new_carry, carry, fix)
    return new_carry, y


class StepArguments(NamedTuple):
    """The checked arguments of one step; the input of a masked row is zero."""

    carry: PyTree
    inputs: StepInput
    batch_shape: tuple[int, ...]


def step_arguments(
    cell: Cell[P, C],
    params: P,
    carry: C | None,
    x: ArrayLike,
    mask: ArrayLike | None,
    resets: ArrayLike | None,
) -> StepArguments:
    """The checks of `step`, before anything runs.

    Raises:
      As `step`.
    """
    check_cell(cell)
    if not hasattr(cell, "step"):
        raise TypeError(f"{cell!r} needs the whole sequence and has no single step; use `rnnjax.unroll`.")
    x = as_array("x", x)
    if x.ndim == 0:
        raise ValueError("`x` is a scalar; expected [*batch, D]: for a single feature pass `x[..., None]`.")
    check_space("x", x, cell, 0)
    batch_shape = batch_shape_of(cell, x, 0)
    mask = None if mask is None else _flags("mask", mask, x, batch_shape)
    resets = None if resets is None else _flags("resets", resets, x, batch_shape)
    start = cell.initial_carry(params, batch_shape)
    if carry is None:
        carry = start
    fix = f"`cell.initial_carry(params, {batch_shape})` makes one that fits `x` {list(x.shape)}"
    check_alike("`carry`", carry, start, fix)
    if mask is not None:
        x = select(mask, x, jnp.zeros_like(x))
    return StepArguments(rows_like(x, carry, 0, len(batch_shape)), StepInput(x, mask, resets), batch_shape)


def _flags(name: str, flags: ArrayLike, x: Array, batch_shape: tuple[int, ...]) -> Array:
    flags = as_array(name, flags)
    if flags.dtype != jnp.bool_:
        raise TypeError(f"`{name}` is {flags.dtype}; it must be boolean: pass `{name}.astype(bool)`.")
    if flags.shape != batch_shape:
        raise ValueError(
            f"`x` is {list(x.shape)} but `{name}` is {list(flags.shape)}; pass one flag a row, {list(batch_shape)}."
        )
    return flags

"""Masking: which steps count, and one step under it, the same for every engine and for the instruments.

Three rules cover every combination of `lengths`, `mask`, `resets` and `reverse`:
  - `lengths` says where a row ends. Nothing happens beyond it: no step, no reset.
  - `mask` masks steps within a row (interior gaps). A masked step holds the carry and gives exactly zero output.
  - `resets` cuts a row into episodes: the carry becomes the initial carry before that step, masked or not, in scan
    order.

Padding must be inert for values *and* gradients, NaN and inf in it included. Selecting afterwards is not enough:
0 × NaN in the backward pass is NaN. So the input of a masked step is replaced by zero *before* the step (`blank`), and
its carry and output are selected away after it (`timed_step`).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from rnnjax._unroll.checks import as_array
from rnnjax._unroll.placement import rows_like
from rnnjax.cell import Cell, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Masks:
    """What every engine needs to know about time. `None` stands for "no row is cut", "all count", "no reset".

    A pytree of its arrays, so that it can be cut along time as `xs` is.

    Attributes:
      inside: `[T, *batch]` bool, t < lengths.
      counts: `[T, *batch]` bool, inside and not hidden by the mask.
      resets: `[T, *batch]` bool, already without the flags beyond a row's end.
      reverse: each row runs from its own end to its start.
    """

    inside: Array | None = None
    counts: Array | None = None
    resets: Array | None = None
    reverse: bool = dataclasses.field(default=False, metadata={"static": True})

    def opposite(self) -> "Masks":
        """The same rows and episodes run in the other direction.

        A flag at step t, running forwards, marks a boundary between t - 1 and t; running backwards, the step that
        comes first behind that boundary is t - 1, so the flags move by one.
        """
        resets = self.resets
        if resets is not None:
            edge = jnp.zeros_like(resets[:1])
            resets = jnp.concatenate([edge, resets[:-1]] if self.reverse else [resets[1:], edge])
            resets = resets if self.inside is None else resets & self.inside
        return dataclasses.replace(self, resets=resets, reverse=not self.reverse)


def make_masks(
    xs: Array,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
) -> Masks:
    """Checks the four arguments against `xs` `[T, *batch, D]` and combines them.

    Raises:
      TypeError: `lengths` is not integer, `mask` or `resets` not boolean.
      ValueError: a shape does not fit, or `lengths`, when its values are known, is negative or beyond T.
    """
    inside = None if lengths is None else _inside(lengths, xs)
    mask = None if mask is None else _flags("mask", mask, xs)
    resets = None if resets is None else _flags("resets", resets, xs)
    if inside is not None and resets is not None:
        resets = resets & inside
    counts = mask if inside is None else inside if mask is None else inside & mask
    return Masks(inside=inside, counts=counts, resets=resets, reverse=reverse)


def _inside(lengths: ArrayLike, xs: Array) -> Array:
    given, lengths = lengths, as_array("lengths", lengths)
    steps, batch_shape = xs.shape[0], xs.shape[1:-1]
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"`lengths` is {lengths.dtype}; it counts steps: pass integers, such as `lengths.astype('int32')`."
        )
    if lengths.shape != batch_shape:
        swapped = len(batch_shape) == 1 and lengths.shape == (steps,)
        fix = "move time first in `xs`" if swapped else f"pass one length a row, {list(batch_shape)}"
        raise ValueError(
            f"`xs` is {list(xs.shape)} but `lengths` is {list(lengths.shape)}; "
            f"rnnjax is time-major, so `xs` holds {steps} steps of a batch of shape {list(batch_shape)}: {fix}."
        )
    if not isinstance(given, Tracer) and isinstance(steps, int):  # known under `jit` too, where it is no argument
        known = np.asarray(given)
        if known.size and (known.min() < 0 or known.max() > steps):
            raise ValueError(
                f"`lengths` runs from {known.min()} to {known.max()}, but `xs` {list(xs.shape)} has {steps} steps; "
                f"every length must lie in 0..{steps}."
            )
    largest = steps if isinstance(steps, int) else jnp.iinfo(jnp.int32).max  # a symbolic T, as under `jax.export`
    times = jnp.arange(steps, dtype=lengths.dtype if largest <= jnp.iinfo(lengths.dtype).max else jnp.int32)
    return times.reshape(steps, *(1 for _ in batch_shape)) < lengths.astype(times.dtype)[None]


def _flags(name: str, flags: ArrayLike, xs: Array) -> Array:
    flags = as_array(name, flags)
    expected = xs.shape[:-1]
    if flags.dtype != jnp.bool_:
        raise TypeError(f"`{name}` is {flags.dtype}; it must be boolean: pass `{name}.astype(bool)`.")
    if flags.shape != expected:
        swapped = len(expected) == 2 and flags.shape == expected[::-1]
        fix = f"pass `{name}.T`, or move time first in `xs`" if swapped else f"pass [T, *batch] = {list(expected)}"
        raise ValueError(f"`xs` is {list(xs.shape)} but `{name}` is {list(flags.shape)}; rnnjax is time-major: {fix}.")
    return flags


class StepInput(NamedTuple):
    """What one step sees; over all of time each leaf has a leading T. `None` where the `Masks` has none."""

    x: PyTree
    counts: Array | None
    resets: Array | None


def blank(xs: Array, masks: Masks) -> Array:
    """`xs` with an exact zero at every step that does not count. `[T, *batch, D]`."""
    return xs if masks.counts is None else jnp.where(masks.counts[..., None], xs, jnp.zeros_like(xs))


def select(flags: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Row by row, `on_true` where `flags` `[*batch]` holds, else `on_false`; leaves are `[*batch, ...]`."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(flags.reshape(flags.shape + (1,) * (a.ndim - flags.ndim)), a, b)

    return jax.tree.map(pick, on_true, on_false)


def timed_step(
    cell: Cell, params: PyTree, batch_shape: tuple[int, ...]
) -> Callable[[PyTree, StepInput], tuple[PyTree, PyTree]]:
    """The cell's step with resets before it and holding after it, in the order that `jax.lax.scan` wants."""

    def step(carry: PyTree, inputs: StepInput) -> tuple[PyTree, PyTree]:
        if inputs.resets is not None:
            start = rows_like(inputs.x, cell.initial_carry(params, batch_shape), 0)
            carry = select(inputs.resets, start, carry)
        new_carry, y = cell.step(params, carry, inputs.x)
        if inputs.counts is None:
            return new_carry, y
        return select(inputs.counts, new_carry, carry), select(inputs.counts, y, jax.tree.map(jnp.zeros_like, y))

    return step

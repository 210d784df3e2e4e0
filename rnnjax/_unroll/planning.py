"""From the options of a call to what is run: an engine for each layer, and segments of time for each part.

`unroll` and `explain` both ask here, so what is explained is what is done.
"""

import dataclasses
from typing import Any

import jax
from jax import Array

from rnnjax._unroll.checks import check_carry
from rnnjax._unroll.composites import Part, Run, is_causal, is_layer, parts_of, shapes_of
from rnnjax._unroll.engines import Engine, Layered, check_engine, choose_engine, run_layer, split_carries
from rnnjax._unroll.footprints import footprint_of
from rnnjax._unroll.masking import Masks, StepInput, timed_step
from rnnjax._unroll.placement import explicit_axes, over_time, settled, typed_mesh, varying_alike
from rnnjax._unroll.remat import (
    Checkpoint,
    Cut,
    MemoryBudget,
    check_checkpoint,
    check_chunk,
    in_segments,
    least_needed,
    lengths_within,
    sqrt_length,
)
from rnnjax.cell import PyTree


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
        check_checkpoint(self.checkpoint)
        check_chunk(self.chunk)
        if not isinstance(self.carries, bool):
            raise TypeError(f"carries is {self.carries!r}; it is True or False: whether to give every step's carry.")


class ClosesOverArrays(Exception):
    """A cell refers to arrays that are not among its arguments: at the next call they may be others."""


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
        last, every = jax.tree.map(lambda aval: aval.sharding, new), jax.tree.map(over_time, new)
        cut = Layered(last, every) if options.carries else last, jax.tree.map(over_time, y)
        run: Any = jax.sharding.auto_axes(lambda *arrays: on_engine(cell, *arrays), axes=axes, out_sharding=cut)
        return run(params, carry, xs, masks)

    return run


def runner(options: Options, whole: Part, kept: bool = False) -> Run:
    """What `unroll` calls: every part in its segments, every layer on its engine; `whole` gives the shapes."""
    engines = on_engines(options, kept)
    share = share_of_budget(options, whole)

    def with_carries(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        carry, ys = engines(cell, params, carry, xs, masks)
        last, every = split_carries(carry) if options.carries else (carry, ())
        return last, (ys, every)

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if not is_causal(cell):
            return cell.unroll_parts(run, params, carry, xs, masks)
        part = Part(cell, *shapes_of((params, carry, xs, masks)))
        cuts = cuts_of(options, part, share)
        last, (ys, every) = in_segments(with_carries, cuts)(cell, params, carry, xs, masks)
        return (Layered(last, every) if options.carries else last), ys

    return run


def cuts_of(options: Options, part: Part, share: float = 1.0) -> tuple[Cut, ...]:
    """How time is cut for one part, outermost first.

    Args:
      share: of what the part would need uncut, the share that a `MemoryBudget` leaves it.
    Raises:
      ValueError: the lengths depend on a T that is symbolic.
    """
    checkpoint, steps = options.checkpoint, part.xs.shape[0]
    lengths: tuple[int, ...] = ()
    if isinstance(checkpoint, MemoryBudget):
        if share < 1:
            footprint = footprint_of(on_engines(options), part)
            lengths = lengths_within(footprint, share * footprint.needed()) or ()
    elif checkpoint == "sqrt":
        if not isinstance(steps, int):
            raise ValueError(f'checkpoint is "sqrt", but T is {steps}, a symbol; say how many steps a segment has.')
        lengths = (sqrt_length(steps),)
    elif checkpoint is not None:
        lengths = (checkpoint,)
    cuts = [Cut(length, recomputed=True) for length in lengths]
    if options.chunk is not None:
        cuts.append(Cut(options.chunk, recomputed=False))
    return tuple(cut for cut in cuts if not isinstance(steps, int) or cut.length < steps)


def share_of_budget(options: Options, whole: Part) -> float:
    """The share of what it would need uncut that each part may have; 1 without a budget, or where all of it fits.

    Raises:
      ValueError: no choice of segments gets below the budget.
    """
    if not isinstance(options.checkpoint, MemoryBudget):
        return 1.0
    budget = options.checkpoint.bytes
    if not all(isinstance(size, int) for size in whole.xs.shape):
        raise ValueError(f"checkpoint is {options.checkpoint}, but `xs` is {list(whole.xs.shape)}; bytes need numbers.")
    footprints = [footprint_of(on_engines(options), part) for part in parts_of(whole, is_causal)]
    uncut = sum(footprint.needed() for footprint in footprints)
    share = min(1.0, budget / max(uncut, 1))
    if any(lengths_within(footprint, share * footprint.needed()) is None for footprint in footprints):
        least = uncut * max(least_needed(footprint) / footprint.needed() for footprint in footprints)
        raise ValueError(
            f"checkpoint is {options.checkpoint}, but the backward pass needs at least {int(least) + 1} bytes "
            f"however `xs` {list(whole.xs.shape)} is cut in time (uncut {uncut}); allow more, or split the batch."
        )
    return share

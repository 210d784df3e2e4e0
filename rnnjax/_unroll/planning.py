"""From the options of a call to what is run: an engine for each layer, and segments of time for each part.

`unroll` and `explain` both ask here, so what is explained is what is done.
"""

import dataclasses
from typing import Any

from jax import Array

from rnnjax._unroll.checks import check_carry
from rnnjax._unroll.composites import Part, Run, is_causal, is_layer, parts_of, shapes_of
from rnnjax._unroll.engines import Engine, Layered, check_engine, choose_engine, run_layer, split_carries
from rnnjax._unroll.footprints import footprint_of
from rnnjax._unroll.masking import Masks
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


def on_engines(options: Options) -> Run:
    """Every layer on its engine, over all the steps it is given at once."""

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if not is_layer(cell):
            return cell.unroll_parts(run, params, carry, xs, masks)
        check_carry(cell, params, carry, xs)
        choice = choose_engine(options.engine, cell, params, carry, xs)
        return run_layer(choice, cell, params, carry, xs, masks, unroll=options.unroll, carries=options.carries)

    return run


def runner(options: Options, whole: Part) -> Run:
    """What `unroll` calls: every part in its segments, every layer on its engine; `whole` gives the shapes."""
    engines = on_engines(options)
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

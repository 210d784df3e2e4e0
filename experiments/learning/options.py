"""Options that every training experiment has."""

import dataclasses
from typing import Any

from experiments import harness
from experiments.harness import UsageError
from experiments.harness.processes import FIELDS

CELL_NAMES = ("elman", "lstm", "gru")

_OF_THE_GRID = {"out", "quick", "fresh", "cells", "seeds", "clipping", *FIELDS}
"""What says which rows there are, and where they are made, but not what a row is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridOptions(harness.ProcessOptions):
    """The grid: cells, with and without clipping, seeds; and how each run is trained (Adam)."""

    cells: tuple[str, ...] = CELL_NAMES
    """elman, lstm, gru."""
    clipping: tuple[bool, ...] = (True, False)
    """Whether the gradient's global norm is clipped; by default once so and once not."""
    seeds: int = 3
    """Networks trained for each cell and clipping."""
    hidden_size: int = 64
    """H [units]."""
    updates: int = 2000
    """Updates of each run."""
    batch: int = 64
    """Sequences in a batch."""
    rate: float = 3e-3
    """Adam's learning rate at the first update; it falls to zero at the last, along half a cosine."""
    max_norm: float = 1.0
    """Where the gradient's global norm is clipped, in runs that clip."""

    def check(self) -> None:
        super().check()
        for name in ("seeds", "hidden_size", "updates", "batch", "rate", "max_norm"):
            harness.positive(f"--{name.replace('_', '-')}", getattr(self, name))
        unknown = [name for name in self.cells if name not in CELL_NAMES]
        if unknown or not self.cells or len(set(self.cells)) < len(self.cells):
            given = ", ".join(self.cells) or "nothing"
            raise UsageError(f"--cells is {given}; give one or more of {', '.join(CELL_NAMES)}, each once.")
        if not self.clipping or len(set(self.clipping)) < len(self.clipping):
            raise UsageError("--clipping takes True, False, or both, each once.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GridOptions):
    """The grid, and how often it is looked at."""

    look_every: int = 100
    """Updates from one look at held-out sequences to the next."""

    def check(self) -> None:
        super().check()
        harness.positive("--look-every", self.look_every)

    @property
    def of_a_row(self) -> dict[str, Any]:
        """The options that a run depends on whichever others are trained beside it; an experiment's own among them."""
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name not in _OF_THE_GRID}

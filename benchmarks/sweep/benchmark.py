"""Options and measurement of the sweep."""

import dataclasses
from typing import Any

import numpy as np

from benchmarks import harness, ours, sweep
from benchmarks.floor import floor_row, large_matmul
from benchmarks.sweep import summary
from benchmarks.sweep.settings import Sweep
from benchmarks.sweep.ways import contestants


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of sweep."""

    hidden: tuple[int, ...] = (4, 16, 64)
    """Widths H, each a sweep of its own [units]."""
    scale_low: float = 0.5
    """Smallest scale of W2 [1]."""
    scale_high: float = 1.0
    """Largest scale of W2; far above 1 the networks are chaotic and no two programs agree [1]."""
    scales: int = 16
    """How many scales [count]."""
    seeds: int = 16
    """How many draws of weights and inputs for each [count]."""
    lengths: tuple[int, ...] = (25, 50, 100, 200)
    """Lengths of the sequences [steps]."""
    few: int = 4
    """How many settings the slow contestants are run on [count]."""
    engine: str = "auto"
    """The engine of rnnjax that runs the networks."""

    def check(self) -> None:
        super().check()
        if self.engine not in ours.ENGINES:
            raise ValueError(f"--engine is {self.engine!r}; choose one of {', '.join(ours.ENGINES)}.")
        for name in ("scales", "seeds", "few"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; give 1 or more.")
        for name in ("hidden", "lengths"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; give numbers of 1 or more.")
        if list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"--lengths is {self.lengths}; give each once, the shortest first.")


def measure(run: harness.Run[Options]) -> None:
    o = run.options
    scales = tuple(float(s) for s in np.linspace(o.scale_low, o.scale_high, o.scales))
    seeds = tuple(range(o.seed, o.seed + o.seeds))
    for hidden in o.hidden:
        settings = Sweep(hidden, scales, seeds, o.lengths, o.few, o.engine)
        where: dict[str, Any] = {"H": hidden, "settings": len(settings), "longest": max(o.lengths)}
        made = contestants(settings, o.devices, compiles=1 if o.quick else 2)
        entries, matmul = run.contest(where, [each.contestant for each in made], large_matmul())
        rows = [{**entry.row(), "settings": each.settings} for each, entry in zip(made, entries, strict=True)]
        run.add({**where, "floor": floor_row(matmul, settings.forward_flops), "contestants": rows})
        run.say(f"H = {hidden}: done")
    for title, columns, lines in summary.tables(run.result):
        run.table(title, columns, lines)
    if o.figures is not None:
        from benchmarks.sweep.figure import draw

        run.figure("sweep", draw(run.result))


BENCHMARK = harness.Benchmark(
    "sweep",
    sweep.__doc__ or "",
    Options,
    measure,
    quick={"hidden": (16,), "scales": 4, "seeds": 8, "lengths": (25, 50), "few": 2, "rounds": 3},
)

"""Options and measurement of the observatory."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from benchmarks import harness, observatory
from benchmarks.observatory import summary
from benchmarks.observatory.networks import Networks
from benchmarks.observatory.ways import contestants


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of observatory."""

    hidden: tuple[int, ...] = (16, 32, 64, 128)
    """Widths H [units]."""
    shares: tuple[float, ...] = (0.25, 1.0)
    """Shares of the H exponents that are asked for [1]."""
    intervals: tuple[int, ...] = (10, 2)
    """For each share: steps from one orthonormalisation to the next. Of all exponents the smallest is 16 nats and more
    behind the largest after three [steps]."""
    gain_low: float = 0.8
    """Smallest gain of W [1]."""
    gain_high: float = 1.7
    """Largest gain of W; beyond 1.86 the networks are chaotic and no two programs agree [1]."""
    gains: int = 8
    """How many gains [count]."""
    seeds: int = 8
    """How many draws of weights and inputs for each [count]."""
    steps: int = 200
    """Length T [steps]."""
    at_once: int = 16
    """How many networks a device has in hand, where it does not do all at once [count]."""
    processes: int = 2
    """Over how many processes the networks are spread, a core each; below 2 none of that kind takes part [count]."""
    few: int = 4
    """How many networks the slow contestants are run on [count]."""

    def check(self) -> None:
        super().check()
        for name in ("gains", "seeds", "at_once", "few"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; give 1 or more.")
        for name in ("hidden", "intervals"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; give numbers of 1 or more.")
        if len(self.shares) != len(self.intervals) or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"--shares is {self.shares}; give numbers in (0, 1], one for each of --intervals.")
        if self.steps < 2 * max(self.intervals):
            raise ValueError(f"--steps is {self.steps}; give two intervals or more, {2 * max(self.intervals)}.")


def measure(run: harness.Run[Options]) -> None:
    with jax.enable_x64(True):
        _measure(run)


def _measure(run: harness.Run[Options]) -> None:
    o = run.options
    gains = tuple(float(g) for g in np.linspace(o.gain_low, o.gain_high, o.gains))
    seeds = tuple(range(o.seed, o.seed + o.seeds))
    for hidden in o.hidden:
        for share, interval in zip(o.shares, o.intervals, strict=True):
            k = math.ceil(share * hidden)
            networks = Networks(hidden, k, gains, seeds, o.steps, interval, o.few)
            where: dict[str, Any] = {"H": hidden, "k": k, "interval": interval, "networks": len(networks), "T": o.steps}
            made = contestants(networks, o.devices, o.processes, o.at_once, compiles=1)
            entries, _ = run.contest(where, [each.contestant for each in made])
            rows = [{**entry.row(), "networks": each.networks} for each, entry in zip(made, entries, strict=True)]
            run.add({**where, "contestants": rows})
            run.say(f"H = {hidden}, k = {k}: done")
    for title, columns, lines in summary.tables(run.result):
        run.table(title, columns, lines)
    if o.figures is not None:
        from benchmarks.observatory.figure import draw

        run.figure("observatory", draw(run.result))


BENCHMARK = harness.Benchmark(
    "observatory",
    observatory.__doc__ or "",
    Options,
    measure,
    quick={"hidden": (32,), "gains": 4, "seeds": 4, "steps": 60, "few": 2, "rounds": 3},
)

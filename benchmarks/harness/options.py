"""Options that every benchmark has."""

import dataclasses
import math
from pathlib import Path

from benchmarks.harness.process import cores


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """A benchmark's own options inherit from this frozen dataclass."""

    quick: bool = False
    """Fewer points and rounds; options given by hand still count."""
    json: Path | None = None
    """File for the results, written again after every point."""
    figures: Path | None = None
    """Folder for the figures, as PNG and SVG."""
    rounds: int = 7
    """Samples of each contestant [count]."""
    sample_ms: float = 30.0
    """A sample is as many calls in a row as last this long [ms]."""
    budget_s: float = 120.0
    """No new round at a point after this time, once there are three [s]."""
    memory_gib: float = 4.0
    """Programs with more temporary memory are compiled and not run [GiB]."""
    devices: int = min(2, cores())
    """CPU devices for the sharded contestants; all others use the first [count]."""
    seed: int = 0
    """Of weights, inputs and the order of the contestants."""

    def check(self) -> None:
        """Raises ValueError for what makes no sense, before any work."""
        for name in ("rounds", "sample_ms", "budget_s", "memory_gib", "devices"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"--{name.replace('_', '-')} is {value}; give a number above zero.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed is {self.seed}; give an integer from 0 to 2**32 - 1.")
        if self.figures is not None and self.figures.is_file():
            raise ValueError(f"--figures {self.figures} is a file; name a folder.")
        if self.json is not None and self.json.is_dir():
            raise ValueError(f"--json {self.json} is a folder; name a file.")

    @property
    def limit_bytes(self) -> int:
        return int(self.memory_gib * 2**30)

"""What can be asked for, and what is refused before any work."""

import dataclasses
import math
from typing import Literal

from experiments import harness
from experiments.gradient_decay.cells import BUILT_IN, resolve
from experiments.harness import UsageError

Kind = Literal["orthogonal", "gain"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Gradient decay of recurrent cells over scales of W2, sequence lengths and seeds."""

    cells: tuple[str, ...] = ("linear", "tanh", "relu", "lstm", "gru")
    """Built-in cells: linear, tanh, relu (Elman), lstm, gru."""
    cell: str | None = None
    """Your own cell as package.module:name, measured beside them."""
    kinds: tuple[Kind, ...] = ("orthogonal", "gain")
    """How W2 is drawn: scale times orthogonal, or Gaussian of variance scale²/H."""
    scales: tuple[float, ...] = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0)
    """Scales of W2 [dimensionless]."""
    lengths: tuple[int, ...] = (5, 10, 20, 50, 100, 200, 500, 1000)
    """Sequence lengths [steps]; the decay by lag is measured within the longest."""
    seeds: int = 8
    """How many networks are drawn per row."""
    hidden_size: int = 64
    """H [units]."""
    input: Literal["stocks", "gaussian"] = "stocks"
    """Real daily log returns, standardised, or white noise of the same width."""
    tickers: tuple[str, ...] = ("AAPL", "IBM", "MSFT")
    """Which stocks: one input feature each."""

    def check(self) -> None:
        super().check()
        if not self.cells and self.cell is None:
            raise UsageError("--cells is empty; name at least one, or give your own with --cell package.module:name.")
        unknown = [name for name in self.cells if name not in BUILT_IN]
        if unknown:
            raise UsageError(f"--cells {' '.join(unknown)}: unknown; choose from {', '.join(BUILT_IN)}.")
        for name, values in (("--kinds", self.kinds), ("--scales", self.scales), ("--lengths", self.lengths)):
            if not values:
                raise UsageError(f"{name} is empty; give at least one.")
        for name in ("cells", "kinds", "scales", "lengths"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise UsageError(f"--{name} names one twice: {getattr(self, name)}; give each once.")
        bad = [scale for scale in self.scales if not (math.isfinite(scale) and scale > 0)]
        if bad:
            raise UsageError(f"--scales has {bad}; a scale is a finite number above zero.")
        if min(self.lengths) < 2:
            raise UsageError(f"--lengths has {min(self.lengths)}; a gradient needs at least 2 steps to travel.")
        harness.positive("--seeds", self.seeds)
        harness.positive("--hidden-size", self.hidden_size)
        if self.cell is not None:
            resolve(self.cell, self.hidden_size)
        self.check_input()

    def check_input(self) -> None:
        """Is there enough input for the longest sequence?"""
        from experiments.data import stocks

        days = len(stocks.log_returns(*self.tickers).values)
        if self.input == "stocks" and max(self.lengths) > days:
            raise UsageError(
                f"--lengths has {max(self.lengths)}, but {', '.join(self.tickers)} share only {days} days of returns; "
                "shorten it, choose other --tickers, or add --input gaussian."
            )

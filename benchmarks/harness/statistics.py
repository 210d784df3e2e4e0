"""Times of one callable, and how two are compared."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Times:
    """What one callable took in each round.

    Attributes:
      seconds: seconds a call, one entry a round; each is the mean over `calls` calls in a row.
      calls: calls a sample.
    """

    seconds: tuple[float, ...]
    calls: int

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """The middle half of the samples, in seconds: upper minus lower quartile."""
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return float(high - low)

    def row(self) -> dict[str, Any]:
        """For JSON, in milliseconds."""
        return {
            "min_ms": 1e3 * self.minimum,
            "median_ms": 1e3 * self.median,
            "iqr_ms": 1e3 * self.spread,
            "calls_per_sample": self.calls,
            "samples_ms": [1e3 * s for s in self.seconds],
        }


def ratio(slow: Times, fast: Times) -> float:
    """How many times faster `fast` is: the ratio of medians over rounds that both took part in."""
    return slow.median / fast.median


def geomean(values: Iterable[float]) -> float:
    """The geometric mean of positive numbers; NaN of none.

    Example:

      >>> round(geomean([0.5, 8.0]), 6)
      2.0
    """
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan

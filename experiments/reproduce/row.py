"""One published number, and how ours is measured."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Found:
    """Ours: the number, and over how many seeds (networks, draws, sequences) it was taken; 1 for a computation."""

    value: float
    seeds: int = 1
    spread: float | None = None  # standard deviation over seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A published number.

    Attributes:
      name: unique, lower case with dashes; what `--only` takes.
      what: in words, with the setting.
      published: the number; as many digits as the source prints.
      tolerance: the greatest |ours - published| that counts as reproduced, in the number's unit.
      quick_tolerance: the same for `--quick`, where a smaller network is further off; the same if left out.
      exact: an identity or a closed form; the command fails if it is missed.
      source: who printed it.
      full_only: left out with `--quick`, as it takes minutes at any size.
      measure: `measure(quick)` gives ours.
    """

    name: str
    what: str
    published: float
    tolerance: float
    source: str
    measure: Callable[[bool], Found]
    unit: str = "1"
    quick_tolerance: float | None = None
    exact: bool = False
    full_only: bool = False

    def allowed(self, quick: bool) -> float:
        return self.quick_tolerance if quick and self.quick_tolerance is not None else self.tolerance

    def verdict(self, ours: float | None, quick: bool) -> str:
        """ "reproduced" or "missed"; "error" where there is no number."""
        if ours is None or math.isnan(ours):
            return "error"
        return "reproduced" if abs(ours - self.published) <= self.allowed(quick) else "missed"


def of_samples(samples: Sequence[float]) -> Found:
    """Mean and standard deviation of what seeds gave."""
    count = len(samples)
    mean = math.fsum(samples) / count
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in samples) / (count - 1)) if count > 1 else None
    return Found(mean, count, spread)


def checked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, if their names are unique and their numbers make sense; a mistake here would hide a row."""
    seen: set[str] = set()
    for row in rows:
        if row.name in seen or not row.tolerance >= 0 or not math.isfinite(row.published):
            raise ValueError(f"row {row.name!r} is there twice, or its number or tolerance is none")
        seen.add(row.name)
    return tuple(rows)


def as_line(row: Row, quick: bool, kept: dict[str, Any]) -> dict[str, Any]:
    """A line of the table and of `summary["rows"]`."""
    ours = kept.get("value")
    return {
        "row": row.name,
        "what": row.what,
        "published": row.published,
        "ours": ours,
        "unit": row.unit,
        "tolerance": row.allowed(quick),
        "verdict": row.verdict(ours, quick),
        "exact": row.exact,
        "seeds": kept.get("seeds"),
        "spread": kept.get("spread"),
        "seconds": kept.get("seconds"),
        "source": row.source,
        "error": kept.get("error"),
    }

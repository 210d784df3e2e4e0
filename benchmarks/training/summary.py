"""The table of training, from its results."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.harness import reading
from benchmarks.training.ways import LOOP


def tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """One table: updates a second, and how many times the loop."""
    columns = ["setting", "contestant", "updates/s", "× loop", "ms an update", "not measured"]
    lines = []
    for point in result["points"]:
        for name, row in reading.by_name(point).items():
            ms = reading.divided(reading.number(row, "train"), point["updates"])
            second = reading.divided(1000.0, ms)
            lines.append(
                [named(point), name, second, times_loop(point, name), ms, row.get("fault") or row.get("left_out")]
            )
    yield "Training, updates a second", columns, lines


def times_loop(point: Mapping[str, Any], name: str) -> float | None:
    """How many times as many updates a second as the loop by hand."""
    rows = reading.by_name(point)
    return reading.divided(reading.number(rows[LOOP], "train"), reading.number(rows[name], "train"))


def named(point: Mapping[str, Any]) -> str:
    return f"{point['task']}, {point['cell']}, B={point['B']} T={point['T']} H={point['H']}"

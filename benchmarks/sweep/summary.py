"""The tables of the sweep, from its results."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.harness import reading

REFERENCE = "one program"


def tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """A table a width: milliseconds a setting, how many times one program, how many times the floor."""
    columns = ["contestant", "settings run", "ms a setting", "× one program", "× floor", "compile [s]", "not measured"]
    for point in result["points"]:
        rows = reading.by_name(point)
        lines = []
        for name, row in rows.items():
            ms = per_setting(row)
            against = reading.divided(ms, per_setting(rows[REFERENCE])), reading.divided(ms, floor_per_setting(point))
            compile_s = reading.number(row, "norms", "compile_total_s")
            lines.append([name, row["settings"], ms, *against, compile_s, row.get("fault") or row.get("left_out")])
        yield f"{point['settings']} settings, H = {point['H']}, up to {point['longest']} steps", columns, lines


def per_setting(row: Mapping[str, Any]) -> float | None:
    """Median milliseconds a setting."""
    return reading.divided(reading.number(row, "norms"), row["settings"])


def floor_per_setting(point: Mapping[str, Any]) -> float | None:
    """The matmuls of a setting's forward pass and gradient, on average over the settings [ms]."""
    return point["floor"]["train_ms"] / point["settings"] if point.get("floor") else None

"""Reading results: tables and figures are made from what stands in the JSON file, so they can be made again from it."""

from collections.abc import Iterable, Mapping
from typing import Any


def number(row: Mapping[str, Any], task: str, key: str = "median_ms") -> float | None:
    """A number of a contestant's row, or None where it was not measured; `compile_total_s` is trace and compile."""
    values = row.get("tasks", {}).get(task, {})
    if key == "compile_total_s":
        return values["trace_s"] + values["compile_s"] if "compile_s" in values else None
    return values.get(key)


def by_name(point: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The contestants' rows of a point, by name."""
    return {row["name"]: row for row in point.get("contestants", ())}


def names(points: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every contestant that occurs, in the order of first appearance."""
    return list(dict.fromkeys(row["name"] for point in points for row in point.get("contestants", ())))


def divided(a: float | None, b: float | None) -> float | None:
    """a / b, or None where either is missing."""
    return None if a is None or b is None or b == 0 else a / b


def reasons(points: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Who was left out or at fault, and why: `{"name: reason": [points]}`, so that a reason is said once."""
    found: dict[str, list[str]] = {}
    for point in points:
        place = " ".join(str(v) for k, v in point.items() if isinstance(v, str | int | bool) and k != "left_out")
        if "left_out" in point:
            found.setdefault(f"everybody: {point['left_out']}", []).append(place)
        for row in point.get("contestants", ()):
            for key in ("left_out", "fault"):
                if key in row:
                    found.setdefault(f"{row['name']}: {row[key]}", []).append(place)
    return found

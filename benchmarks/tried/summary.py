"""How much faster each idea is than the engine as it is, from the results."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.harness import geomean, reading

TASKS = {"forward": "forward", "train": "training step"}


def speedup(point: Mapping[str, Any], name: str, task: str) -> float | None:
    """Median of the first contestant of the point over that of `name`: above 1 the idea is faster."""
    rows = reading.by_name(point)
    reference = next(iter(rows))
    return reading.divided(reading.number(rows[reference], task), reading.number(rows.get(name, {}), task))


def ideas(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, list[float]]]:
    """`(contest, idea, task, speedups over points)` of everybody but the references."""
    for contest in dict.fromkeys(point["contest"] for point in result["points"]):
        points = [point for point in result["points"] if point["contest"] == contest]
        for name in reading.names(points)[1:]:
            for task in TASKS:
                found = [value for point in points if (value := speedup(point, name, task)) is not None]
                if found:
                    yield contest, name, task, found


def tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """A row a point and idea, and one row an idea: geometric mean, worst and best point."""
    columns = ["cell", "B,T,D,H", "idea", "forward, times as fast", "training step, times as fast"]
    rows = []
    for point in result["points"]:
        for name in list(reading.by_name(point))[1:]:
            rows.append([point["cell"], point["point"], name, *(speedup(point, name, task) for task in TASKS)])
    yield "Against the engine as it is, or the product as it is", columns, rows
    lines = []
    for contest, name, task, found in ideas(result):
        lines.append([contest, name, TASKS[task], geomean(found), min(found), max(found)])
    yield "Over the points", ["contest", "idea", "task", "geometric mean", "worst", "best"], lines

"""Ratios, their geometric means against the targets, and the tables, all from the points of the JSON file."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.harness import geomean
from benchmarks.harness.reading import by_name, divided, number

TASKS = ("forward", "train")
VERSIONS = ("before", "after")
BARE = {"bare": "bare", "bare, concatenated": "bare, concatenated"}
RESET_BEFORE = "reset before"
HAIKU = "Haiku"
STAND_IN = "lax.scan of the same step, in Haiku's stead"

median = statistics.median

_NO_SLOWER, _NOT_UNDER, _BARE, _HAIKU = 1.0, 0.97, 1 / 1.03, 1.5
"""Targets: before/after in the mean and at a point, built-in/bare, and Haiku/reset before of a training step."""


def ratio(point: Mapping[str, Any], task: str, slow: str, fast: str, key: str = "median_ms") -> float | None:
    """How many times faster `fast` is than `slow`: the ratio of their medians, None where one has no time."""
    rows = by_name(point)
    return divided(number(rows.get(slow, {}), task, key), number(rows.get(fast, {}), task, key))


def counted(point: Mapping[str, Any]) -> dict[str, float]:
    """Before to after by task, as it counts: the median of the measurements alone, where there are such."""
    return {task: found["ratio"] for task, found in point["counted"].items()}


def ratios(point: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Every ratio of a point, by what is compared and by task; larger than 1 is better for what is new."""
    found: dict[str, dict[str, float]] = {"before/after": counted(point)}
    others = {"before/after, minima of the first": (*VERSIONS, "", "min_ms")}
    others |= {f"built-in/{name}": ("after", name, "", "median_ms") for name in BARE}
    others |= {
        f"{name}/reset before": (name, RESET_BEFORE, ", reset before", "median_ms") for name in (HAIKU, STAND_IN)
    }
    for label, (slow, fast, suffix, key) in others.items():
        values = {task: ratio(point, task + suffix, slow, fast, key) for task in TASKS}
        if there := {task: value for task, value in values.items() if value is not None}:
            found[label] = there
    return found


def overall(points: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Geometric mean, worst and best over the points, by what is compared, task and cell; and the targets."""
    by: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for point in points:
        for label, tasks in ratios(point).items():
            for task, value in tasks.items():
                for cell in ("all", point["cell"]):
                    place = f"{point['cell']} {point['point']}"
                    by.setdefault(label, {}).setdefault(task, {}).setdefault(cell, {})[place] = value
    means = {
        label: {task: {cell: _mean(values) for cell, values in cells.items()} for task, cells in tasks.items()}
        for label, tasks in by.items()
    }
    return {"ratios": means, "targets": _targets(by)}


def tables(result: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[Any]]]]:
    points = result["points"]
    before, after = (result["compared"][name]["commit"] for name in VERSIONS)
    title = f"Time before ({before[:7]}) over after ({after[:7] if after else 'working tree'}) and other ratios"
    means = [
        [label, task, cell, mean["geomean"], mean["worst"], mean["worst_at"], mean["points"]]
        for label, tasks in result["summary"]["ratios"].items()
        for task, cells in tasks.items()
        for cell, mean in cells.items()
    ]
    targets = [
        [target["target"], target["value"], target["at_least"], "yes" if target["met"] else "no"]
        for target in result["summary"]["targets"]
    ]
    return [
        ("Milliseconds a call, medians", *_milliseconds(points)),
        (title, ["ratio", "task", "cell", "geometric mean", "worst", "at", "points"], means),
        ("Points measured again alone", ["cell", "point", "task", "first", "again", "counts"], _again(points)),
        ("Targets", ["target", "value", "at least", "met"], targets),
    ]


def _mean(values: Mapping[str, float]) -> dict[str, Any]:
    worst = min(values, key=lambda place: values[place])
    return {
        "geomean": geomean(values.values()),
        "worst": values[worst],
        "worst_at": worst,
        "best": max(values.values()),
        "points": len(values),
    }


def _targets(by: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the change is held to; a target whose ratio was not measured is left out."""
    found = []
    for label, tasks, least in (
        ("before/after", TASKS, _NO_SLOWER),
        *((f"built-in/{name}", TASKS, _BARE) for name in BARE),
        *((f"{name}/reset before", ("train",), _HAIKU) for name in (HAIKU, STAND_IN)),
    ):
        for task in tasks:
            if values := by.get(label, {}).get(task, {}).get("all"):
                found.append(_target(f"{label}, {task}, geometric mean", geomean(values.values()), least))
                if label == "before/after":
                    found.append(_target(f"{label}, {task}, worst point", min(values.values()), _NOT_UNDER))
    return found


def _target(name: str, value: float, least: float) -> dict[str, Any]:
    return {"target": name, "value": value, "at_least": least, "met": value >= least}


def _milliseconds(points: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    others = [*BARE, RESET_BEFORE, HAIKU, STAND_IN]
    rows = []
    for point in points:
        contestants = by_name(point)
        for task in point["counted"]:
            times = [number(contestants.get(name, {}), task) for name in (*VERSIONS, *BARE)]
            times += [number(contestants.get(name, {}), f"{task}, reset before") for name in others[len(BARE) :]]
            rows.append([point["cell"], point["point"], task, *times, counted(point)[task]])
    columns = ["cell", "B,T,D,H", "task", *VERSIONS, *others]
    there = [k for k in range(len(columns)) if k < 3 or any(row[k] is not None for row in rows)]
    return [*(columns[k] for k in there), "before/after"], [[*(row[k] for k in there), row[-1]] for row in rows]


def _again(points: Iterable[Mapping[str, Any]]) -> list[list[Any]]:
    rows = []
    for point in points:
        for task, found in point["counted"].items():
            if found["again"]:
                again = ", ".join("–" if value is None else f"{value:.3f}" for value in found["again"])
                rows.append([point["cell"], point["point"], task, found["first"], again, found["ratio"]])
    return rows

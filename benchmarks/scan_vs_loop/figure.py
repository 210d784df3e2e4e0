"""Tables and figures of scan against loop, from its results."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.harness import reading
from benchmarks.harness.drawing import drawing, floor_look, look, panels

_COLUMNS = {
    "forward [ms]": ("forward", "median_ms"),
    "training step [ms]": ("train", "median_ms"),
    "compile, forward [s]": ("forward", "compile_total_s"),
    "compile, training step [s]": ("train", "compile_total_s"),
    "temporary memory, training step [MiB]": ("train", "temp_bytes"),
}


def tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """One table a point, one line a contestant; then the two headline ratios at every length."""
    for point in result["points"]:
        if "left_out" not in point:
            columns = ["contestant", *_COLUMNS]
            present = [row for row in point["contestants"] if row["tasks"]]
            rows = [[row["name"], *(_value(row, column) for column in _COLUMNS)] for row in present]
            yield f"{point['cell']}, B,D,H = {point['size']}, T = {point['T']}", columns, rows
    lines = [row for point in result["points"] for task in ("forward", "train") if (row := _headline(point, task))]
    columns = ["size", "T", "task", "eager / scan", "jitted loop / scan", "compile: jitted loop / scan", "scan / floor"]
    yield "Against scan, ratios of medians", columns, lines
    out = [[who, len(where)] for who, where in reading.reasons(result["points"]).items()]
    if out:
        yield "Did not take part", ["who and why", "points"], out


def draw(result: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """One figure a size: time of a training step, compile time and memory against T."""
    points = [point for point in result["points"] if "left_out" not in point]
    for size in dict.fromkeys(point["size"] for point in points):
        chosen = [point for point in points if point["size"] == size]
        yield f"scan_vs_loop-{size.replace(',', '-')}", _draw_size(chosen, size)


def _draw_size(points: list[Mapping[str, Any]], size: str) -> Figure:
    panel = {  # label: column, and whose last mark says how many times scan's it is
        "run, training step [ms]": ("training step [ms]", "eager loop"),
        "compile, forward [s]": ("compile, forward [s]", "jitted loop"),
        "memory, training step [MiB]": ("temporary memory, training step [MiB]", "jitted loop"),
    }
    shown = [name for name in reading.names(points) if any(_row(p, name).get("tasks") for p in points)]
    with drawing():
        figure, axes = panels(1, 3, 9.5, 3.6, sharex=True)
        for ax, (label, (column, said)) in zip(axes[0], panel.items(), strict=True):
            for index, name in enumerate(shown):
                line = [(p["T"], v) for p in points if (v := _value(_row(p, name), column)) is not None]
                ax.plot(*(zip(*line, strict=True) if line else ([], [])), **look(index), label=name)
            _say_factor(ax, points, said, column)
            ax.margins(y=0.15)  # room for what was said
            ax.set(xscale="log", yscale="log", xlabel="steps T [count]", ylabel=label)
            ax.xaxis.set_minor_formatter(NullFormatter())
        floors = [(p["T"], p["floor"]["train_ms"]) for p in points if p.get("floor")]
        axes[0, 0].plot(*(zip(*floors, strict=True) if floors else ([], [])), **floor_look(), label="matmul floor")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        B, D, H = size.split(",")
        title = f"{points[0]['cell'].upper()}, batch {B}, {D} features, {H} hidden units"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _say_factor(ax: Any, points: list[Mapping[str, Any]], name: str, column: str) -> None:
    """Beside the last mark of `name`: how many times scan's at the same length."""
    found = [(p["T"], _value(_row(p, name), column), _value(_row(p, "scan"), column)) for p in points]
    known = [(T, value, value / scan) for T, value, scan in found if value and scan]
    if known:
        T, value, factor = known[-1]
        ax.annotate(f"{factor:,.0f}× scan", (T, value), (-7, 3), textcoords="offset points", ha="right", va="bottom")


def _headline(point: Mapping[str, Any], task: str) -> list[Any] | None:
    rows = reading.by_name(point)
    if "scan" not in rows:
        return None

    def against_scan(name: str, key: str) -> float | None:
        row = rows.get(name, {})
        return reading.divided(reading.number(row, task, key), reading.number(rows["scan"], task, key))

    floor = point["floor"][f"{task}_ms"] if point.get("floor") else None
    return [
        point["size"],
        point["T"],
        task,
        against_scan("eager loop", "median_ms"),
        against_scan("jitted loop", "median_ms"),
        against_scan("jitted loop", "compile_total_s"),
        reading.divided(reading.number(rows["scan"], task), floor),
    ]


def _value(row: Mapping[str, Any], column: str) -> float | None:
    value = reading.number(row, *_COLUMNS[column])
    return value / 2**20 if value is not None and _COLUMNS[column][1] == "temp_bytes" else value


def _row(point: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return reading.by_name(point).get(name, {})

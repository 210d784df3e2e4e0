"""The figure of memory: what a training step needs, and how long it takes, against length."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.harness import reading
from benchmarks.harness.drawing import drawing, floor_look, look, panels
from benchmarks.memory.summary import mebibytes


def draw(result: Mapping[str, Any]) -> Figure:
    """Two panels over T: temporary memory, and time with the matmul floor."""
    points = result["points"]
    panel = {
        "temporary memory of a training step [MiB]": mebibytes,
        "time of a training step [ms]": lambda point, row: reading.number(row, "train"),
    }
    with drawing():
        figure, axes = panels(1, 2, 9.0, 4.2, sharex=True)
        shown = [name for name in reading.names(points) if any(_row(p, name).get("tasks") for p in points)]
        for ax, (label, value) in zip(axes[0], panel.items(), strict=True):
            for index, name in enumerate(shown):
                line = [(p["T"], v) for p in points if (v := value(p, _row(p, name))) is not None]
                if line:
                    ax.plot(*zip(*line, strict=True), **look(index), label=name)
            ax.set(xscale="log", yscale="log", xlabel="steps T [count]", ylabel=label)
            ax.xaxis.set_minor_formatter(NullFormatter())
        floors = [(p["T"], p["floor"]["train_ms"]) for p in points if p.get("floor")]
        axes[0, 1].plot(*(zip(*floors, strict=True) if floors else ([], [])), **floor_look(), label="matmul floor")
        handles, labels = axes[0, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        if points:
            B, D, H = points[0]["size"].split(",")
            title = f"{points[0]['cell']}, B = {B}, D = {D}, H = {H}"
            figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _row(point: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return reading.by_name(point).get(name, {})

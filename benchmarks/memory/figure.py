"""The figure of memory: what a training step needs, and how long it takes, against length."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.harness import reading
from benchmarks.harness.drawing import drawing, floor_look, look, panels
from benchmarks.memory.summary import LOSSES, mebibytes


def draw(result: Mapping[str, Any]) -> Figure:
    """A row of panels for each loss, over T: temporary memory, and time with the matmul floor."""
    losses = [loss for loss in LOSSES if any(point["loss"] == loss for point in result["points"])]
    names = reading.names(result["points"])
    shown = [name for name in names if any(_row(p, name).get("tasks") for p in result["points"])]
    with drawing():
        figure, axes = panels(len(losses), 2, 9.0, 3.1 * len(losses) + 1.3, sharex=True, sharey="col")
        for row, loss in zip(axes, losses, strict=True):
            _draw_row(row, [point for point in result["points"] if point["loss"] == loss], shown)
            row[0].set_title(LOSSES[loss])
        for ax in axes[-1]:
            ax.set_xlabel("steps T [count]")
        handles, labels = axes[0, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        cell, (B, D, H) = result["points"][0]["cell"].upper(), result["points"][0]["size"].split(",")
        title = f"{cell}, batch {B}, {D} features, {H} hidden units: forward and gradient"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _draw_row(axes: Any, points: list[Mapping[str, Any]], shown: list[str]) -> None:
    panel = {
        "temporary memory [MiB]": mebibytes,
        "time [ms]": lambda point, row: reading.number(row, "train"),
    }
    for ax, (label, value) in zip(axes, panel.items(), strict=True):
        for index, name in enumerate(shown):
            line = [(p["T"], v) for p in points if (v := value(p, _row(p, name))) is not None]
            ax.plot(*(zip(*line, strict=True) if line else ([], [])), **look(index), label=name)
        ax.set(xscale="log", yscale="log", ylabel=label)
        ax.xaxis.set_minor_formatter(NullFormatter())
    floors = [(p["T"], p["floor"]["train_ms"]) for p in points if p.get("floor")]
    axes[1].plot(*(zip(*floors, strict=True) if floors else ([], [])), **floor_look(), label="matmul floor")


def _row(point: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return reading.by_name(point).get(name, {})

"""The figure of the peers: every contestant's time at every point, as a multiple of the matmul floor."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness import reading
from benchmarks.harness.drawing import drawing, floor_look, look, panels
from benchmarks.peers.summary import DOORS, OURS_GENERIC, TASKS


def draw(result: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """One figure for each task and kind of batch: a panel a cell, a line of marks a point."""
    for padded in (False, True):
        points = [point for point in result["points"] if point["padded"] == padded and point.get("floor")]
        if points:
            for task in TASKS:
                yield f"peers-{task}{'-padded' if padded else ''}", _draw(points, task, padded)


def _draw(points: list[Mapping[str, Any]], task: str, padded: bool) -> Figure:
    cells = list(dict.fromkeys(point["cell"] for point in points))
    places = list(dict.fromkeys(point["point"] for point in points))
    names = [name for name in reading.names(points) if name not in (OURS_GENERIC, *DOORS.values())]
    with drawing():
        figure, axes = panels(1, len(cells), 3.0 * len(cells) + 1.5, 0.36 * len(places) + 1.9, sharey=True, sharex=True)
        for ax, cell in zip(axes[0], cells, strict=True):
            for index, name in enumerate(names):
                marks = []
                for point in points:
                    row = reading.by_name(point).get(name, {})
                    multiple = reading.divided(reading.number(row, task), point["floor"][f"{task}_ms"])
                    if point["cell"] == cell and multiple is not None:
                        marks.append((multiple, places.index(point["point"])))
                style = look(index) | {"linestyle": "none", "markersize": 9.0 if index == 0 else 6.0}
                ax.plot(*(zip(*marks, strict=True) if marks else ([], [])), **style, label=name)
            ax.axvline(1.0, **floor_look(), label="matmul floor")
            ax.set(xscale="log", title=cell, xlabel="time / matmul floor [1]")
        axes[0, 0].set_yticks(range(len(places)), places)
        axes[0, 0].invert_yaxis()
        axes[0, 0].set_ylabel("B, T, D, H")
        took_part = {line.get_label(): line for ax in axes[0] for line in ax.get_lines() if len(line.get_xdata())}
        figure.legend(took_part.values(), took_part.keys(), loc="outside lower center", ncols=5)
        batches = "padded batches" if padded else "whole sequences"
        figure.suptitle(f"{TASKS[task]}, {batches}: median time, less is better", x=0.01, ha="left", fontsize=11)
    return figure

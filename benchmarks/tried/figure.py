"""The figure of what was tried: an idea a line, a mark a point, against the engine as it is."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness import drawing, geomean
from benchmarks.tried.summary import TASKS, ideas


def draw(result: Mapping[str, Any]) -> Figure:
    """1 is the reference; right of it an idea is faster. Open marks are points, the filled one is their mean."""
    found = list(ideas(result))
    names = list(dict.fromkeys((contest, name) for contest, name, _, _ in found))
    with drawing.drawing():
        figure, axes = drawing.panels(1, len(TASKS), 9.0, 0.34 * len(names) + 1.6, sharey=True, sharex=True)
        for ax, (task, title) in zip(axes[0], TASKS.items(), strict=True):
            for contest, name, of_task, values in found:
                if of_task == task:
                    y = names.index((contest, name))
                    ax.plot(values, [y] * len(values), "o", color="#777777", markerfacecolor="none", markersize=5)
                    ax.plot(geomean(values), y, "D", color="#0072B2", markersize=8)
            ax.axvline(1.0, color="#555555", linewidth=1)
            ax.set(xscale="log", title=title, xlabel="times as fast as the reference [1]")
            ax.set_xticks([0.25, 0.5, 1, 2], ["1/4", "1/2", "1", "2"])
            ax.minorticks_off()
        axes[0, 0].set_yticks(range(len(names)), [name for _, name in names])
        axes[0, 0].invert_yaxis()
        points = "open: a cell and size; filled: their geometric mean"
        figure.suptitle(f"Ideas against the engine as it is ({points})", x=0.01, ha="left", fontsize=11)
    return figure

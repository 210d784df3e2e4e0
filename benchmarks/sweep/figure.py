"""The figure of the sweep: one line a contestant, a panel a width, the matmul floor drawn in."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness import reading
from benchmarks.harness.drawing import drawing, floor_look, panels
from benchmarks.sweep.summary import REFERENCE, floor_per_setting, per_setting


def draw(result: Mapping[str, Any]) -> Figure:
    """Milliseconds a setting on a logarithmic axis; beside each mark, how many times one program."""
    points = result["points"]
    names = reading.names(points)
    with drawing():
        figure, axes = panels(1, len(points), 3.4 * len(points) + 1.6, 0.36 * len(names) + 1.5, sharey=True)
        for ax, point in zip(axes[0], points, strict=True):
            rows = reading.by_name(point)
            times = [per_setting(rows[name]) for name in names]
            for position, ms in enumerate(times):
                factor = reading.divided(ms, per_setting(rows[REFERENCE]))
                if ms is not None and factor is not None:
                    ax.plot(ms, position, "o", color="#0072B2", markersize=8.0)
                    text = f"{factor:,.0f}×" if factor >= 10 else f"{factor:.2g}×"
                    ax.annotate(text, (ms, position), (8, 0), textcoords="offset points", va="center")
            floor = floor_per_setting(point)
            if floor is not None:
                ax.axvline(floor, **floor_look(), label="matmul floor")
            ax.set(xscale="log", xlabel="time of a setting [ms]", title=f"H = {point['H']}")
            ax.margins(x=0.25, y=0.1)
        axes[0, 0].set_yticks(range(len(names)), names)
        axes[0, 0].invert_yaxis()
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right")
        settings, longest = points[0]["settings"], points[0]["longest"]
        title = f"Gradient norms of {settings} networks, up to {longest} steps; × one program"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure

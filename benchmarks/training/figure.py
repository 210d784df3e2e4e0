"""The figure of training: updates a second against the loop by hand, a row a setting."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness import drawing, reading
from benchmarks.training.summary import named, times_loop

TARGET = 1.8


def draw(result: Mapping[str, Any]) -> Figure:
    """One mark a contestant; 1 is the loop."""
    points = result["points"]
    with drawing.drawing():
        figure = Figure(figsize=(7.5, 1.6 + 0.7 * len(points)))
        ax = figure.add_subplot()
        names = [row["name"] for row in points[0]["contestants"]]
        for index, name in enumerate(names):
            found = [times_loop(point, name) if name in reading.by_name(point) else None for point in points]
            style = drawing.look(index)
            places = [(value, len(points) - 1 - i) for i, value in enumerate(found) if value]
            ax.plot([v for v, _ in places], [y for _, y in places], **{**style, "linestyle": "none"}, label=name)
        ax.axvline(1.0, color="#555555", linewidth=1)
        ax.axvline(TARGET, color="#555555", linewidth=1, linestyle=":")
        ax.text(TARGET, len(points) - 0.55, " target", fontsize=8, color="#333333", va="center")
        ax.set_yticks(range(len(points)), [named(point) for point in reversed(points)])
        ax.set(ylim=(-0.6, len(points) - 0.3), xlabel="updates a second, times the Flax + Optax loop [1]")
        ax.legend(loc="upper center", bbox_to_anchor=(0.3, -0.28), ncols=2)
        return figure

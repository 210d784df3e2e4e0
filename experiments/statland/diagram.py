"""The unrolled network as a drawing: one line a copy, time running down, every number in its box."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.harness import style

_LONGEST = 12  # rows of more days are drawn with their middle left out
_HEAD, _TAIL = 6, 4
_WIDTH = 6.6  # inches
_LINE = 1.12  # inches a copy

_DAY, _SUM, _RELU = 0.8, 3.4, 5.85  # centres of the boxes across, inches
_BOX = {"boxstyle": "round,pad=0.35", "linewidth": 1.1}


def number(value: float) -> str:
    """Six digits at most, with a true minus sign."""
    return f"{value + 0.0:.6g}".replace("-", "−")


def unrolled(trace: Mapping[str, Any], weights: Mapping[str, float]) -> Figure:
    """Draws what `published.trace` returns.

    Each copy reads, from left to right: the day, times W1, the sum x W1 + h W2 + b1, the ReLU's output. The output goes
    down, times W2, into the next copy; the last one goes through W3 and b2 to the prediction.
    """
    steps = list(enumerate(trace["steps"], 1))
    lines: list[tuple[int, Mapping[str, Any]] | None] = list(steps)
    if len(steps) > _LONGEST:
        lines = [*steps[:_HEAD], None, *steps[-_TAIL:]]
    height = _LINE * (len(lines) + 1)
    fig, ax = style.figure(width=_WIDTH, height=height)
    ax.set(xlim=(0, _WIDTH), ylim=(0, height))
    ax.axis("off")
    y = height - _LINE / 2
    above: Text | None = None  # the box of the last ReLU, which feeds the next copy
    for line in lines:
        if line is None:
            ax.text(
                _SUM, y, f"⋮   {len(steps) - _HEAD - _TAIL} more copies, the same weights   ⋮", ha="center", va="center"
            )
            above = None
        else:
            above = _copy(ax, y, *line, weights, above)
        y -= _LINE
    last, text = trace["steps"][-1]["h"], number(trace["prediction"])
    output = f"h·W3 + b2\n{number(last)}·{_signed(weights['W3'])} + {_signed(weights['b2'])} = {text}"
    prediction = _box(ax, _SUM, y, f"{output}\nreads as {trace['reads_as']}", "#d5ecff")
    if above is not None:
        _arrow(ax, above, prediction, f"× W3 = {number(weights['W3'])}")
    return fig


def _copy(
    ax: Axes, y: float, day: int, step: Mapping[str, Any], weights: Mapping[str, float], above: Text | None
) -> Text:
    given = _box(ax, _DAY, y, f"day {day}: {step['day']}\nx = {number(step['x'])}", "#f2f2f2")
    parts = f"{number(step['x_w1'])} + {_signed(step['h_w2'])} + {_signed(step['b1'])}"
    total = _box(ax, _SUM, y, f"x·W1 + h·W2 + b1\n{parts}\n= {number(step['sum'])}", "#fff3d6")
    out = _box(ax, _RELU, y, f"ReLU\nh = {number(step['h'])}", "#d9f2e6" if step["h"] > 0 else "#ffffff")
    _arrow(ax, given, total, f"× W1 = {number(weights['W1'])}", lift=0.14)
    _arrow(ax, total, out)
    if above is not None:
        _arrow(ax, above, total, f"× W2 = {number(weights['W2'])}")
    return out


def _signed(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def _box(ax: Axes, x: float, y: float, text: str, color: str) -> Text:
    box = {**_BOX, "facecolor": color, "edgecolor": "#333333"}
    return ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)


def _arrow(ax: Axes, start: Text, end: Text, label: str = "", lift: float = 0.0) -> None:
    """From the edge of one box to the edge of another, with a label beside its middle."""
    look = {"arrowstyle": "-|>", "color": "#333333", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 2}
    look |= {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=look, zorder=4)
    if label:
        white = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        middle = ((x0 + x1) / 2, (y0 + y1) / 2 + lift)
        ax.text(*middle, label, ha="center", va="center", fontsize=9, bbox=white if not lift else None, zorder=5)

"""Figures of StatLand: the unrolled network with every number in its box, how training went, and the LSTM."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter

from experiments.lab import style
from experiments.statland.published import WEIGHTS

LONGEST, HEAD, TAIL = 12, 6, 4  # rows of more days are drawn with their middle left out
WIDTH, LINE = 6.6, 1.12  # inches, of the drawing and per copy
DAY, SUM, RELU = 0.8, 3.4, 5.85  # centres of the boxes across, inches

FATES = {  # colour, line style and hatch of each
    "learned": (style.BLUE, "-", ""),
    "stuck": (style.ORANGE, "--", "///"),
    "dead": (style.SKY, ":", "..."),
    "diverged": (style.VERMILLION, "-.", "xxx"),
}
DRAWN_SEEDS = 256  # more curves than this are a smear and a large file; medians and counts are over all
FLOOR = 1e-16  # losses below are drawn here; they are rounding


def number(value: float) -> str:
    """Six digits at most, with a true minus sign."""
    return f"{value + 0.0:.6g}".replace("-", "−")


def _signed(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def unrolled(trace: Mapping[str, Any]) -> Figure:
    """The unrolled network of `published.trace`, one line per copy, time running down.

    Each copy reads, from left to right: the day, times W1, the sum x W1 + h W2 + b1, the ReLU's output. The output goes
    down, times W2, into the next copy; the last one goes through W3 and b2 to the prediction.
    """
    steps = list(enumerate(trace["steps"], 1))
    lines: list[Any] = steps if len(steps) <= LONGEST else [*steps[:HEAD], None, *steps[-TAIL:]]
    height = LINE * (len(lines) + 1)
    fig, ax = style.figure(WIDTH, height + 0.4)
    ax.set(xlim=(0, WIDTH), ylim=(0, height), title=f"The network unrolled over {len(steps)} days")
    ax.axis("off")
    y, above = height - LINE / 2, None  # `above` is the box of the last ReLU, which feeds the next copy
    for line in lines:
        if line is None:
            hidden = f"⋮   {len(steps) - HEAD - TAIL} more copies, the same weights   ⋮"
            ax.text(SUM, y, hidden, ha="center", va="center")
            above = None
        else:
            above = _copy(ax, y, line[0], line[1], above)
        y -= LINE
    formula = f"{number(steps[-1][1]['h'])}·{_signed(WEIGHTS['W3'])} + {_signed(WEIGHTS['b2'])}"
    said = f"h·W3 + b2\n{formula} = {number(trace['prediction'])}\nreads as {trace['reads_as']}"
    prediction = _box(ax, SUM, y, said, "#d5ecff")
    if above is not None:
        _arrow(ax, above, prediction, f"× W3 = {number(WEIGHTS['W3'])}")
    return fig


def _copy(ax: Axes, y: float, day: int, step: Mapping[str, Any], above: Text | None) -> Text:
    given = _box(ax, DAY, y, f"day {day}: {step['day']}\nx = {number(step['x'])}", "#f2f2f2")
    parts = f"{number(step['x_w1'])} + {_signed(step['h_w2'])} + {_signed(step['b1'])}"
    total = _box(ax, SUM, y, f"x·W1 + h·W2 + b1\n{parts}\n= {number(step['sum'])}", "#fff3d6")
    out = _box(ax, RELU, y, f"ReLU\nh = {number(step['h'])}", "#d9f2e6" if step["h"] > 0 else "#ffffff")
    _arrow(ax, given, total, f"× W1 = {number(WEIGHTS['W1'])}", lift=0.14)
    _arrow(ax, total, out)
    if above is not None:
        _arrow(ax, above, total, f"× W2 = {number(WEIGHTS['W2'])}")
    return out


def _box(ax: Axes, x: float, y: float, text: str, color: str) -> Text:
    box = {"boxstyle": "round,pad=0.35", "linewidth": 1.1, "facecolor": color, "edgecolor": "#333333"}
    return ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)


def _arrow(ax: Axes, start: Text, end: Text, label: str = "", lift: float = 0.0) -> None:
    """From the edge of one box to the edge of another, with a label beside its middle."""
    look = {"arrowstyle": "-|>", "color": "#333333", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 2}
    look |= {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=look, zorder=4)
    white = None if lift else {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
    middle = (x0 + x1) / 2, (y0 + y1) / 2 + lift
    ax.text(*middle, label, ha="center", va="center", fontsize=9, bbox=white if label else None, zorder=5)


def loss_curves(updates: np.ndarray, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Loss against update for every seed, one panel per optimizer, with the median and the middle half over them."""
    fig, panels = style.figures(-(-len(runs) // 2), 2, 8.0, 6.4, sharex=True, sharey=True)
    for ax, (name, rows) in zip(panels.flat, runs.items(), strict=False):
        losses, fates = np.array([row["loss"] for row in rows]), [row["fate"] for row in rows]
        drawn = np.clip(np.where(np.isfinite(losses), losses, np.nan), FLOOR, 1e4)
        for fate, (color, linestyle, _) in FATES.items():
            for curve in [drawn[i] for i, each in enumerate(fates[:DRAWN_SEEDS]) if each == fate]:
                ax.plot(updates + 1, curve, color=color, linestyle=linestyle, linewidth=0.7, alpha=0.55)
            if fate in fates:
                ax.plot([], [], color=color, linestyle=linestyle, label=f"{fate}: {fates.count(fate)}")
        ranked = np.where(np.isfinite(losses), losses, np.inf)
        low, middle, high = np.clip(np.quantile(ranked, [0.25, 0.5, 0.75], axis=0, method="nearest"), FLOOR, 1e4)
        ax.fill_between(updates + 1, low, high, color="#808080", alpha=0.25, linewidth=0, label="middle half")
        ax.plot(updates + 1, middle, color=style.BLACK, linewidth=2.2, label="median")
        ax.set(xscale="log", yscale="log", title=name)
        ax.legend(loc="lower left")
    for ax in panels[-1]:
        ax.set_xlabel("update + 1 [count]")
    for ax in panels[:, 0]:
        ax.set_ylabel("sum of squared residuals [1]")
    style.letters(panels)
    return fig


def fates(outcomes: Mapping[str, Mapping[str, float]]) -> Figure:
    """Share of seeds by how they ended, one bar per optimizer."""
    fig, ax = style.figure(7.0, 0.55 * len(outcomes) + 1.8)
    left, white = np.zeros(len(outcomes)), {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
    for fate, (color, _, hatch) in FATES.items():
        shares = np.array([outcome[f"share_{fate}"] for outcome in outcomes.values()])
        look = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.8}
        bars = ax.barh(list(outcomes), shares, left=left, label=fate, **look)
        labels = [f"{share:.0%}" if share >= 0.04 else "" for share in shares]
        ax.bar_label(bars, labels, label_type="center", fontsize=9, bbox=white)
        left += shares
    ax.set(xlim=(0, 1), xlabel="share of seeds [%]")
    ax.set_title("How training from scratch ends", pad=26)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=len(FATES), loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return fig


def lstm(traces: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Memories (above) and gates (below) of the published LSTM, one column per company."""
    fig, panels = style.figures(2, len(traces), 8.0, 5.6, sharex=True, sharey="row")
    memories = {"c": "long-term memory c", "h": "short-term memory h", "x": "price x"}
    gates = {"forget": "forget σ(f)", "input": "input σ(i)", "output": "output σ(o)", "candidate": "candidate tanh(g)"}
    for column, (company, days) in zip(panels.T, traces.items(), strict=True):
        numbers = range(1, len(days) + 1)
        for ax, names in zip(column, (memories, gates), strict=True):
            for i, (name, label) in enumerate(names.items()):
                ax.plot(numbers, [day[name] for day in days], label=label, **style.line(i))
            ax.set_xticks(list(numbers))
        column[0].set_title(f"company {company}, day {len(days) + 1}: {days[-1]['h']:.4f}")
        column[1].set(title=f"company {company}, gates", xlabel="day [count]")
    panels[0, 0].set_ylabel("memory and price [1]")
    panels[1, 0].set_ylabel("gate [1]")
    for line in panels:
        line[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    style.letters(panels)
    return fig

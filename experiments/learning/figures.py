"""Learning curves, and the gradient's norm along them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from experiments import harness
from experiments.harness import style
from experiments.learning.options import CELL_NAMES
from experiments.learning.problem import Problem

_LINES: dict[bool, Any] = {True: "-", False: "--"}
_WORDS = {True: "clipped", False: "not clipped"}
_MARKS = 8  # along a curve


def curves(run: harness.Run[Any], rows: Sequence[harness.Row], problem: Problem) -> harness.Figure:
    """A column for each cell: above the held-out measure, below the gradient's norm before clipping."""
    cells = list(dict.fromkeys(row.options["cell"] for row in rows))
    fig, axes = style.figures(2, len(cells), 2.5 * len(cells) + 1.0, 5.0, sharex=True, sharey="row")
    for column, cell in enumerate(cells):
        for clipped in dict.fromkeys(row.options["clipped"] for row in rows):
            group = [row for row in rows if (row.options["cell"], row.options["clipped"]) == (cell, clipped)]
            _band(axes[0, column], group, f"held_out_{problem.measure}", cell, clipped)
            _band(axes[1, column], group, "gradient_norm", cell, clipped)
        axes[0, column].axhline(problem.baseline, color="0.35", linewidth=1.2, linestyle=":")
        axes[1, column].axhline(run.options.max_norm, color="0.35", linewidth=0.8)
        axes[0, column].set_title(cell)
        axes[1, column].set_xlabel("updates")
        for ax in axes[:, column] if not problem.higher_is_better else axes[1:, column]:
            ax.set_yscale("log")
            low, high = ax.get_ylim()
            few = high / low < 20  # decades hardly ever are ticks enough then
            ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if few else range(2, 10)))
            ax.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if few else NullFormatter())
    words = problem.measure.replace("_nats", " [nats]").replace("_", " ")
    axes[0, 0].set_ylabel(f"held-out\n{words}")
    axes[1, 0].set_ylabel("gradient norm,\nbefore clipping")
    fig.legend(handles=_legend(rows, problem), loc="outside lower center", ncols=4, handlelength=3.2)
    seeds = len({row.options["index"] for row in rows})
    return run.figure(
        "curves",
        fig,
        alt=f"For each cell, held-out {words} and gradient norm against updates, clipped (solid) and not (dashed).",
        caption=f"Held-out {words} and the mean norm of the gradient before clipping, against updates: median of "
        f"{seeds} seeds, band from the lowest to the highest. Dotted: {problem.baseline_name}, "
        f"{problem.baseline:.4g}. Thin line below: norm {run.options.max_norm:g}, where the clipped runs are clipped.",
    )


def _band(ax: Axes, rows: Sequence[harness.Row], name: str, cell: str, clipped: bool) -> None:
    """Median over seeds, and a band from the lowest to the highest; NaN where a run had stopped."""
    longest = max((row.arrays["updates"] for row in rows), key=len)
    values = np.full((len(rows), len(longest)), np.nan)
    for line, row in zip(values, rows, strict=True):
        line[: len(row.arrays[name])] = row.arrays[name]
    seen = np.isfinite(values).any(axis=0)
    values, at = values[:, seen], longest[seen]
    look = style.line(CELL_NAMES.index(cell))
    every = max(1, len(at) // _MARKS)
    ax.fill_between(at, np.nanmin(values, 0), np.nanmax(values, 0), color=look.color, alpha=0.12, linewidth=0)
    ax.plot(
        at,
        np.nanmedian(values, 0),
        color=look.color,
        linestyle=_LINES[clipped],
        marker=look.marker,
        markevery=(every - 1 if clipped else every // 2, every),
        linewidth=1.4,
        markerfacecolor=look.color if clipped else "white",
    )


def _legend(rows: Sequence[harness.Row], problem: Problem) -> list[Line2D]:
    looks = [
        Line2D(
            [], [], color="0.2", linestyle=_LINES[clipped], marker="o", markerfacecolor="0.2" if clipped else "white"
        )
        for clipped in dict.fromkeys(row.options["clipped"] for row in rows)
    ]
    for look, clipped in zip(looks, dict.fromkeys(row.options["clipped"] for row in rows), strict=True):
        look.set_label(_WORDS[clipped])
    return [*looks, Line2D([], [], color="0.35", linewidth=1.2, linestyle=":", label=problem.baseline_name)]

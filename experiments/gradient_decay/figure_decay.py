"""The first picture: the log gradient against lag, theory over it, and where float32 gives up."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments import harness
from experiments.gradient_decay.options import Options
from experiments.gradient_decay.scalar import LAG, scalar_curve
from experiments.harness import style

FLOAT32_DECADES = (-63 * np.log10(2), 64 * np.log10(2))  # entries beyond these square to 0 or to inf
_DECADES = 30.0  # height of a panel, above and below zero
_DEATH: dict[str, Any] = {
    "color": "black", "linestyle": "none", "marker": "x", "markersize": 8, "markeredgewidth": 2, "zorder": 5,
}  # fmt: skip

Curves = dict[str, dict[str, np.ndarray]]


def decay_figure(run: harness.Run[Options], lag_rows: list[dict[str, Any]], curves: Curves) -> harness.Figure:
    """Panels kind x cell. `curves[cell]["kind/scale/what"]` is `[T + 1]` over lags; see `table.curves_by_lag`."""
    options, cells = run.options, list(curves)
    rows, columns = len(options.kinds), len(cells)
    death = {(row["cell"], row["kind"], row["scale"]): row["float32_norm_dies_at_lag_steps"] for row in lag_rows}
    fig, axes = style.figures(rows, columns, 2.6 * columns + 1.2, 2.9 * rows + 0.7, sharex=True, sharey=True)
    for row, kind in enumerate(options.kinds):
        for column, cell in enumerate(cells):
            ax = axes[row, column]
            _zones(ax)
            for i, scale in enumerate(_spread_out(options.scales, 5)):
                found = {what: curves[cell].get(f"{kind}/{scale}/{what}") for what in ("mean", "std", "theory")}
                _curve(ax, style.line(i), f"scale {scale:g}", found, death[cell, kind, scale])
            if cell == "linear":
                _powers(ax)
            ax.set_ylim(-_DECADES, _DECADES)
            ax.set_xlim(0, min(max(options.lengths), 2 * LAG))
            if row == 0:
                ax.set_title(cell)
            if row == rows - 1:
                ax.set_xlabel("lag T − t [steps]")
        axes[row, 0].set_ylabel(f"{kind} W2\nlog10 |dL/dh| [decades]")
    handles = [
        *axes[0, 0].get_legend_handles_labels()[0],
        Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="none", label="theory"),
        Line2D([], [], label="float32 norm dies", **_DEATH),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return run.figure(
        "decay",
        fig,
        alt="Log gradient against lag for each cell and five scales of W2: lines that fall for small scales and rise "
        "for large ones, with the theory's markers on them.",
        caption="Gradient that is left k steps before the end of the longest sequence: mean over seeds, band one "
        "standard deviation, open markers theory, thick grey the lecture's 0.5^k and 2^k. In the shaded zones a "
        "float32 norm is no longer representable; a cross marks the lag from which the one computed here in float32 "
        "is 0, inf or NaN.",
    )


def _zones(ax: Axes) -> None:
    ax.axhspan(FLOAT32_DECADES[1], _DECADES, color="#e6e6e6", zorder=0)
    ax.axhspan(-_DECADES, FLOAT32_DECADES[0], color="#e6e6e6", zorder=0)


def _curve(ax: Axes, look: style.LineStyle, label: str, found: dict[str, Any], death: float | None) -> None:
    mean, std, theory = found["mean"], found["std"], found["theory"]
    shown = slice(0, 2 * LAG + 1)
    mean, std = mean[shown], std[shown]
    lags = np.arange(len(mean))
    ax.plot(lags, mean, color=look.color, linestyle=look.linestyle, label=label)
    ax.fill_between(lags, mean - std, mean + std, color=look.color, alpha=0.18, linewidth=0)
    if theory is not None:
        marked = slice(0, len(lags), max(1, len(lags) // 8))
        ax.plot(lags[marked], theory[marked], look.marker, color=look.color, markersize=4, markerfacecolor="white")
    if death is not None and death < len(lags):
        ax.plot(death, mean[int(death)], **_DEATH)


def _powers(ax: Axes) -> None:
    """The lecture's one-unit network, with W2 = 0.5 and 2."""
    for w2 in (0.5, 2.0):
        curve = scalar_curve(w2)
        ax.plot(np.arange(LAG + 1), curve, color="#888888", linewidth=5, alpha=0.5, zorder=1, solid_capstyle="butt")
        ax.annotate(f"${w2:g}^k$", (LAG, curve[-1]), (3, 0), textcoords="offset points", va="center", fontsize=9)


def _spread_out(scales: tuple[float, ...], count: int) -> list[float]:
    """At most `count` of the scales, evenly spaced in their logarithm as far as may be, first and last among them."""
    ordered = np.array(sorted(scales))
    targets = np.geomspace(ordered[0], ordered[-1], min(count, len(ordered)))
    picks = {int(np.abs(np.log(ordered / target)).argmin()) for target in targets}
    return [float(ordered[i]) for i in sorted(picks)]

"""Figures of the training and of the LSTM."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.harness import style
from experiments.harness.rows import Row
from experiments.statland.training import FATES

_FATE_COLORS = dict(zip(FATES, (style.BLUE, style.ORANGE, style.SKY, style.VERMILLION), strict=True))
_FATE_LINES = dict(zip(FATES, ("-", "--", ":", "-."), strict=True))
_FATE_HATCHES = dict(zip(FATES, ("", "///", "...", "xxx"), strict=True))
DRAWN_SEEDS = 256  # more curves than this are a smear and a large file; medians and counts are over all
_FLOOR = 1e-16  # losses below are drawn here; they are rounding


def row_name(options: Mapping[str, Any]) -> str:
    """A training row in words."""
    clip = options["clip_norm"]
    return f"{options['optimizer'].upper() if options['optimizer'] == 'sgd' else 'Adam'}, " + (
        "no clipping" if clip is None else f"clipped to norm {clip:g}"
    )


def loss_curves(rows: Sequence[Row]) -> Figure:
    """Loss against update for every seed, one panel a row, with the median and the middle half over them."""
    columns = 2
    fig, panels = style.figures(-(-len(rows) // columns), columns, width=8.0, height=6.4, sharex=True, sharey=True)
    for ax, row in zip(panels.flat, rows, strict=False):
        updates, losses, fates = row.arrays["update"] + 1, row.arrays["loss"], row.arrays["fate"]
        drawn = np.clip(np.where(np.isfinite(losses), losses, np.nan), _FLOOR, 1e4)
        for index, fate in enumerate(FATES):
            chosen = drawn[fates == index]
            for curve in drawn[:DRAWN_SEEDS][fates[:DRAWN_SEEDS] == index]:
                ax.plot(
                    updates, curve, color=_FATE_COLORS[fate], linestyle=_FATE_LINES[fate], linewidth=0.7, alpha=0.55
                )
            if len(chosen):
                ax.plot([], [], color=_FATE_COLORS[fate], linestyle=_FATE_LINES[fate], label=f"{fate}: {len(chosen)}")
        ranked = np.where(np.isfinite(losses), losses, np.inf)
        low, middle, high = np.clip(np.quantile(ranked, [0.25, 0.5, 0.75], axis=0, method="nearest"), _FLOOR, 1e4)
        ax.fill_between(updates, low, high, color="#808080", alpha=0.25, linewidth=0, label="middle half")
        ax.plot(updates, middle, color=style.BLACK, linewidth=2.2, label="median")
        ax.set(xscale="log", yscale="log", title=row_name(row.options))
        ax.legend(loc="lower left")
    for ax in panels[-1]:
        ax.set_xlabel("update + 1 [count]")
    for ax in panels[:, 0]:
        ax.set_ylabel("sum of squared residuals [1]")
    return fig


def fates(rows: Sequence[Row]) -> Figure:
    """Share of seeds by how they ended, one bar a row."""
    fig, ax = style.figure(width=7.0, height=0.55 * len(rows) + 1.5)
    for position, row in enumerate(rows):
        left = 0.0
        for index, fate in enumerate(FATES):
            share = float(np.mean(row.arrays["fate"] == index))
            style_of = {
                "color": _FATE_COLORS[fate],
                "hatch": _FATE_HATCHES[fate],
                "edgecolor": "white",
                "linewidth": 0.8,
            }
            ax.barh(position, share, left=left, label=fate if position == 0 else None, **style_of)
            if share >= 0.04:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
                ax.text(left + share / 2, position, f"{share:.0%}", ha="center", va="center", fontsize=9, bbox=box)
            left += share
    ax.set_yticks(range(len(rows)), [row_name(row.options) for row in rows])
    ax.set(xlim=(0, 1), xlabel="share of seeds [%]")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=len(FATES), loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return fig


def lstm(traces: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Memories (above) and gates (below) of the published LSTM, one column a company."""
    fig, panels = style.figures(2, len(traces), width=8.0, height=5.6, sharex=True, sharey="row")
    memories = {"c": "long-term memory c", "h": "short-term memory h", "x": "price x"}
    gates = {"forget": "forget σ(f)", "input": "input σ(i)", "output": "output σ(o)", "candidate": "candidate tanh(g)"}
    for column, (company, days) in enumerate(traces.items()):
        numbers = range(1, len(days) + 1)
        for ax, names in zip(panels[:, column], (memories, gates), strict=True):
            for index, (name, label) in enumerate(names.items()):
                ax.plot(numbers, [day[name] for day in days], label=label, **style.line(index)._asdict())
            ax.set_xticks(list(numbers))
        prediction = days[-1]["h"]
        panels[0, column].set_title(f"Company {company}\nday {len(days) + 1} predicted: {prediction:.4f}")
        panels[1, column].set_xlabel("day [count]")
    panels[0, 0].set_ylabel("memory and price [1]")
    panels[1, 0].set_ylabel("gate [1]")
    for line in panels:
        line[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig

"""Errors by fold and company, gains with their intervals, and learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.dates import DateFormatter, YearLocator

from experiments import harness
from experiments.harness import style
from experiments.stocks import table
from experiments.stocks.folds import Folds
from experiments.stocks.series import Panel


def errors(run: harness.Run[Any], panel: Panel, folds: Folds, named: Mapping[str, np.ndarray]) -> harness.Figure:
    """A panel for each company: root mean squared error over persistence's, fold by fold, a line a model."""
    names = [name for name in named if name not in ("persistence", "drift") and "unclipped" not in name]
    ratios = {name: table.by_fold(panel, folds, named[name]) for name in names}
    at = panel.dates[folds.first] + np.timedelta64(90, "D")
    fig, axes = style.figures(1, len(panel.names), 9.0, 3.1)
    many = np.isfinite(ratios[names[0]]).sum(axis=0) > 1
    span = np.array([ratios[name][:, many] for name in names])
    low, high = np.nanmin(span), np.nanmax(span)
    order = np.argsort(~many, kind="stable")  # a company of one fold, with little past, has a scale of its own
    for place, column in enumerate(order):
        ax = axes[0, place]
        ax.axhline(1, color="0.35", linewidth=1.0)
        for i, name in enumerate(names):
            ax.plot(
                at, ratios[name][:, column], label=name, **style.line(i)._asdict() | {"linewidth": 1.1, "markersize": 4}
            )
        ax.set_title(panel.names[column])
        if many[column]:
            ax.set_ylim(low - 0.004, high + 0.004)
            ax.tick_params(axis="y", labelleft=place == 0)
        ax.set_xlim(at[0] - np.timedelta64(200, "D"), at[-1] + np.timedelta64(200, "D"))
        ax.xaxis.set_major_locator(YearLocator(4 if len(at) > 8 else 1))
        ax.xaxis.set_major_formatter(DateFormatter("%Y"))
    axes[0, 0].set_ylabel("RMSE / RMSE of persistence")
    axes[0, len(panel.names) // 2].set_xlabel("middle of the fold [year]")
    fig.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=len(names))
    return run.figure(
        "errors",
        fig,
        alt="For each company the error of each model over that of persistence, fold by fold.",
        caption="Root mean squared error of tomorrow's log return over that of persistence (below the line at 1 a "
        "model is better), by fold and company; networks clipped, all seeds together. GOOG and FB begin with the first "
        "fold that has enough of their past; FB, with one fold and 48 days to learn from, has a scale of its own.",
    )


def gains(run: harness.Run[Any], lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> harness.Figure:
    """A panel for each input: difference of loss to persistence with its interval, a model a row."""
    titles = {"stocks": "prices", "planted": "planted series", "walk": "random walk"}
    fig, axes = style.figures(1, len(lines), 3.4 * len(lines) + 1.4, 3.9)
    for ax, (name, own) in zip(axes[0], lines.items(), strict=True):
        shown = [line for line in own if line["model"] != "persistence"]
        at = np.arange(len(shown))[::-1]
        middle = np.array([line["difference"] for line in shown])
        ends = np.array([[line["difference_low"], line["difference_high"]] for line in shown]).T
        ax.errorbar(middle, at, xerr=np.abs(ends - middle), fmt="o", color=style.BLACK, capsize=3, linewidth=1.2)
        ax.axvline(0, color="0.35", linewidth=1.0)
        ax.set_yticks(at, [line["model"] for line in shown])
        ax.set_ylim(-0.7, len(shown) - 0.3)
        ax.set_title(titles[name])
        ax.set_xlabel("loss − loss of persistence\n[variances of the past]")
        ax.grid(axis="y", visible=False)
    return run.figure(
        "gains",
        fig,
        alt="For prices, a planted series and a random walk, each model's loss less persistence's, with intervals.",
        caption="Mean daily loss less that of persistence, with the 95% interval of a moving-block bootstrap; left of "
        "zero a model is better.",
    )


def curves(run: harness.Run[Any], rows: Sequence[harness.Row]) -> harness.Figure:
    """A column for each cell: loss on what is trained on, and on the month after it, over folds and seeds."""
    fig, axes = style.figures(1, len(rows), max(3.3 * len(rows), 6.5) + 0.8, 3.9, sharey=True)
    for ax, row in zip(axes[0], rows, strict=True):
        for i, clipped in enumerate(row.options["clipping"]):
            words = "clipped" if clipped else "not clipped"
            shown = {
                "trained on": row.arrays["loss"],
                "month after": row.arrays["held_out_loss"] / row.arrays["held_out_persistence"],
            }
            for j, (name, all_values) in enumerate(shown.items()):
                values = all_values[:, i].reshape(len(row.arrays["updates"]), -1)
                look = style.line(2 * j)._asdict() | {"linestyle": "-" if clipped else "--", "markevery": (3 * i, 6)}
                look |= {"markerfacecolor": look["color"] if clipped else "white"}
                ax.plot(row.arrays["updates"], np.nanmedian(values, axis=1), label=f"{name}, {words}", **look)
                if clipped:
                    low, high = np.nanquantile(values, (0.25, 0.75), axis=1)
                    ax.fill_between(row.arrays["updates"], low, high, color=look["color"], alpha=0.12, linewidth=0)
        ax.axhline(1, color="0.35", linewidth=0.8)
        ax.set_title(row.options["cell"])
        ax.set_xlabel("updates")
    axes[0, 0].set_ylabel("squared error / persistence's")
    fig.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=4)
    return run.figure(
        "curves",
        fig,
        alt="For each cell squared error against updates, on the training days and on the month after them.",
        caption="Learning curves, squared error over that of persistence on the same days: median over folds and "
        "seeds; the bands, of clipped runs, hold half of them. The month lies after the days that weights and scales "
        "are fitted to, and before the fold.",
    )

"""Success against length, and how accuracy went during training."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from experiments import harness
from experiments.harness import style
from experiments.temporal_order.training import METHODS, methods_of

CHANCE = 0.25

Rows = list[tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]]


def success_figure(run: harness.Run, table: list[dict[str, Any]]) -> harness.Figure:
    """`table` has a line for each initialisation, length and method."""
    names = list(dict.fromkeys(line["initialisation"] for line in table))
    fig, axes = style.figures(1, len(names), 3.2 * len(names) + 0.6, 3.7, sharey=True, sharex=True)
    for ax, name in zip(axes[0], names, strict=True):
        for i, method in enumerate(METHODS):
            found = [line for line in table if (line["initialisation"], line["method"]) == (name, method)]
            lengths, shares = [line["steps"] for line in found], [line["solved_share"] for line in found]
            shift = 0.012 * (i - 1)  # so that curves at 0 and at 1 can be told apart
            ax.plot(lengths, np.array(shares) + shift, label=method, **style.line(i)._asdict())
        ax.set_title(name)
        ax.set_xlabel("length T [steps]")
        ax.set_xticks(sorted({line["steps"] for line in table}))
        ax.set_ylim(-0.06, 1.06)
    axes[0, 0].set_ylabel(f"share of {table[0]['seeds']} seeds solved")
    fig.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    return run.figure(
        "success",
        fig,
        alt="For each initialisation the share of solved seeds against sequence length, one curve a method.",
        caption="Share of seeds with less than 1% of 10,000 fresh sequences wrong after the budget of updates, by "
        "method and initialisation. The curves are set off by a hundredth from each other.",
    )


def history_figure(run: harness.Run, rows: Rows, steps: int) -> harness.Figure:
    """Held-out accuracy of every seed at one length."""
    here = [row for row in rows if row[0]["steps"] == steps]
    names = list(dict.fromkeys(row[0]["initialisation"] for row in here))
    fig, axes = style.figures(1, len(names), 3.2 * len(names) + 0.6, 3.7, sharey=True, sharex=True)
    for asked, _, arrays in here:
        ax = axes[0, names.index(asked["initialisation"])]
        for method, accuracy in zip(methods_of(asked), np.moveaxis(arrays["accuracy"], 1, 0), strict=True):
            look = style.line(METHODS.index(method))
            reached = np.maximum.accumulate(np.nan_to_num(accuracy), axis=0)
            ax.plot(arrays["updates"], reached, color=look.color, linestyle=look.linestyle, linewidth=1.1, alpha=0.9)
    for ax, name in zip(axes[0], names, strict=True):
        ax.axhline(CHANCE, color="0.5", linewidth=0.8)
        ax.axhline(0.5, color="0.5", linewidth=0.8, linestyle=":")
        ax.set_title(name)
        ax.set_xlabel("updates")
        ax.set_ylim(0.2, 1.02)
    axes[0, 0].set_ylabel("best held-out accuracy so far")
    handles = [
        Line2D([], [], color=style.line(i).color, linestyle=style.line(i).linestyle, label=method)
        for i, method in enumerate(METHODS)
    ]
    guesses = [
        Line2D([], [], color="0.5", linewidth=0.8, label="guess"),
        Line2D([], [], color="0.5", linewidth=0.8, linestyle=":", label="one symbol of two known"),
    ]
    fig.legend(handles=[*handles, *guesses], loc="outside lower center", ncols=5)
    return run.figure(
        "history",
        fig,
        alt=f"Accuracy against updates at T = {steps} for each initialisation, one line a seed.",
        caption=f"Training at T = {steps}: the best held-out accuracy so far, one line a seed. Who remembers only the "
        "later symbol is right half the time.",
    )

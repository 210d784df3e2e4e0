"""Accuracy against delay, and the exponents before and after."""

from typing import Any

import numpy as np

from experiments import harness
from experiments.harness import style

NAMES = ("plain", "flossed")


def accuracy_figure(run: harness.Run, rows: list[dict[str, Any]]) -> harness.Figure:
    fig, ax = style.figure(6.4, 4.0)
    for i, name in enumerate(NAMES):
        delays = [row["delay"] for row in rows]
        found = np.array([row[name]["accuracy"] for row in rows], float)  # [delays, seeds]
        look = style.line(i)
        ax.plot(delays, found.mean(axis=1), label=f"{name}, mean", **look._asdict())
        for seed in found.T:
            ax.plot(
                delays, seed, look.marker, color=look.color, markersize=3, markerfacecolor="white", linestyle="none"
            )
    ax.axhline(0.5, color="0.5", linewidth=0.8, label="guess")
    ax.set_xlabel("delay d [steps]")
    ax.set_ylabel("held-out accuracy")
    ax.set_ylim(0.45, 1.02)
    ax.legend()
    return run.figure(
        "accuracy",
        fig,
        alt="Accuracy against delay, with and without flossing before training.",
        caption="Delayed XOR after the budget of updates: the mean over seeds, and every seed.",
    )


def exponents_figure(run: harness.Run, delays: list[int], exponents: list[np.ndarray]) -> harness.Figure:
    """`exponents` of each delay, `[before, flossed, plain trained, flossed trained; seeds, k]`."""
    shown = sorted({0, len(delays) - 1})
    fig, axes = style.figures(1, len(shown), 4.4 * len(shown), 3.9, sharey=True)
    labels = ("drawn", "flossed", "drawn, then trained", "flossed, then trained")
    for ax, i in zip(axes[0], shown, strict=True):
        index = np.arange(1, exponents[i].shape[-1] + 1)
        for j, label in enumerate(labels):
            ax.plot(index, exponents[i][j].mean(axis=0), label=label, markevery=2, **style.line(j)._asdict())
        ax.axhline(0, color="0.5", linewidth=0.8)
        ax.set_title(f"delay {delays[i]}")
        ax.set_xlabel("index i of the exponent")
    axes[0, 0].set_ylabel("finite-time λ_i [nats/step]")
    fig.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=4)
    return run.figure(
        "exponents",
        fig,
        alt="The leading exponents of drawn networks fall off; those of flossed ones lie at zero.",
        caption="The leading finite-time exponents on inputs of the task's kind, mean over seeds.",
    )

"""How far each number is off, in units of its tolerance."""

from typing import Any

import numpy as np

from experiments import harness
from experiments.harness import style


def deviations_figure(run: harness.Run[Any], lines: list[dict[str, Any]]) -> harness.Figure:
    """(ours - published) / tolerance for the rows that are measured by sampling; the band is what counts."""
    shown = [each for each in lines if not each["exact"] and each["ours"] is not None and each["tolerance"] > 0]
    shown = shown or [each for each in lines if each["ours"] is not None and each["tolerance"] > 0]
    fig, ax = style.figure(7.5, 0.28 * len(shown) + 1.2)
    ax.axvspan(-1, 1, color="#e6e6e6", zorder=0)
    ax.axvline(0, color="black", linewidth=0.8)
    for y, each in enumerate(reversed(shown)):
        off = (each["ours"] - each["published"]) / each["tolerance"]
        inside = abs(off) <= 1
        ax.plot(np.clip(off, -2.9, 2.9), y, "o" if inside else "X", color=style.BLUE if inside else style.VERMILLION,
                markersize=6 if inside else 9)  # fmt: skip
    ax.set_yticks(range(len(shown)), [each["row"] for each in reversed(shown)], fontsize=8)
    ax.set_xlim(-3, 3)
    ax.set_xlabel("(ours − published) / tolerance")
    return run.figure(
        "deviations",
        fig,
        alt="Deviation of each measured number from the published one, in units of its tolerance.",
        caption="Rows measured by sampling. Within the band a number counts as reproduced; a cross is outside it.",
    )

"""What is left in the cell state against lag: the closed form's case, and the cell as one uses it."""

from typing import Any

import numpy as np

from experiments import harness
from experiments.harness import style

Curves = dict[tuple[str, str], dict[str, np.ndarray]]


def label(init: str, t_max: int) -> str:
    return f"chrono, T_max = {t_max}" if init == "chrono" else f"forget bias {init}"


def memory_figure(run: harness.Run[Any], curves: Curves, theory: dict[str, np.ndarray], t_max: int) -> harness.Figure:
    """`curves[init, setting]["mean"|"std"]` is log10 share by lag, `theory[init]` too."""
    inits = list(theory)
    fig, axes = style.figures(1, 2, 9.6, 4.4, sharey=True)
    titles = {"closed": "W_h = 0, no input", "driven": "as initialised, driven by white noise"}
    for ax, setting in zip(axes[0], titles, strict=True):
        for i, init in enumerate(inits):
            look, found = style.line(i), curves[init, setting]
            lags = np.arange(1, len(found["mean"]))
            line = {"color": look.color, "linestyle": look.linestyle}
            ax.plot(lags, theory[init][1:], linewidth=1.4, **line)
            some = np.unique(np.geomspace(1, len(lags), 14).astype(int))
            ax.errorbar(some, found["mean"][some], found["std"][some], color=look.color, linestyle="none", capsize=2,
                        marker=look.marker, markerfacecolor="white", label=label(init, t_max))  # fmt: skip
        ax.set_xscale("log")
        ax.set_ylim(-12, 4.5)
        ax.set_xlabel("lag [steps]")
        ax.set_title(titles[setting])
    axes[0, 0].set_ylabel("share of dL/dc that is left, log10 [decades]")
    axes[0, 1].legend(loc="lower left")
    return run.figure(
        "memory",
        fig,
        alt="Share of the cell state's gradient against lag, four initialisations: markers on the closed-form lines on "
        "the left, near them on the right.",
        caption="Measured (markers, one standard deviation over seeds) and closed form (lines): σ(b_f)^k, and the "
        "mean of (u/(1 + u))^k for chrono. Left: the closed form's own case, mean over units. Right: with orthogonal "
        "W_h and white noise as input, norm over units; the closed form is drawn for comparison.",
    )

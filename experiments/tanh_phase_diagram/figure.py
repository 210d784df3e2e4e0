"""Two pictures: exponents against gain, and whole spectra."""

from typing import Any

import numpy as np

from experiments import harness
from experiments.harness import style
from experiments.tanh_phase_diagram.published import PUBLISHED
from rnnjax.gradients import theory


def diagram_figure(run: harness.Run[Any], gains: np.ndarray, leading: np.ndarray, mean: np.ndarray) -> harness.Figure:
    """Above: leading and mean exponents over theory; below: leading exponent minus theory. `[seeds, gains]` each."""
    fine = np.linspace(gains.min(), gains.max(), 300)
    fig, axes = style.figures(2, 1, 7, 6, sharex=True, height_ratios=(2.4, 1))
    top, bottom = axes[:, 0]
    top.axhline(0, color="black", linewidth=0.8)
    shown = ((leading, theory.tanh_lyapunov_exponent, "leading"), (mean, theory.tanh_mean_exponent, "mean of all"))
    for i, (values, closed, label) in enumerate(shown):
        look = style.line(i)
        top.plot(fine, closed(fine), color=look.color, linestyle=look.linestyle, label=f"{label}, mean field")
        top.errorbar(gains, values.mean(0), values.std(0, ddof=1), color=look.color, marker=look.marker,
                     markerfacecolor="white", linestyle="none", capsize=2, label=f"{label}, measured")  # fmt: skip
        off = values - closed(gains)
        bottom.errorbar(gains, off.mean(0), off.std(0, ddof=1), color=look.color, marker=look.marker,
                        markerfacecolor="white", linestyle="none", capsize=2)  # fmt: skip
    known = [each for each in PUBLISHED if gains.min() <= each["gain"] <= gains.max()]
    for name in ("leading", "mean"):
        label = "published, H = 4096" if name == "mean" else None
        top.plot([each["gain"] for each in known], [each[name] for each in known], "+", color=style.VERMILLION,
                 markersize=12, markeredgewidth=2, label=label)  # fmt: skip
    top.set_ylabel("exponent [nats/step]")
    top.legend(loc="lower left")
    bottom.axhline(0, color="black", linewidth=0.8)
    bottom.set_ylabel("minus theory")
    bottom.set_xlabel("gain g of W")
    return run.figure(
        "diagram",
        fig,
        alt="Leading exponent against gain: rises through zero at gain one, peaks and bends; the mean exponent falls. "
        "Markers lie on the lines of theory.",
        caption=f"H = {run.options.hidden_size}; mean and standard deviation over {run.options.seeds} seeds. Lines: "
        "mean field. Below: measured minus mean field.",
    )


def spectra_figure(run: harness.Run[Any], spectra: dict[float, np.ndarray]) -> harness.Figure:
    """`spectra[gain]` is `[seeds, H]`."""
    fig, ax = style.figure(7, 4.2)
    ax.axhline(0, color="black", linewidth=0.8)
    for i, (gain, exponents) in enumerate(spectra.items()):
        look = style.line(i)
        size = exponents.shape[1]
        some = np.unique(np.linspace(0, size - 1, 26).astype(int))
        ax.errorbar((some + 0.5) / size, exponents.mean(0)[some], exponents.std(0, ddof=1)[some], color=look.color,
                    marker=look.marker, markerfacecolor="white", linestyle=look.linestyle, linewidth=0.8, capsize=2,
                    label=f"g = {gain:g}, measured")  # fmt: skip
        for closed, words in ((theory.tanh_lyapunov_exponent, "leading"), (theory.tanh_mean_exponent, "mean")):
            ax.axhline(float(closed(gain)), color=look.color, linestyle=look.linestyle, linewidth=1)
            below = words == "leading" and gain == min(spectra)  # the leading ones lie close together
            ax.annotate(f"{words}, g = {gain:g}", (1.0, closed(gain)), (0, -11 if below else 2), fontsize=8,
                        textcoords="offset points", ha="right", color=look.color)  # fmt: skip
    ax.set_ylim(-7, 0.8)
    ax.set_xlabel("index of the exponent / H")
    ax.set_ylabel("Lyapunov exponent [nats/step]")
    ax.legend(loc="lower left")
    return run.figure(
        "spectra",
        fig,
        alt="All Lyapunov exponents by index at two gains, falling from just above zero to far below.",
        caption="Whole spectra (markers, one standard deviation over seeds); horizontal lines are the mean field's "
        "leading exponent and mean of all exponents.",
    )

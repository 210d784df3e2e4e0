"""Two pictures: three spectra on their theories, and the norms that tell fresh matrices from a frozen one."""

from typing import Any

import numpy as np

from experiments import harness
from experiments.harness import style


def spectra_figure(
    run: harness.Run[Any],
    fresh: np.ndarray,
    newman: np.ndarray,
    frozen: tuple[np.ndarray, np.ndarray],
    orthogonal: dict[float, np.ndarray],
) -> harness.Figure:
    """Exponents against their index; `fresh` is `[seeds, H]`, `frozen` the exponents and log|eigenvalues| of a seed."""
    size = len(newman)
    index = np.arange(1, size + 1)
    some = np.unique(np.linspace(0, size - 1, 22).astype(int))
    fig, axes = style.figures(1, 2, 9.6, 4.3, sharey=True)
    left, right = axes[0]
    for i, (scale, exponents) in enumerate(orthogonal.items()):
        look = style.line(i + 2)
        left.axhline(np.log(scale), color=look.color, linestyle=look.linestyle, linewidth=1.2)
        left.plot(index[some], exponents[some], look.marker, color=look.color, markerfacecolor="white",
                  label=f"orthogonal, scale {scale:g}")  # fmt: skip
    look = style.line(0)
    left.plot(index, newman, color=look.color, linestyle=look.linestyle)
    left.errorbar(index[some], fresh.mean(axis=0)[some], fresh.std(axis=0, ddof=1)[some], color=look.color,
                  marker=look.marker, markerfacecolor="white", linestyle="none", capsize=2,
                  label="Gaussian, fresh each step")  # fmt: skip
    look = style.line(1)
    right.plot(index, frozen[1], color=look.color, linestyle=look.linestyle, drawstyle="steps-mid")
    right.plot(index[some], frozen[0][some], look.marker, color=look.color, markerfacecolor="white",
               label="Gaussian, one matrix used again")  # fmt: skip
    right.plot(index, newman, color=style.line(0).color, linewidth=1, linestyle=":", label="Newman, for comparison")
    for ax, title in ((left, "lines: log s, Newman"), (right, "line: log |eigenvalues of W|")):
        ax.set_title(title)
        ax.set_xlabel("index of the exponent")
        ax.legend(loc="lower left")
    left.set_ylabel("Lyapunov exponent [nats/step]")
    return run.figure(
        "spectra",
        fig,
        alt="Lyapunov exponents by index: flat for orthogonal matrices, falling for Gaussian ones; markers on lines.",
        caption=f"Measured (markers; bars one standard deviation over seeds) and closed form (lines), H = {size}. "
        "A fresh Gaussian matrix each step has Newman's exponents, one that is used again the logs of its absolute "
        "eigenvalues.",
    )


def norms_figure(run: harness.Run[Any], curves: dict[str, dict[str, np.ndarray]], gain: float) -> harness.Figure:
    """log10 of the mean and the median squared norm against lag."""
    fig, ax = style.figure(7, 4.2)
    lags = np.arange(len(curves["fresh"]["mean"]))
    ax.plot(lags, 2 * lags * np.log10(gain), color="black", linewidth=1.2, label="closed form, fresh: g^(2k)")
    i = 0
    for kind, words in (("fresh", "fresh each step"), ("frozen", "one matrix used again")):
        for what in ("mean", "median"):
            look = style.line(i)
            ax.plot(lags, curves[kind][what] / np.log(10), color=look.color, linestyle=look.linestyle,
                    marker=look.marker, markevery=5, markerfacecolor="white", label=f"{what}, {words}")  # fmt: skip
            i += 1
    ax.set_xlabel("lag k [steps]")
    ax.set_ylabel("log10 ‖v W ... W‖² [decades]")
    ax.legend(loc="upper left")
    return run.figure(
        "norms",
        fig,
        alt="Mean and median squared norm against lag: all stay near one but the mean with one matrix, which explodes.",
        caption="Over many draws of the matrices. With one matrix used again the mean is carried by rare draws whose "
        "spectral radius is above 1; the median is not.",
    )

"""Two pictures: the map of the exponent with its zero contour, and the exponent through the edge."""

from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patheffects import withStroke

from experiments import harness
from experiments.harness import style
from rnnjax.gradients import theory


def map_figure(run: harness.Run[Any], variances: np.ndarray, gains: np.ndarray, exponents: np.ndarray,
               rows: list[dict[str, Any]]) -> harness.Figure:  # fmt: skip
    """`exponents` is `[variances, gains]`; rows bring the crossings."""
    fig, ax = style.figure(7, 4.8)
    norm = TwoSlopeNorm(0, min(float(exponents.min()), -0.01), max(float(exponents.max()), 0.01))
    image = ax.pcolormesh(variances, gains, exponents.T, norm=norm, shading="nearest", rasterized=True)
    fine = np.geomspace(variances[0] / 1.5, variances[-1] * 1.5, 200)
    ax.plot(fine, theory.critical_gain(fine), color="black", linewidth=2, label="closed form, λ₁ = 0",
            path_effects=[withStroke(linewidth=4, foreground="white")])  # fmt: skip
    at = [row["input_variance"] for row in rows]
    crossings = [row["crossing_gain_mean"] for row in rows]
    ax.errorbar(at, crossings, [row["crossing_gain_std"] for row in rows], color="black", marker="o",
                markerfacecolor="white", linestyle="none", capsize=3, label="measured crossing")  # fmt: skip
    ax.axhline(1, color="white", linestyle=":", linewidth=1.6)
    ax.annotate("g = 1", (variances[-1], 1), (0, 3), textcoords="offset points", color="white", ha="right")
    ax.set_xscale("log")
    half = (variances[1] / variances[0]) ** 0.5
    ax.set_xlim(variances[0] / half, variances[-1] * half)
    ax.set_ylim(gains[0], gains[-1])
    ax.grid(False)
    ax.set_xlabel("input variance σ²")
    ax.set_ylabel("gain g of W")
    ax.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")
    fig.colorbar(image, ax=ax, label="leading exponent [nats/step]")
    return run.figure(
        "map",
        fig,
        alt="Leading exponent over input variance and gain: negative below a rising curve, positive above; measured "
        "crossings lie on the curve.",
        caption="Measured exponent (colour; one matrix a field), the closed form's zero contour (line) and measured "
        "crossings (circles; one standard deviation over matrices, mostly smaller than the marker).",
    )


def edge_figure(run: harness.Run[Any], curves: dict[float, dict[str, np.ndarray]]) -> harness.Figure:
    """`curves[variance]` has gains `[G]` and leading `[seeds, G]`."""
    shown = [variance for variance in curves if variance in (0.01, 1.0)] or list(curves)[:2]
    fig, axes = style.figures(1, len(shown), 4.7 * len(shown), 4, sharey=True)
    for ax, variance in zip(axes[0], shown, strict=True):
        gains, leading = curves[variance]["gains"], curves[variance]["leading"]
        fine = np.linspace(gains[0], gains[-1], 200)
        ax.axhline(0, color="black", linewidth=0.8)
        look = style.line(0)
        ax.plot(fine, theory.tanh_lyapunov_exponent(fine, variance), color=look.color, label="mean field")
        ax.errorbar(gains, leading.mean(0), leading.std(0, ddof=1), color="black", marker="o", markerfacecolor="white",
                    linestyle="none", capsize=2, label="measured")  # fmt: skip
        edge = theory.critical_gain(variance)
        ax.axvline(edge, color=style.VERMILLION, linestyle="--", linewidth=1.2, label=f"edge, g = {edge:.4f}")
        ax.set_title(f"σ² = {variance:g}")
        ax.set_xlabel("gain g of W")
        ax.legend(loc="lower right")
    axes[0, 0].set_ylabel("leading exponent [nats/step]")
    return run.figure(
        "edge",
        fig,
        alt="Leading exponent against gain around the edge at two input variances: markers on the line through zero.",
        caption="Through the edge: mean and one standard deviation over matrices, on the mean field.",
    )

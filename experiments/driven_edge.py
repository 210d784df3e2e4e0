"""The edge of chaos moves when a network is driven: "the edge is at g = 1" holds only without input.

    h_t = tanh(h_{t-1} W + x_t),   W ~ N(0, g²/H),   x_t ~ N(0, σ²) drawn anew for each unit and step

Question: at which gain does the leading Lyapunov exponent of a driven tanh network change sign?
Command: python -m experiments.driven_edge
Minutes: 1 on one core; 0.2 with --quick (narrower, fewer seeds).
Expected: at g = 1.1934 for σ² = 0.01 and at g = 1.8556 for σ² = 1. Measured zero crossings (H = 512, five matrices) lie
within 3% of the closed form at every variance, and most within 1%.

The closed form: C = g² E[tanh²(√C z)] + σ² and g² E[φ'(√C z)²] = 1. The crossing of a matrix is where a straight line
through its exponents at the gains on both sides of zero meets zero; all gains of a matrix receive the same noise.

Reference: Molgedey, Schuchhardt and Schuster, Suppressing chaos in neural networks by noise, Phys. Rev. Lett. 69
(1992), 3717.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, MinLen
from jax import Array
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patheffects import withStroke
from pydantic import PositiveFloat

from rnnjax import gradients
from rnnjax.gradients import theory

from . import lab
from .lab import style
from .tanh_phase_diagram import TANH, GainParams, networks

AROUND = (0.86, 0.9, 0.94, 0.97, 1.0, 1.03, 1.06, 1.1, 1.14)  # gains relative to the critical one
AtLeast2 = Annotated[int, Ge(2)]
AtLeast20 = Annotated[int, Ge(20)]
_QUICK = {"hidden_size": 128, "steps": 600, "seeds": 3, "map_size": 64, "map_variances": 4, "map_steps": 300}


@lab.options(quick={"variances": (0.01, 1.0), **_QUICK})
class Options(lab.Options):
    """Zero crossings of the leading exponent of driven tanh networks."""

    variances: Annotated[lab.Distinct[PositiveFloat], MinLen(2)] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Input variances σ² at which the crossing is sought [1]."""
    hidden_size: AtLeast2 = 512
    """H for crossings [units]."""
    steps: AtLeast20 = 2000
    """Length for crossings [steps], a fifth of which is transient."""
    seeds: AtLeast2 = 5
    """How many matrices for crossings."""
    map_size: AtLeast2 = 256
    """H for the map [units]; one matrix for all of it."""
    map_variances: AtLeast2 = 11
    """How many variances the map has, from the lowest to the highest of --variances."""
    map_gains: Annotated[lab.Distinct[PositiveFloat], MinLen(2)] = (
        0.8, 0.95, 1.1, 1.25, 1.4, 1.55, 1.7, 1.85, 2.0, 2.15, 2.3, 2.45, 2.6, 2.75,
    )  # fmt: skip
    """Gains of the map."""
    map_steps: AtLeast20 = 1000
    """Length for the map [steps], a fifth of which is transient."""


def leading_exponents(
    hidden_size: int, gains: Sequence[float], input_variance: float, steps: int, transient: int, seed: int
) -> dict[str, np.ndarray]:
    """`leading` and its split-half `error`, `[G]` nats per step, of one matrix at every gain, with the same noise."""
    params, start = networks(hidden_size, gains, seed)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    deviation = jnp.sqrt(jnp.asarray(input_variance, jnp.float64))
    leading, error = _leading(params, start, deviation, key, steps, transient)
    return {"leading": np.asarray(leading), "error": np.asarray(error)}


@functools.partial(jax.jit, static_argnums=(4, 5))
def _leading(
    params: GainParams, start: Array, deviation: Array, key: Array, steps: int, transient: int
) -> tuple[Array, Array]:
    noise = deviation * jax.random.normal(key, (steps, 1, start.shape[-1]), start.dtype)
    xs = jnp.broadcast_to(noise, (steps, *start.shape))
    found = gradients.leading_exponent(TANH, params, xs, carry=start, transient=transient)
    return found.exponent, found.error


def zero_crossing(gains: np.ndarray, exponents: np.ndarray) -> float:
    """The gain at which a straight line between the last exponent below zero and the next one meets zero.

    NaN where the exponents do not go from below zero to above it.
    """
    below = np.flatnonzero((exponents[:-1] <= 0) & (exponents[1:] > 0))
    if not len(below):
        return float("nan")
    i = int(below[-1])
    share = -exponents[i] / (exponents[i + 1] - exponents[i])
    return float(gains[i] + share * (gains[i + 1] - gains[i]))


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o, crossings = options, []
    for variance in o.variances:
        gains = tuple(round(float(theory.critical_gain(variance)) * share, 6) for share in AROUND)
        sizes = {"hidden_size": o.hidden_size, "gains": gains, "steps": o.steps, "transient": o.steps // 5}
        crossings += [{**sizes, "input_variance": variance, "seed": o.seed + i} for i in range(o.seeds)]
    sizes = {"hidden_size": o.map_size, "gains": o.map_gains, "steps": o.map_steps, "transient": o.map_steps // 5}
    grid = np.geomspace(min(o.variances), max(o.variances), o.map_variances).tolist()
    on_map = [{**sizes, "input_variance": variance, "seed": o.seed} for variance in grid]
    return run.rows(leading_exponents, crossings + on_map, "runs")


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    o, table, residuals, curves = page.options, [], [], {}
    crossings, on_map = rows[: len(o.variances) * o.seeds], rows[len(o.variances) * o.seeds :]
    for variance in o.variances:
        own = [row for row in crossings if row["input_variance"] == variance]
        gains, leading = np.array(own[0]["gains"]), np.array([row["leading"] for row in own])
        at = np.array([zero_crossing(gains, exponents) for exponents in leading])
        found, edge = at[np.isfinite(at)], theory.critical_gain(variance)
        mean = found.mean() if len(found) else float("nan")
        table.append({
            "input_variance": variance,
            "crossing_gain_mean": mean,
            "crossing_gain_std": found.std(ddof=1) if len(found) > 1 else None,
            "matrices_without_crossing_count": int(np.isnan(at).sum()),
            "closed_form_gain": edge,
            "gains": gains,
            "leading_exponent_mean_nats_per_step": leading.mean(axis=0),
        })  # fmt: skip
        residuals.append(lab.residual(f"critical gain, σ² = {variance:g}", mean, edge, unit="1", samples=found))
        curves[variance] = gains, leading
    variances = np.array([row["input_variance"] for row in on_map])
    exponents = np.array([row["leading"] for row in on_map])
    off = np.abs(exponents - [theory.tanh_lyapunov_exponent(np.array(o.map_gains), each) for each in variances])
    worst = max(abs(each["relative_residual"]) for each in residuals)

    page.text("Results", [
        f"Measured crossings are within {100 * worst:.1f}% of the closed form at every variance (H = {o.hidden_size}, "
        f"{o.seeds} matrices). Without input the edge is at g = 1; input moves it up, as it saturates the units.",
        f"On the map (H = {o.map_size}, one matrix) the exponent differs from the mean field by {np.median(off):.4f} "
        f"nats per step in the median and {off.max():.4f} at worst.",
    ])  # fmt: skip
    page.figure(
        "map",
        _map_figure(variances, np.array(o.map_gains), exponents, table),
        alt="Leading exponent over input variance and gain: negative below a rising curve, positive above; measured "
        "crossings lie on the curve.",
        caption="Measured exponent (colour; one matrix), the closed form's zero contour (line) and measured crossings "
        "(circles; one standard deviation over matrices, mostly smaller than the marker).",
    )
    page.figure(
        "edge",
        _edge_figure(curves),
        alt="Leading exponent against gain around the edge at two input variances: markers on the line through zero.",
        caption="Through the edge: mean and one standard deviation over matrices (markers) and the mean field (line).",
    )
    page.residuals(residuals, "Gain at which the leading exponent is zero")
    page.summary |= {"rows": table, "residuals": residuals}
    page.summary["map_worst_residual_nats_per_step"] = off.max()
    page.summary["map_median_residual_nats_per_step"] = np.median(off)


def _map_figure(
    variances: np.ndarray, gains: np.ndarray, exponents: np.ndarray, table: list[dict[str, Any]]
) -> style.Figure:
    """`exponents` is `[variances, gains]`; the table has the crossings."""
    fig, ax = style.figure(7, 4.8)
    norm = TwoSlopeNorm(0, min(float(exponents.min()), -0.01), max(float(exponents.max()), 0.01))
    half = (variances[1] / variances[0]) ** 0.5
    left_to_right = np.geomspace(variances[0] / half, variances[-1] * half, len(variances) + 1)
    bottom_to_top = np.concatenate([gains[:1], (gains[1:] + gains[:-1]) / 2, gains[-1:]])
    image = ax.pcolormesh(left_to_right, bottom_to_top, exponents.T, norm=norm, rasterized=True)
    fine = np.geomspace(left_to_right[0], left_to_right[-1], 200)
    outline = [withStroke(linewidth=4, foreground="white")]
    ax.plot(fine, theory.critical_gain(fine), "k", linewidth=2, label="closed form, λ₁ = 0", path_effects=outline)
    names = ("input_variance", "crossing_gain_mean", "crossing_gain_std")
    at, mean, std = (np.array([row[name] for row in table], float) for name in names)
    ax.errorbar(at, mean, std, fmt="ko", markerfacecolor="white", capsize=3, label="measured crossing")
    ax.axhline(1, color="white", linestyle=":", linewidth=1.6)
    ax.annotate("g = 1", (variances[-1], 1), (0, 3), textcoords="offset points", color="white", ha="right")
    ax.set(title="Leading exponent of driven networks", xlabel="input variance σ²", ylabel="gain g of W", xscale="log")
    ax.set(xlim=(fine[0], fine[-1]), ylim=(gains[0], gains[-1]))
    ax.grid(False)
    ax.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")
    fig.colorbar(image, ax=ax, label="leading exponent [nats/step]")
    return fig


def _edge_figure(curves: dict[float, tuple[np.ndarray, np.ndarray]]) -> style.Figure:
    """By variance: gains `[G]` and exponents `[seeds, G]`; the two variances of the docstring, or the first two."""
    shown = [variance for variance in curves if variance in (0.01, 1.0)] or list(curves)[:2]
    fig, axes = style.figures(1, len(shown), 4.7 * len(shown), 4, sharey=True)
    for ax, variance in zip(axes[0], shown, strict=True):
        gains, leading = curves[variance]
        fine, edge = np.linspace(gains[0], gains[-1], 200), theory.critical_gain(variance)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.plot(fine, theory.tanh_lyapunov_exponent(fine, variance), **style.curve(0), label="mean field")
        ax.errorbar(gains, leading.mean(axis=0), leading.std(axis=0, ddof=1), **style.markers(0), label="measured")
        ax.axvline(edge, color=style.VERMILLION, linestyle="--", linewidth=1.2, label=f"edge, g = {edge:.4f}")
        ax.set(title=f"σ² = {variance:g}", xlabel="gain g of W")
        ax.legend(loc="lower right")
    axes[0, 0].set_ylabel("leading exponent [nats/step]")
    style.letters(axes)
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

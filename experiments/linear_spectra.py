"""Linear networks: every Lyapunov exponent, with a fresh matrix at each step and with one matrix reused.

Question: what are the exponents of a product of matrices, and how do the powers of one matrix, which a recurrent
network computes, differ from a product of independent matrices?
Command: python -m experiments.linear_spectra
Minutes: 1 on one core; 0.4 with --quick.
Expected: one unit gives w^k, and T w^(T-1) x_0 for the gradient of its weight, to rounding. An orthogonal matrix of
scale s gives log s for every exponent, to rounding. A Gaussian matrix drawn anew at each step gives Newman's exponents
(H = 64, g = 1: top -0.00785, bottom -2.715) within their errors over seeds. One Gaussian matrix used at every step
gives log|eigenvalues| of that matrix. The mean squared norm of a perturbation stays at g^(2k) with fresh matrices. With
one matrix reused it does not, as rare draws with a spectral radius above 1 grow without bound (to some 3e5 at lag 50
for H = 64, g = 1, with other draws to another number); the median is about 10 there.

Reference: Newman, The distribution of Lyapunov exponents: exact results for random matrices, Commun. Math. Phys. 103
(1986), 121.
"""

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array
from pydantic import PositiveFloat

import rnnjax
from rnnjax import gradients
from rnnjax.gradients import theory
from rnnjax.initializers import Normal, Orthogonal

from . import lab
from .lab import style

WEIGHTS = (0.5, 0.9, 1.1, 2.0)
LABELS = {"orthogonal": "orthogonal", "fresh": "Gaussian, fresh at each step", "frozen": "Gaussian, one matrix reused"}
_ONE_UNIT = rnnjax.Elman(1, activation="linear")
AtLeast2 = Annotated[int, Ge(2)]


@lab.options(quick={"hidden_size": 32, "steps": 600, "seeds": 3, "draws": 200})
class Options(lab.Options):
    """Spectra of linear networks."""

    hidden_size: AtLeast2 = 64
    """H [units]."""
    gain: PositiveFloat = 1.0
    """g: entries of a Gaussian matrix are N(0, g²/H)."""
    scales: lab.Distinct[PositiveFloat] = (0.5, 1.0, 2.0)
    """Scales of the orthogonal matrices [dimensionless]."""
    steps: Annotated[int, Ge(100)] = 2000
    """Length of the products for spectra [steps]."""
    seeds: AtLeast2 = 8
    """How many products, or matrices."""
    lags: AtLeast2 = 50
    """Longest lag for norms, and length of the one-unit case [steps]."""
    draws: AtLeast2 = 1000
    """How many draws for norms."""


def scalar(w: float, steps: int) -> dict[str, float]:
    """One unit: log |dh_T/dh_0| and dh_T/dw for h_0 = x_0 = 1 and no input."""
    log_norm, slope = _scalar(jnp.asarray(w, jnp.float64), steps)
    return {"log_gradient_nats": float(log_norm), "weight_gradient": float(slope)}


def spectrum(matrices: str, hidden_size: int, gain: float, steps: int, seed: int) -> dict[str, Any]:
    """The exponents of a product of matrices.

    Args:
      matrices: "orthogonal" or "frozen" (Gaussian) for one matrix used at every step, "fresh" for Gaussian ones.
      gain: the scale of an orthogonal matrix, or g.

    Returns:
      `exponents`, `[H]` nats per step, and, of one matrix, `log_eigenvalues`, the logs of their absolute values.
    """
    key, shape = jax.random.key(seed), (hidden_size, hidden_size)
    if matrices == "fresh":
        return {"exponents": np.asarray(_fresh(hidden_size, gain, steps, key))}
    w_h = (Orthogonal(gain) if matrices == "orthogonal" else Normal(gain))(key, shape, jnp.float64)
    exponents = np.asarray(_one_matrix(hidden_size, w_h, steps))
    return {"exponents": exponents, "log_eigenvalues": theory.frozen_exponents(w_h)}


def norms(matrices: str, hidden_size: int, gain: float, lags: int, draws: int, seed: int) -> dict[str, Any]:
    """Squared norms at the longest lag, and by lag the `mean` and `median` over draws: logs, `[lags + 1]` nats each."""
    found = log_squared_norms(matrices, hidden_size, gain, lags, draws, seed)
    mean, median = log_mean_exp(found), np.median(found, axis=0)
    return {
        "mean": mean,
        "median": median,
        "log10_mean_squared_norm": float(mean[-1] / math.log(10)),
        "log10_median_squared_norm": float(median[-1] / math.log(10)),
        "mean_of_log10_squared_norm": float(found[:, -1].mean() / math.log(10)),
        "share_of_mean_from_largest_draw": float(np.exp(found[:, -1].max() - mean[-1]) / draws),
    }


def log_squared_norms(matrices: str, hidden_size: int, gain: float, lags: int, draws: int, seed: int) -> np.ndarray:
    """`[draws, lags + 1]` log ‖v W_1 ... W_k‖² [nats] of a random unit vector v, "fresh" or "frozen"."""
    keys = jax.random.split(jax.random.key(seed), draws)
    return np.asarray(_norms(matrices == "fresh", hidden_size, gain, lags, keys))


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    """log of the mean over axis 0 of exp, without overflow."""
    largest = values.max(axis=0)
    return largest + np.log(np.exp(values - largest).mean(axis=0))


def fresh_cell(hidden_size: int) -> rnnjax.StepCell:
    """h_t = h_{t-1} W_t, where the input is the matrix: `[..., H * H]`. It has no parameters."""

    def step(params: Any, h: Array, x: Array) -> tuple[Array, Array]:
        h = jnp.einsum("...i,...ij->...j", h, x.reshape(*x.shape[:-1], hidden_size, hidden_size))
        return h, h

    return rnnjax.StepCell(step, lambda params, batch_shape: jnp.zeros((*batch_shape, hidden_size), "float64"))


@functools.partial(jax.jit, static_argnums=1)
def _scalar(w: Array, steps: int) -> tuple[Array, Array]:
    xs, start, one = jnp.zeros((steps, 1)), jnp.ones(1), jnp.ones((1, 1))

    def params(w: Array) -> rnnjax.ElmanParams:
        return rnnjax.ElmanParams(w_x=one, w_h=w * one, b=jnp.zeros(1))

    found = gradients.adjoint(_ONE_UNIT, params(w), xs, lambda ys: ys[-1, 0], carry=start)
    return found.log_norm[0], jax.grad(lambda w: rnnjax.unroll(_ONE_UNIT, params(w), xs, carry=start)[1][-1, 0])(w)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _one_matrix(hidden_size: int, w_h: Array, steps: int) -> Array:
    cell = rnnjax.Elman(hidden_size, activation="linear")
    params = rnnjax.ElmanParams(jnp.zeros((1, hidden_size)), w_h, jnp.zeros(hidden_size))
    return gradients.lyapunov_spectrum(cell, params, jnp.zeros((steps, 1)), transient=steps // 4).exponents


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fresh(hidden_size: int, gain: float, steps: int, key: Array) -> Array:
    xs = jax.random.normal(key, (steps, hidden_size**2), "float64") * (gain / hidden_size**0.5)
    return gradients.lyapunov_spectrum(fresh_cell(hidden_size), None, xs, transient=steps // 10).exponents


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _norms(fresh: bool, hidden_size: int, gain: float, lags: int, keys: Array) -> Array:
    """One draw after the other, so that memory holds the matrices of one."""

    def one(key: Array) -> Array:
        key_w, key_v = jax.random.split(key)
        v = jax.random.normal(key_v, (hidden_size,), "float64")
        v = v / jnp.linalg.norm(v)
        matrices = jax.random.normal(key_w, (lags if fresh else 1, hidden_size**2), "float64")
        xs = jnp.broadcast_to(matrices * (gain / hidden_size**0.5), (lags, hidden_size**2))
        found = gradients.adjoint(fresh_cell(hidden_size), None, xs, lambda ys: ys[-1] @ v)
        return 2 * found.log_norm[::-1]

    return jax.lax.map(one, keys)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o, seeds = options, range(options.seed, options.seed + options.seeds)
    size, gaussian = {"hidden_size": o.hidden_size}, {"hidden_size": o.hidden_size, "gain": o.gain}
    steps = min(o.steps, 500)  # an orthogonal matrix gives exact exponents at any length
    spectra = [
        *({"matrices": "orthogonal", "gain": scale, "steps": steps, "seed": o.seed, **size} for scale in o.scales),
        *({"matrices": "fresh", "steps": o.steps, "seed": seed, **gaussian} for seed in seeds),
        *({"matrices": "frozen", "steps": o.steps, "seed": seed, **gaussian} for seed in seeds),
    ]
    sizes = gaussian | {"lags": o.lags, "draws": o.draws, "seed": o.seed}
    return [
        *run.rows(scalar, [{"w": w, "steps": o.lags} for w in WEIGHTS], "one unit"),
        *run.rows(spectrum, spectra, "spectra"),
        *run.rows(norms, [{"matrices": matrices, **sizes} for matrices in ("fresh", "frozen")], "norms"),
    ]


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    o, size = page.options, page.options.hidden_size
    newman = theory.ginibre_exponents(size, o.gain)
    spectra = {kind: [row for row in rows if "exponents" in row and row["matrices"] == kind] for kind in LABELS}
    by_norm = [row for row in rows if "draws" in row]
    fresh = np.array([row["exponents"] for row in spectra["fresh"]])
    residuals = []
    for row in (row for row in rows if "w" in row):
        at, w, steps = f"T = {row['steps']}", row["w"], row["steps"]
        log_gradient, slope = row["log_gradient_nats"], row["weight_gradient"]
        residuals += [
            lab.residual(f"w = {w:g}: log |dh_T/dh_0|, {at}", log_gradient, steps * math.log(w), unit="nats"),
            lab.residual(f"w = {w:g}: dh_T/dw, {at}", slope, steps * w ** (steps - 1), unit="1"),
        ]
    for row in spectra["orthogonal"]:
        quantity, closed = f"orthogonal, scale {row['gain']:g}: the exponent furthest off", math.log(row["gain"])
        furthest = row["exponents"][np.abs(row["exponents"] - closed).argmax()]
        residuals.append(lab.residual(quantity, furthest, closed, unit="nats/step"))
    for name, i in {"top": 0, "middle": size // 2, "bottom": -1}.items():
        quantity, samples = f"fresh matrices, H = {size}, g = {o.gain:g}: {name} exponent", fresh[:, i]
        residuals.append(lab.residual(quantity, samples.mean(), float(newman[i]), unit="nats/step", samples=samples))
    for row in spectra["frozen"]:
        quantity = f"one matrix, seed {row['seed']}: top exponent and log spectral radius"
        residuals.append(lab.residual(quantity, row["exponents"][0], row["log_eigenvalues"][0], unit="nats/step"))

    off = np.abs(fresh.mean(axis=0) - newman)
    frozen = np.array([np.abs(row["exponents"] - row["log_eigenvalues"]) for row in spectra["frozen"]])
    orthogonal = [np.abs(row["exponents"] - math.log(row["gain"])).max() for row in spectra["orthogonal"]]
    worst = {
        "fresh_worst_residual_nats_per_step": off.max(),
        "fresh_worst_residual_standard_errors": (off / (fresh.std(axis=0, ddof=1) / len(fresh) ** 0.5)).max(),
        "frozen_median_residual_nats_per_step": np.median(frozen),
        "frozen_worst_residual_nats_per_step": frozen.max(),
        "orthogonal_worst_residual_nats_per_step": max(orthogonal),
    }
    table = []
    for row in by_norm:
        closed = 2 * o.lags * math.log10(o.gain) if row["matrices"] == "fresh" else None
        values = {name: value for name, value in row.plain.items() if name not in row.asked}
        table.append({"kind": row["matrices"], **values, "closed_form_log10_mean_squared_norm": closed})

    mean_of_fresh, mean_of_frozen = (each["log10_mean_squared_norm"] for each in table)
    page.text("Results", [
        f"Orthogonal: every exponent is log s within {max(orthogonal):.1e} nats per step. Fresh Gaussian: the mean "
        f"over {o.seeds} products agrees with Newman's {size} exponents within {off.max():.4f} nats per step. One "
        f"Gaussian matrix: log|eigenvalues| within {np.median(frozen):.4f} in the median and {frozen.max():.4f} at "
        "worst (neighbours whose moduli are close separate slowly).",
        f"At lag {o.lags} the mean squared norm is 10^{mean_of_fresh:.2f} with fresh matrices and "
        f"10^{mean_of_frozen:.2f} with one matrix reused, of which the largest of {o.draws} draws makes up "
        f"{100 * table[1]['share_of_mean_from_largest_draw']:.0f}%. Report the mean or the median of the log.",
    ])  # fmt: skip
    page.figure(
        "spectra",
        _spectra_figure(spectra, newman),
        alt="Lyapunov exponents by index: flat for orthogonal matrices, falling for Gaussian ones; markers on lines.",
        caption=f"Measured (markers; bars: one standard deviation over seeds) and closed form (lines), H = {size}. (a) "
        "Orthogonal matrices, and a fresh Gaussian matrix at each step, which has Newman's exponents. (b) One Gaussian "
        "matrix reused has the logs of its absolute eigenvalues.",
    )
    page.figure(
        "norms",
        _norms_figure(by_norm),
        alt="Mean and median squared norm against lag: all stay near one but the mean with one matrix, which explodes.",
        caption=f"Over {o.draws} draws of the matrices. With one matrix reused, rare draws whose spectral radius is "
        "above 1 dominate the mean, but not the median.",
    )
    page.residuals(residuals)
    page.table(table, caption=f"Squared norms at lag {o.lags}, over {o.draws} draws")
    page.summary |= {"residuals": residuals, "spectra": worst, "norms": table}


def _spectra_figure(spectra: dict[str, list[lab.Row]], newman: np.ndarray) -> style.Figure:
    """Exponents against their index."""
    size, fresh = len(newman), np.array([row["exponents"] for row in spectra["fresh"]])
    index, some = np.arange(1, size + 1), np.unique(np.linspace(0, size - 1, 22).astype(int))
    at, mean, std = index[some], fresh.mean(axis=0)[some], fresh.std(axis=0, ddof=1)[some]
    fig, axes = style.figures(1, 2, 9.6, 4.3, sharey=True)
    left, right = axes[0]
    for i, row in enumerate(spectra["orthogonal"], start=2):
        left.axhline(np.log(row["gain"]), **style.curve(i), linewidth=1.2)
        left.plot(at, row["exponents"][some], **style.markers(i), label=f"orthogonal, scale {row['gain']:g}")
    left.plot(index, newman, **style.curve(0))
    left.errorbar(at, mean, std, **style.markers(0), label=LABELS["fresh"])
    one = spectra["frozen"][0]
    right.plot(index, one["log_eigenvalues"], **style.curve(1), drawstyle="steps-mid")
    right.plot(at, one["exponents"][some], **style.markers(1), label=LABELS["frozen"])
    right.plot(index, newman, color=style.BLUE, linewidth=1, linestyle=":", label="Newman, for comparison")
    left.set(title="orthogonal (lines: log s), fresh Gaussian (Newman)", xlabel="index of the exponent")
    right.set(title="one Gaussian matrix (line: log |eigenvalues|)", xlabel="index of the exponent")
    left.set_ylabel("Lyapunov exponent [nats/step]")
    for ax in axes[0]:
        ax.legend(loc="lower left")
    style.letters(axes)
    return fig


def _norms_figure(rows: list[lab.Row]) -> style.Figure:
    """log10 of the mean and the median squared norm against lag."""
    fig, ax = style.figure(7, 4.2)
    lags = np.arange(rows[0]["lags"] + 1)
    closed = 2 * lags * np.log10(rows[0]["gain"])
    ax.plot(lags, closed, color="black", linewidth=1.2, label="closed form, fresh: g^(2k)")
    curves = [(row, what) for row in rows for what in ("mean", "median")]
    for i, (row, what) in enumerate(curves):
        label = f"{what}, {LABELS[row['matrices']]}"
        ax.plot(lags, row[what] / np.log(10), **style.line(i), markevery=5, markerfacecolor="white", label=label)
    ax.set(title="Norm of a perturbation", xlabel="lag k [steps]", ylabel="log10 ‖v W ... W‖² [decades]")
    ax.legend(loc="upper left")
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

"""From order to chaos: Lyapunov exponents of a tanh network without input, against the gain of its weights.

    h_t = tanh(h_{t-1} W),   W ~ N(0, g²/H)

Question: how do the leading and the mean Lyapunov exponent of a wide tanh network depend on the gain g?
Command: python -m experiments.tanh_phase_diagram
Minutes: 5 on one core; 0.3 with --quick (narrower, fewer seeds).
Expected: below g = 1 the leading exponent is log|largest eigenvalue|, near log g. Above it follows the mean field,
½ log(g² E[φ'²]), once g is well above 1 (near 1 finite width matters a lot: trends only): 0.1547 at g = 2, 0.3103 at
g = 3. The mean of all exponents is log g - ½ + E[log φ'], -1.151 and -2.274 there. Published for H = 4096: leading
0.15425 and 0.30958, mean -1.15055 and -2.27390, Kaplan-Yorke dimension 0.2566 H and 0.2872 H. Whole spectra of 512
units, five seeds, are within 1% of these means (off by -0.7 ± 0.4% and -0.3 ± 0.2%); those of 256 units are off by
-2.3 ± 1.0% and -0.9 ± 0.6%. The difference is due to the size of the network: the mean over 1024 units, by
determinants, is off by +0.2 ± 0.1% and 0.0 ± 0.1%. In every spectrum the mean equals that of log|det J| over the same
steps to rounding.

Leading exponents come from one perturbation that follows the trajectory, for all gains of a seed at once (they share
the matrix); means from log|det W| and the slopes along the trajectory; whole spectra, at a few gains, from H
perturbations.

References: Sompolinsky, Crisanti and Sommers, Phys. Rev. Lett. 61 (1988), 259; Engelken, Wolf and Abbott, Phys. Rev.
Research 5 (2023), 043044, and the numbers at N = 4096 from the public repository davidclark1/rnn-lyapunov.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array
from pydantic import PositiveFloat

import rnnjax
from rnnjax import gradients
from rnnjax.gradients import theory
from rnnjax.initializers import Normal

from . import lab
from .lab import style

SOURCE = "github.com/davidclark1/rnn-lyapunov, N = 4096"
PUBLISHED: tuple[dict[str, float], ...] = (
    {"gain": 2.0, "leading": 0.15425, "mean": -1.15055, "dimension_over_size": 0.2566},
    {"gain": 3.0, "leading": 0.30958, "mean": -2.27390, "dimension_over_size": 0.2872},
)
_QUICK = {
    "hidden_size": 128, "spectrum_sizes": (48,), "steps": 700, "spectrum_steps": (200,), "seeds": 3,
    "gains": (0.5, 0.9, 1.1, 1.5, 2.0, 3.0),
}  # fmt: skip
AtLeast2 = Annotated[int, Ge(2)]
AtLeast20 = Annotated[int, Ge(20)]


@lab.options(quick=_QUICK)
class Options(lab.Options):
    """Lyapunov exponents of autonomous tanh networks."""

    gains: lab.Distinct[PositiveFloat] = (0.5, 0.7, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
    """Gains g for leading and mean exponents: W ~ N(0, g²/H)."""
    spectrum_gains: lab.Distinct[PositiveFloat] = (2.0, 3.0)
    """Gains for whole spectra."""
    hidden_size: AtLeast2 = 1024
    """H for leading and mean exponents [units]."""
    spectrum_sizes: lab.Distinct[AtLeast2] = (256, 512)
    """H for whole spectra, growing; each is compared with what is published [units]."""
    steps: AtLeast20 = 2500
    """Length for leading exponents [steps], a seventh of which is transient."""
    spectrum_steps: tuple[AtLeast20, ...] = (2000, 600)
    """Length for whole spectra [steps], one for each size, a fifth of which is transient."""
    seeds: AtLeast2 = 5
    """How many matrices."""

    def check(self) -> None:
        if len(self.spectrum_steps) != len(self.spectrum_sizes):
            raise lab.UsageError(
                f"--spectrum-steps is {self.spectrum_steps}; give one length for each of --spectrum-sizes, "
                f"{self.spectrum_sizes}."
            )


class GainParams(NamedTuple):
    w_h: Any  # [H, H], gain 1
    gain: Any  # [G, 1]


def _step(params: GainParams, h: Array, x: Array) -> tuple[Array, Array]:
    z = x + params.gain * (h @ params.w_h)
    size = jnp.abs(z)
    log_slope = 2 * (jnp.log(jnp.asarray(2, z.dtype)) - size - jnp.log1p(jnp.exp(-2 * size)))
    return jnp.tanh(z), log_slope


def _initial_carry(params: GainParams, batch_shape: tuple[int, ...] = ()) -> Array:
    return jnp.zeros((*batch_shape, params.w_h.shape[0]), params.w_h.dtype)


TANH = rnnjax.StepCell(_step, _initial_carry)
"""h_t = tanh(x_t + g h_{t-1} W): a batch of G rows, row i with gain g_i, and one input per unit.

The output is log φ' of each unit, `[G, H]`: 2 (log 2 - |z| - log(1 + e^(-2|z|))), right where tanh saturates.
"""


def networks(hidden_size: int, gains: Sequence[float], seed: int) -> tuple[GainParams, Array]:
    """One matrix with all gains, and a random state `[G, H]` to start from (zero would stay zero)."""
    key_w, key_h = jax.random.split(jax.random.key(seed))
    w_h = Normal()(key_w, (hidden_size, hidden_size), jnp.float64)
    start = jax.random.normal(key_h, (hidden_size,), jnp.float64) / 2
    params = GainParams(w_h, jnp.asarray(gains, jnp.float64)[:, None])
    return params, jnp.broadcast_to(start, (len(gains), hidden_size))


def leading_and_mean(
    hidden_size: int, gains: Sequence[float], steps: int, transient: int, seed: int
) -> dict[str, np.ndarray]:
    """One matrix at every gain.

    Returns:
      By gain, `[G]` nats per step: `leading`, its split-half `leading_error`, `mean` = log g + log|det W|/H + the mean
      of log φ' over units and steps, and `log_radius`, log of g times the largest absolute eigenvalue of W.
    """
    params, start = networks(hidden_size, gains, seed)
    found, log_slope = _measured(gradients.leading_exponent, params, start, steps, transient)
    w_h = np.asarray(params.w_h)
    return {
        "leading": np.asarray(found.exponent),
        "leading_error": np.asarray(found.error),
        "mean": np.log(gains) + np.linalg.slogdet(w_h)[1] / hidden_size + np.asarray(log_slope),
        "log_radius": np.log(gains) + np.log(np.abs(np.linalg.eigvals(w_h)).max()),
    }


def whole_spectrum(hidden_size: int, gain: float, steps: int, transient: int, seed: int) -> dict[str, Any]:
    """All H exponents at one gain, and what follows from them.

    `mean` is their mean; `mean_by_determinant`, that of log|det J_t|/H over the same steps, has to equal it. There is
    one step per interval: at g = 3 the exponents spread by 12 nats per step, and float64 resolves no more than 30.
    """
    params, start = networks(hidden_size, (gain,), seed)
    found, log_slope = _measured(gradients.lyapunov_spectrum, params, start, steps, transient)
    log_det = float(np.linalg.slogdet(np.asarray(params.w_h))[1]) / hidden_size
    return {
        "exponents": np.asarray(found.exponents[0]),
        "leading": float(found.exponents[0, 0]),
        "mean": float(found.mean[0]),
        "mean_by_determinant": float(np.log(gain)) + log_det + float(log_slope[0]),
        "survivors": int(found.survivors[0]),
        "dimension_over_size": float(found.dimension[0]) / hidden_size,
        "entropy_rate_over_size": float(found.entropy_rate[0]) / hidden_size,
    }


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _measured(
    instrument: Callable[..., Any], params: GainParams, start: Array, steps: int, transient: int
) -> tuple[Any, Array]:
    """What the instrument finds without input, and the mean of log φ' over units and steps, `[G]`."""
    xs = jnp.zeros((steps, *start.shape), start.dtype)
    found = instrument(TANH, params, xs, carry=start, transient=transient)
    _, log_slopes = rnnjax.unroll(TANH, params, xs, carry=start)
    return found, log_slopes[transient:].mean(axis=(0, 2))


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o, seeds = options, range(options.seed, options.seed + options.seeds)
    of_all = {"hidden_size": o.hidden_size, "gains": o.gains, "steps": o.steps, "transient": o.steps // 7}
    spectra = [
        {"hidden_size": size, "gain": gain, "steps": steps, "transient": steps // 5, "seed": seed}
        for size, steps in zip(o.spectrum_sizes, o.spectrum_steps, strict=True)
        for gain in o.spectrum_gains
        for seed in seeds
    ]
    leading = run.rows(leading_and_mean, [{**of_all, "seed": seed} for seed in seeds], "networks")
    return leading + run.rows(whole_spectrum, spectra, "spectra")


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    o, networks, residuals, published = page.options, [row for row in rows if "gains" in row], [], []
    names = ("leading", "mean", "leading_error", "log_radius")
    leading, mean, error, radius = (np.array([row[name] for row in networks]) for name in names)
    spectra = {
        (size, gain): [row for row in rows if (row["hidden_size"], row.get("gain")) == (size, gain)]
        for size in o.spectrum_sizes
        for gain in o.spectrum_gains
    }

    def compared(quantity: str, samples: Any, expected: Any, unit: str = "nats/step") -> dict[str, Any]:
        return lab.residual(quantity, float(np.mean(samples)), expected, unit=unit, samples=samples)

    table = []
    for i, gain in enumerate(o.gains):
        at = f"g = {gain:g}, H = {o.hidden_size}"
        residuals.append(compared(f"leading exponent, {at}", leading[:, i], theory.tanh_lyapunov_exponent(gain)))
        residuals.append(compared(f"mean exponent, {at}", mean[:, i], theory.tanh_mean_exponent(gain)))
        table.append({
            "gain": gain,
            "leading_exponent_nats_per_step": leading[:, i].mean(),
            "leading_exponent_std": leading[:, i].std(ddof=1),
            "leading_split_half_error_mean": error[:, i].mean(),
            "leading_exponent_mean_field": theory.tanh_lyapunov_exponent(gain),
            "log_spectral_radius_mean": radius[:, i].mean(),
            "mean_exponent_nats_per_step": mean[:, i].mean(),
            "mean_exponent_std": mean[:, i].std(ddof=1),
            "mean_exponent_mean_field": theory.tanh_mean_exponent(gain),
        })  # fmt: skip
    for i, gain in enumerate(o.gains):
        if gain < 0.95:  # the network falls silent, and is a linear one
            quantity = f"leading exponent minus log spectral radius of W, g = {gain:g}"
            residuals.append(compared(quantity, leading[:, i] - radius[:, i], 0.0))
    means = {key: [row["mean"] for row in found] for key, found in spectra.items()}
    for (size, gain), samples in means.items():
        quantity = f"mean of all exponents, g = {gain:g}, H = {size}"
        residuals.append(compared(quantity, samples, theory.tanh_mean_exponent(gain)))
    for known in PUBLISHED:
        gain = known["gain"]
        for name, measured in (("leading", leading), ("mean", mean)) if gain in o.gains else ():
            quantity = f"{name} exponent, g = {gain:g}, H = {o.hidden_size}"
            published.append(compared(quantity, measured[:, o.gains.index(gain)], known[name]))
        for size in o.spectrum_sizes if gain in o.spectrum_gains else ():
            at, ratios = f"g = {gain:g}, H = {size}", [row["dimension_over_size"] for row in spectra[size, gain]]
            published.append(compared(f"mean of all exponents, {at}", means[size, gain], known["mean"]))
            published.append(compared(f"dimension over size, {at}", ratios, known["dimension_over_size"], "H"))
    identity = max(abs(row["mean"] - row["mean_by_determinant"]) for found in spectra.values() for row in found)

    chaotic = [each for each in residuals if each["quantity"].startswith("leading exponent,") and each["theory"] > 0.1]
    off = 100 * max((abs(each["relative_residual"]) for each in chaotic), default=0.0)
    furthest = np.abs(mean.mean(axis=0) - theory.tanh_mean_exponent(np.array(o.gains))).max()
    page.text("Results", [
        f"Where the mean field's leading exponent is above 0.1, the measured one (H = {o.hidden_size}, {o.seeds} "
        f"seeds) is within {off:.1f}% of it. Nearer to g = 1 networks of this width are far from the limit, and only "
        "the trend counts.",
        f"The mean exponent is within {furthest:.3f} nats per step of the mean field at every gain; it differs most "
        "just above g = 1, where activity at this width comes and goes.",
        f"The mean of all exponents equals that of log|det J|/H over the same steps within {identity:.1e}.",
    ])  # fmt: skip
    page.figure(
        "diagram",
        _diagram(np.array(o.gains), leading, mean),
        alt="Leading exponent against gain: rises through zero at gain one, peaks and bends; the mean exponent falls. "
        "Markers lie on the lines of theory.",
        caption=f"H = {o.hidden_size}; mean and standard deviation over {o.seeds} seeds. (a) Lines: mean field. (b) "
        "Measured minus mean field.",
    )
    page.figure(
        "spectra",
        _spectra_figure([spectra[max(o.spectrum_sizes), gain] for gain in o.spectrum_gains]),
        alt="All Lyapunov exponents by index at each gain, falling from just above zero to far below.",
        caption="Whole spectra (markers, one standard deviation over seeds); horizontal lines are the mean field's "
        "leading exponent and mean of all exponents.",
    )
    page.residuals(residuals, "Measured and mean field")
    page.residuals(published, f"Measured and published ({SOURCE})")
    page.summary |= {"rows": table, "residuals": residuals, "against_published": published, "published_source": SOURCE}
    page.summary["mean_exponent_minus_mean_log_det_largest"] = identity


def _diagram(gains: np.ndarray, leading: np.ndarray, mean: np.ndarray) -> style.Figure:
    """Exponents `[seeds, gains]` and theory, and their differences."""
    fine = np.linspace(gains.min(), gains.max(), 300)
    fig, axes = style.figures(2, 1, 7, 6, sharex=True, height_ratios=(2.4, 1))
    top, bottom = axes[:, 0]
    shown = ((leading, theory.tanh_lyapunov_exponent, "leading"), (mean, theory.tanh_mean_exponent, "mean of all"))
    for i, (values, closed, label) in enumerate(shown):
        off, std = values - closed(gains), values.std(axis=0, ddof=1)
        top.plot(fine, closed(fine), **style.curve(i), label=f"{label}, mean field")
        top.errorbar(gains, values.mean(axis=0), std, **style.markers(i), label=f"{label}, measured")
        bottom.errorbar(gains, off.mean(axis=0), std, **style.markers(i))
    known = [(each["gain"], each[name]) for each in PUBLISHED for name in ("leading", "mean")]
    x, y = np.array([point for point in known if gains.min() <= point[0] <= gains.max()]).reshape(-1, 2).T
    top.plot(x, y, "+", color=style.VERMILLION, markersize=12, markeredgewidth=2, label="published, H = 4096")
    for ax in (top, bottom):
        ax.axhline(0, color="black", linewidth=0.8)
    top.set(title="Exponents of tanh networks", ylabel="exponent [nats/step]")
    bottom.set(title="Measured minus mean field", xlabel="gain g of W", ylabel="difference [nats/step]")
    top.legend(loc="lower left")
    style.letters(axes)
    return fig


def _spectra_figure(spectra: list[list[lab.Row]]) -> style.Figure:
    fig, ax = style.figure(7, 4.2)
    ax.axhline(0, color="black", linewidth=0.8)
    size = spectra[0][0]["hidden_size"]
    some = np.unique(np.linspace(0, size - 1, 26).astype(int))
    lowest = min(rows[0]["gain"] for rows in spectra)
    for i, rows in enumerate(spectra):
        gain, look = rows[0]["gain"], style.line(i)
        exponents = np.array([row["exponents"] for row in rows])[:, some]
        mean, std = exponents.mean(axis=0), exponents.std(axis=0, ddof=1)
        label = f"g = {gain:g}, measured"
        ax.errorbar((some + 0.5) / size, mean, std, **look, markerfacecolor="white", linewidth=0.8, label=label)
        for closed, words in ((theory.tanh_lyapunov_exponent, "leading"), (theory.tanh_mean_exponent, "mean")):
            shift = (0, -11 if words == "leading" and gain == lowest else 2)  # the leading ones lie close together
            ax.axhline(closed(gain), **style.curve(i), linewidth=1)
            ax.annotate(f"{words}, g = {gain:g}", (1.0, closed(gain)), shift, textcoords="offset points", ha="right",
                        fontsize=8, color=look["color"])  # fmt: skip
    ax.set(title=f"Whole spectra, H = {size}", xlabel="index of the exponent / H", ylim=(-7, 0.8))
    ax.set_ylabel("Lyapunov exponent [nats/step]")
    ax.legend(loc="lower left")
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

"""Runs `experiments.tanh_phase_diagram`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import harness, tanh_phase_diagram
from experiments.tanh_phase_diagram.figure import diagram_figure, spectra_figure
from experiments.tanh_phase_diagram.measure import leading_and_mean, whole_spectrum
from experiments.tanh_phase_diagram.published import PUBLISHED, SOURCE
from rnnjax.gradients import theory

Spectra = dict[tuple[int, float], list[dict[str, Any]]]
"""By H and gain: a spectrum a seed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Lyapunov exponents of autonomous tanh networks."""

    gains: tuple[float, ...] = (0.5, 0.7, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
    """Gains g for leading and mean exponents: W ~ N(0, g²/H)."""
    spectrum_gains: tuple[float, ...] = (2.0, 3.0)
    """Gains for whole spectra."""
    hidden_size: int = 1024
    """H for leading and mean exponents [units]."""
    spectrum_sizes: tuple[int, ...] = (256, 512)
    """H for whole spectra, growing; what is published is compared with each [units]."""
    steps: int = 2500
    """Length for leading exponents [steps], a seventh of which is transient."""
    spectrum_steps: tuple[int, ...] = (2000, 600)
    """Length for whole spectra [steps], one for each size, a fifth of which is transient."""
    seeds: int = 5
    """How many matrices."""

    def check(self) -> None:
        super().check()
        least = {"hidden_size": 2, "spectrum_sizes": 2, "steps": 20, "spectrum_steps": 20, "seeds": 2}
        for name, value in least.items():
            given = getattr(self, name)
            if not given or min(given if isinstance(given, tuple) else (given,)) < value:
                raise harness.UsageError(f"--{name.replace('_', '-')} is {given}; give at least {value}.")
        if len(self.spectrum_steps) != len(self.spectrum_sizes):
            raise harness.UsageError(
                f"--spectrum-steps is {self.spectrum_steps}; give one length for each of --spectrum-sizes, "
                f"{self.spectrum_sizes}."
            )
        if not self.gains or not self.spectrum_gains:
            raise harness.UsageError("--gains and --spectrum-gains need at least one gain each.")
        for gain in (*self.gains, *self.spectrum_gains):
            harness.positive("one of --gains or --spectrum-gains", gain)


def measure(run: harness.Run[Options]) -> harness.Outcome:
    o = run.options
    seeds = range(o.seed, o.seed + o.seeds)
    found: list[dict[str, list[float]]] = []
    spectra: Spectra = {(size, gain): [] for size in o.spectrum_sizes for gain in o.spectrum_gains}
    length = dict(zip(o.spectrum_sizes, o.spectrum_steps, strict=True))
    with run.progress("networks", o.seeds * (1 + len(spectra))) as advance:
        for seed in seeds:
            sizes: dict[str, Any] = {
                "hidden_size": o.hidden_size,
                "gains": o.gains,
                "steps": o.steps,
                "transient": o.steps // 7,
            }
            defines: dict[str, Any] = sizes | {"seed": seed}
            found.append(run.rows.compute(defines, lambda d=defines: leading_and_mean(**d)).values)
            advance(note="leading")
        for size, gain in spectra:
            for seed in seeds:
                defines = {"hidden_size": size, "gain": gain, "steps": length[size],
                           "transient": length[size] // 5, "seed": seed}  # fmt: skip
                kept = run.rows.compute(defines, lambda d=defines: whole_spectrum(**d))
                spectra[size, gain].append(kept.values)
                advance(note=f"spectrum, H = {size}, g = {gain:g}")
    gains = np.array(o.gains)
    leading, mean, radius = (np.array([each[name] for each in found]) for name in ("leading", "mean", "log_radius"))
    errors = np.array([each["leading_error"] for each in found])
    rows = [
        {
            "gain": gain,
            "leading_exponent_nats_per_step": float(leading[:, i].mean()),
            "leading_exponent_std": float(leading[:, i].std(ddof=1)),
            "leading_split_half_error_mean": float(errors[:, i].mean()),
            "leading_exponent_mean_field": theory.tanh_lyapunov_exponent(gain),
            "log_spectral_radius_mean": float(radius[:, i].mean()),
            "mean_exponent_nats_per_step": float(mean[:, i].mean()),
            "mean_exponent_std": float(mean[:, i].std(ddof=1)),
            "mean_exponent_mean_field": theory.tanh_mean_exponent(gain),
        }
        for i, gain in enumerate(o.gains)
    ]
    residuals = _residuals(o, leading, mean) + _silent(o, leading, radius) + _of_spectra(spectra)
    identity = max(abs(each["mean"] - each["mean_by_determinant"]) for list_ in spectra.values() for each in list_)
    widest = max(o.spectrum_sizes)
    published = _published(o, leading, mean, spectra)
    with harness.plotting():
        drawn = [
            diagram_figure(run, gains, leading, mean),
            spectra_figure(
                run, {g: np.array([each["exponents"] for each in spectra[widest, g]]) for g in o.spectrum_gains}
            ),
        ]
    tables = [
        run.show(harness.residual_table(residuals, "Measured against mean field")),
        run.show(harness.residual_table(published, f"Measured against published ({SOURCE})")),
    ]
    return harness.Outcome(
        summary={
            "rows": rows,
            "residuals": residuals,
            "against_published": published,
            "published_source": SOURCE,
            "mean_exponent_minus_mean_log_det_largest": identity,
        },
        report=[harness.Text("What is to be seen", _reading(residuals, published, o, identity)), *drawn, *tables],
    )


def _residuals(o: Options, leading: np.ndarray, mean: np.ndarray) -> list[dict[str, Any]]:
    found = []
    for i, gain in enumerate(o.gains):
        for name, values, closed in (
            ("leading", leading[:, i], theory.tanh_lyapunov_exponent(gain)),
            ("mean", mean[:, i], theory.tanh_mean_exponent(gain)),
        ):
            quantity = f"{name} exponent, g = {gain:g}, H = {o.hidden_size}"
            found.append(
                harness.residual(quantity, values.mean(), closed, unit="nats/step", samples=values.tolist())  # pyright: ignore[reportArgumentType]
            )
    return found


def _of_spectra(spectra: Spectra) -> list[dict[str, Any]]:
    """The mean of all exponents of a finite network against the mean field of an infinite one."""
    found = []
    for (size, gain), kept in spectra.items():
        samples = [each["mean"] for each in kept]
        quantity = f"mean of all exponents, g = {gain:g}, H = {size}"
        theory_ = float(theory.tanh_mean_exponent(gain))
        found.append(harness.residual(quantity, float(np.mean(samples)), theory_, unit="nats/step", samples=samples))
    return found


def _silent(o: Options, leading: np.ndarray, radius: np.ndarray) -> list[dict[str, Any]]:
    """Below g = 1 the network falls silent, and is a linear one: its exponent is the log of its own radius."""
    found = []
    for i, gain in enumerate(o.gains):
        if gain < 0.95:
            off = leading[:, i] - radius[:, i]
            quantity = f"leading exponent minus log spectral radius of W, g = {gain:g}"
            found.append(harness.residual(quantity, off.mean(), 0.0, unit="nats/step", samples=off.tolist()))
    return found


def _published(o: Options, leading: np.ndarray, mean: np.ndarray, spectra: Spectra) -> list[dict[str, Any]]:
    """Leading exponents at H, the rest from whole spectra at theirs; the published network is wider than both."""
    found = []
    for known in PUBLISHED:
        gain = known["gain"]
        for name, measured in (("leading", leading), ("mean", mean)):
            if gain in o.gains:
                values = measured[:, o.gains.index(gain)]
                quantity = f"{name} exponent, g = {gain:g}, H = {o.hidden_size}"
                found.append(
                    harness.residual(quantity, values.mean(), known[name], unit="nats/step", samples=values.tolist())
                )
        for size in o.spectrum_sizes if gain in o.spectrum_gains else ():
            for name, unit in (("mean", "nats/step"), ("dimension_over_size", "H")):
                samples = [each[name] for each in spectra[size, gain]]
                quantity = f"{'mean of all exponents' if name == 'mean' else 'dimension over size'}"
                quantity += f", g = {gain:g}, H = {size}"
                found.append(
                    harness.residual(quantity, float(np.mean(samples)), known[name], unit=unit, samples=samples)
                )
    return found


def _reading(
    residuals: list[dict[str, Any]], published: list[dict[str, Any]], o: Options, identity: float
) -> list[str]:
    chaotic = [r for r in residuals if r["quantity"].startswith("leading") and r["theory"] > 0.1]
    means = [r for r in residuals if r["quantity"].startswith("mean exponent") and r["theory"] < 0]
    lines = []
    if chaotic:
        worst = max(abs(r["relative_residual"]) for r in chaotic)
        lines.append(
            f"Where the mean field's leading exponent is above 0.1 the measured one (H = {o.hidden_size}, {o.seeds} "
            f"seeds) is within {100 * worst:.1f}% of it. Nearer to g = 1 networks of this width are far from the "
            "limit, and only the trend counts."
        )
    if means:
        worst = max(abs(r["residual"]) for r in means)
        lines.append(
            f"The mean exponent is within {worst:.3f} nats a step of the mean field at every gain, "
            "furthest off just above g = 1, where activity at this width comes and goes."
        )
    lines += [
        f"{r['quantity']}: {r['measured']:.4f} ± {r['standard_error']:.4f}, mean field {r['theory']:.4f}, off by "
        f"{100 * r['relative_residual']:+.2f}% ± {100 * r['standard_error'] / abs(r['theory']):.2f}%."
        for r in residuals
        if r["quantity"].startswith("mean of all")
    ]
    lines.append(f"The mean of all exponents is that of log|det J|/H over the same steps, to {identity:.1e}.")
    lines += [
        f"{r['quantity']}: {r['measured']:.4f} ± {r['standard_error']:.4f}, published {r['theory']:.4f}."
        for r in published
    ]
    return lines


EXPERIMENT = harness.Experiment(
    "tanh_phase_diagram",
    tanh_phase_diagram.__doc__ or "",
    Options,
    measure,
    quick={
        "hidden_size": 128,
        "spectrum_sizes": (48,),
        "steps": 700,
        "spectrum_steps": (200,),
        "seeds": 3,
        "gains": (0.5, 0.9, 1.1, 1.5, 2.0, 3.0),
    },
    code=("rnnjax", "experiments.tanh_phase_diagram.measure", "experiments.tanh_phase_diagram.network"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

"""Runs `experiments.linear_spectra`; see its docstring."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np

from experiments import harness, linear_spectra
from experiments.linear_spectra import measure as work
from experiments.linear_spectra.figure import norms_figure, spectra_figure
from rnnjax.gradients import theory

_SCALARS = (0.5, 0.9, 1.1, 2.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Spectra of linear networks."""

    hidden_size: int = 64
    """H [units]."""
    gain: float = 1.0
    """g: entries of a Gaussian matrix are N(0, g²/H)."""
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Scales of the orthogonal matrices [dimensionless]."""
    steps: int = 2000
    """Length of the products for spectra [steps]."""
    seeds: int = 8
    """How many products, or matrices."""
    lags: int = 50
    """Longest lag for norms, and length of the one-unit case [steps]."""
    draws: int = 1000
    """How many draws for norms."""

    def check(self) -> None:
        super().check()
        for name, least in (("hidden_size", 2), ("steps", 100), ("seeds", 2), ("lags", 2), ("draws", 2)):
            if getattr(self, name) < least:
                raise harness.UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least {least}.")
        for scale in (self.gain, *self.scales):
            harness.positive("--gain or one of --scales", scale)


def measure(run: harness.Run[Options]) -> harness.Outcome:
    o, residuals = run.options, []
    size = o.hidden_size
    with run.progress("parts", len(_SCALARS) + len(o.scales) + 2 * o.seeds + 2) as advance:
        for w in _SCALARS:
            kept = run.rows.compute({"part": "scalar", "w": w, "steps": o.lags}, lambda w=w: work.scalar(w, o.lags))
            residuals += _scalar_residuals(w, o.lags, kept.values)
            advance(note="scalar")
        orthogonal = {}
        for scale in o.scales:
            steps = min(o.steps, 500)  # exact at any length
            defines = {"part": "orthogonal", "size": size, "scale": scale, "steps": steps, "seed": o.seed}
            kept = run.rows.compute(
                defines, lambda s=scale, n=steps: ({}, {"found": work.orthogonal_spectrum(size, s, n, o.seed)})
            )
            orthogonal[scale] = kept.arrays["found"]
            worst = orthogonal[scale][np.abs(orthogonal[scale] - math.log(scale)).argmax()]
            quantity = f"orthogonal, scale {scale:g}: the exponent furthest off"
            residuals.append(harness.residual(quantity, worst, math.log(scale), unit="nats/step"))
            advance(note="orthogonal")
        fresh, frozen, eigenvalues = [], [], []
        for seed in range(o.seed, o.seed + o.seeds):
            defines = {"size": size, "gain": o.gain, "steps": o.steps, "seed": seed}
            kept = run.rows.compute(
                {"part": "fresh"} | defines,
                lambda seed=seed: ({}, {"found": work.fresh_spectrum(size, o.gain, o.steps, seed)}),
            )
            fresh.append(kept.arrays["found"])
            advance(note="fresh")
            kept = run.rows.compute({"part": "frozen"} | defines, lambda seed=seed: _frozen(size, o, seed))
            frozen.append(kept.arrays["found"])
            eigenvalues.append(kept.arrays["log_eigenvalues"])
            advance(note="frozen")
        curves, norm_rows = {}, []
        for kind in ("fresh", "frozen"):
            defines = {"part": "norms", "kind": kind, "size": size, "gain": o.gain, "lags": o.lags, "draws": o.draws,
                       "seed": o.seed}  # fmt: skip
            kept = run.rows.compute(defines, lambda kind=kind: _norms(kind, o))
            curves[kind] = kept.arrays
            norm_rows.append({"kind": kind} | kept.values)
            advance(note="norms")

    newman = theory.ginibre_exponents(size, o.gain)
    fresh, frozen, eigenvalues = np.array(fresh), np.array(frozen), np.array(eigenvalues)
    residuals += _fresh_residuals(fresh, newman, o)
    residuals += [
        harness.residual(
            f"one matrix, seed {o.seed + i}: top exponent and log spectral radius", a[0], b[0], unit="nats/step"
        )
        for i, (a, b) in enumerate(zip(frozen, eigenvalues, strict=True))
    ]
    off = np.abs(frozen - eigenvalues)
    spectra = {
        "fresh_worst_residual_nats_per_step": float(np.abs(fresh.mean(axis=0) - newman).max()),
        "fresh_worst_residual_standard_errors": float((np.abs(fresh.mean(0) - newman) / _standard_error(fresh)).max()),
        "frozen_median_residual_nats_per_step": float(np.median(off)),
        "frozen_worst_residual_nats_per_step": float(off.max()),
        "orthogonal_worst_residual_nats_per_step": max(
            float(np.abs(found - math.log(scale)).max()) for scale, found in orthogonal.items()
        ),
    }
    with harness.plotting():
        drawn = [
            spectra_figure(run, fresh, newman, (frozen[0], eigenvalues[0]), orthogonal),
            norms_figure(run, curves, o.gain),
        ]
    tables = [
        run.show(harness.residual_table(residuals)),
        run.show(harness.Table.of(norm_rows, caption=f"Squared norms at lag {o.lags}, over {o.draws} draws")),
    ]
    return harness.Outcome(
        summary={"residuals": residuals, "spectra": spectra, "norms": norm_rows},
        report=[harness.Text("What is to be seen", _reading(spectra, norm_rows, o)), *drawn, *tables],
    )


def _scalar_residuals(w: float, steps: int, found: dict[str, Any]) -> list[dict[str, Any]]:
    closed = steps * w ** (steps - 1)
    return [
        harness.residual(
            f"w = {w:g}: log |dh_T/dh_0|, T = {steps}", found["log_gradient_nats"], steps * math.log(w), unit="nats"
        ),
        harness.residual(f"w = {w:g}: dh_T/dw, T = {steps}", found["weight_gradient"], closed, unit="1"),
    ]


def _frozen(size: int, o: Options, seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    found, log_eigenvalues = work.frozen_spectrum(size, o.gain, o.steps, seed)
    return {}, {"found": found, "log_eigenvalues": log_eigenvalues}


def _norms(kind: str, o: Options) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    found = work.log_squared_norms(kind, o.hidden_size, o.gain, o.lags, o.draws, o.seed)
    mean, median = work.log_mean_exp(found), np.median(found, axis=0)
    values = {
        "log10_mean_squared_norm": float(mean[-1] / math.log(10)),
        "log10_median_squared_norm": float(median[-1] / math.log(10)),
        "mean_of_log10_squared_norm": float(found[:, -1].mean() / math.log(10)),
        "share_of_mean_from_largest_draw": float(np.exp(found[:, -1].max() - mean[-1]) / o.draws),
        "closed_form_log10_mean_squared_norm": 2 * o.lags * math.log10(o.gain) if kind == "fresh" else None,
    }
    return values, {"mean": mean, "median": median}


def _fresh_residuals(fresh: np.ndarray, newman: np.ndarray, o: Options) -> list[dict[str, Any]]:
    where = {"top": 0, "middle": len(newman) // 2, "bottom": -1}
    return [
        harness.residual(
            f"fresh matrices, H = {o.hidden_size}, g = {o.gain:g}: {name} exponent",
            fresh[:, i].mean(),
            newman[i],
            unit="nats/step",
            samples=fresh[:, i].tolist(),
        )
        for name, i in where.items()
    ]


def _standard_error(samples: np.ndarray) -> np.ndarray:
    return samples.std(axis=0, ddof=1) / len(samples) ** 0.5


def _reading(spectra: dict[str, float], norms: list[dict[str, Any]], o: Options) -> list[str]:
    frozen = norms[1]
    return [
        f"Orthogonal: every exponent is log s within {spectra['orthogonal_worst_residual_nats_per_step']:.1e} nats a "
        f"step. Fresh Gaussian: the mean over {o.seeds} products is on Newman's spectrum within "
        f"{spectra['fresh_worst_residual_nats_per_step']:.4f} nats a step at the worst of {o.hidden_size} exponents. "
        f"One Gaussian matrix: log|eigenvalues| within {spectra['frozen_median_residual_nats_per_step']:.4f} in the "
        f"median and {spectra['frozen_worst_residual_nats_per_step']:.4f} at worst (neighbours whose moduli are close "
        "part slowly).",
        f"At lag {o.lags} the mean squared norm is 10^{norms[0]['log10_mean_squared_norm']:.2f} with fresh matrices "
        f"and 10^{frozen['log10_mean_squared_norm']:.2f} with one used again, of which one draw of {o.draws} makes "
        f"{100 * frozen['share_of_mean_from_largest_draw']:.0f}%; the median is "
        f"10^{frozen['log10_median_squared_norm']:.2f}. Report the mean or the median of the log.",
    ]


EXPERIMENT = harness.Experiment(
    "linear_spectra",
    linear_spectra.__doc__ or "",
    Options,
    measure,
    quick={"hidden_size": 32, "steps": 600, "seeds": 3, "draws": 200},
    code=("rnnjax", "experiments.linear_spectra.measure"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

"""Runs `experiments.driven_edge`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import driven_edge, harness
from experiments.driven_edge.figure import edge_figure, map_figure
from experiments.driven_edge.measure import leading_exponents, zero_crossing
from rnnjax.gradients import theory

_AROUND = (0.86, 0.9, 0.94, 0.97, 1.0, 1.03, 1.06, 1.1, 1.14)  # gains over the critical one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Zero crossings of the leading exponent of driven tanh networks."""

    variances: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Input variances σ² at which the crossing is sought [1]."""
    hidden_size: int = 512
    """H for crossings [units]."""
    steps: int = 2000
    """Length for crossings [steps], a fifth of which is transient."""
    seeds: int = 5
    """How many matrices for crossings."""
    map_size: int = 256
    """H for the map [units]; one matrix a field."""
    map_variances: int = 11
    """How many variances the map has, from the least to the greatest of --variances."""
    map_gains: tuple[float, ...] = (0.8, 0.95, 1.1, 1.25, 1.4, 1.55, 1.7, 1.85, 2.0, 2.15, 2.3, 2.45, 2.6, 2.75)
    """Gains of the map."""
    map_steps: int = 1000
    """Length for the map [steps], a fifth of which is transient."""

    def check(self) -> None:
        super().check()
        least = {"hidden_size": 2, "steps": 20, "seeds": 2, "map_size": 2, "map_variances": 2, "map_steps": 20}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise harness.UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least {value}.")
        if len(set(self.variances)) < 2 or len(self.map_gains) < 2:
            raise harness.UsageError("--variances and --map-gains need at least two values each.")
        for value in (*self.variances, *self.map_gains):
            harness.positive("one of --variances or --map-gains", value)


def measure(run: harness.Run[Options]) -> harness.Outcome:
    o = run.options
    curves, rows, residuals = {}, [], []
    grid = np.geomspace(min(o.variances), max(o.variances), o.map_variances)
    fields = []
    with run.progress("runs", len(o.variances) * o.seeds + o.map_variances) as advance:
        for variance in o.variances:
            edge = float(theory.critical_gain(variance))
            gains = tuple(round(edge * share, 6) for share in _AROUND)
            leading = []
            for seed in range(o.seed, o.seed + o.seeds):
                found = _kept(run, o.hidden_size, gains, variance, o.steps, seed)
                leading.append(found["leading"])
                advance(note=f"σ² = {variance:g}")
            curves[variance] = {"gains": np.array(gains), "leading": np.array(leading)}
            row, compared = _row(variance, curves[variance])
            rows.append(row)
            residuals.append(compared)
        for variance in grid:
            found = _kept(run, o.map_size, o.map_gains, float(variance), o.map_steps, o.seed)
            fields.append(found["leading"])
            advance(note="map")
    exponents = np.array(fields)
    closed = np.array([theory.tanh_lyapunov_exponent(np.array(o.map_gains), float(variance)) for variance in grid])
    map_residual = {
        "map_worst_residual_nats_per_step": float(np.abs(exponents - closed).max()),
        "map_median_residual_nats_per_step": float(np.median(np.abs(exponents - closed))),
    }
    with harness.plotting():
        drawn = [map_figure(run, grid, np.array(o.map_gains), exponents, rows), edge_figure(run, curves)]
    table = run.show(harness.residual_table(residuals, "Gain at which the leading exponent is zero"))
    return harness.Outcome(
        summary={"rows": rows, "residuals": residuals, **map_residual},
        report=[harness.Text("What is to be seen", _reading(residuals, map_residual, o)), *drawn, table],
    )


def _kept(
    run: harness.Run[Options], size: int, gains: tuple[float, ...], variance: float, steps: int, seed: int
) -> dict[str, Any]:
    defines = {"hidden_size": size, "gains": gains, "input_variance": variance, "steps": steps,
               "transient": steps // 5, "seed": seed}  # fmt: skip
    return run.rows.compute(defines, lambda: leading_exponents(**defines)).values


def _row(variance: float, curve: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    crossings = np.array([zero_crossing(curve["gains"], leading) for leading in curve["leading"]])
    there = crossings[np.isfinite(crossings)]
    edge = theory.critical_gain(variance)
    mean = float(there.mean()) if len(there) else float("nan")
    row = {
        "input_variance": variance,
        "crossing_gain_mean": mean,
        "crossing_gain_std": float(there.std(ddof=1)) if len(there) > 1 else None,
        "matrices_without_crossing_count": int(np.isnan(crossings).sum()),
        "closed_form_gain": edge,
        "gains": curve["gains"],
        "leading_exponent_mean_nats_per_step": curve["leading"].mean(axis=0),
    }
    compared = harness.residual(f"critical gain, σ² = {variance:g}", mean, edge, unit="1", samples=there.tolist())  # pyright: ignore[reportArgumentType]
    return row, compared


def _reading(residuals: list[dict[str, Any]], map_residual: dict[str, float], o: Options) -> list[str]:
    worst = max(abs(each["relative_residual"]) for each in residuals)
    return [
        f"Measured crossings are within {100 * worst:.1f}% of the closed form at every variance (H = {o.hidden_size}, "
        f"{o.seeds} matrices). Without input the edge is at g = 1; input moves it up, as it saturates the units.",
        f"On the map (H = {o.map_size}, one matrix a field) the exponent differs from the mean field by "
        f"{map_residual['map_median_residual_nats_per_step']:.4f} nats a step in the median and "
        f"{map_residual['map_worst_residual_nats_per_step']:.4f} at worst.",
    ]


EXPERIMENT = harness.Experiment(
    "driven_edge",
    driven_edge.__doc__ or "",
    Options,
    measure,
    quick={
        "variances": (0.01, 1.0),
        "hidden_size": 128,
        "steps": 600,
        "seeds": 3,
        "map_size": 64,
        "map_variances": 4,
        "map_steps": 300,
    },
    code=("rnnjax", "experiments.driven_edge.measure", "experiments.tanh_phase_diagram.network"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

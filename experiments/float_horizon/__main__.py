"""Runs `experiments.float_horizon`; see its docstring."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np

from experiments import float_horizon, harness
from experiments.float_horizon.figure import curve_figure, horizon_figure
from experiments.float_horizon.measure import (
    DTYPES,
    KINDS,
    closed_form_lag,
    death_lags,
    disagreement,
    foretold_lags,
    measure_cell,
)
from experiments.gradient_decay.cells import BUILT_IN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Lags at which float32 and float64 lose a gradient."""

    cells: tuple[str, ...] = ("linear", "tanh", "lstm", "gru")
    """Built-in cells: linear, tanh, relu (Elman), lstm, gru."""
    scales: tuple[float, ...] = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0)
    """Scales of the orthogonal W2 of the linear cell [dimensionless]; the other cells have scale 1."""
    hidden_size: int = 32
    """H [units]."""
    seeds: int = 4
    """How many networks are drawn per scale."""
    steps: int = 4000
    """Length of the sequences [steps]; a gradient that outlives it has no death in the table."""

    def check(self) -> None:
        super().check()
        unknown = [name for name in self.cells if name not in BUILT_IN]
        if unknown or not self.cells:
            raise harness.UsageError(f"--cells {' '.join(unknown)}: choose from {', '.join(BUILT_IN)}.")
        if not self.scales:
            raise harness.UsageError("--scales is empty; give at least one.")
        for scale in self.scales:
            harness.positive("--scales", scale)
        for name in ("hidden_size", "seeds", "steps"):
            harness.positive(f"--{name.replace('_', '-')}", getattr(self, name))


def measure(run: harness.Run[Options]) -> harness.Outcome:
    options, kept = run.options, []
    with run.progress("cells", len(options.cells)) as advance:
        for name in options.cells:
            kept.append(run.rows.compute(_defines(options, name), lambda name=name: _measure(options, name)))
            advance(note=name)
    rows = [row for each in kept for row in each.values["rows"]]
    residuals = _residuals(rows)
    with harness.plotting():
        drawn = [curve_figure(run, {row.values["cell"]: row.arrays for row in kept}), horizon_figure(run, rows)]
    table = run.show(harness.Table.of(rows, caption="Lags at which a gradient dies [steps], medians over seeds"))
    worst = max(each.values["disagreement_nats"] for each in kept)
    return harness.Outcome(
        summary={"rows": rows, "residuals": residuals, "exact_against_plain_float64_worst_nats": worst},
        report=[
            harness.Text("What is to be seen", _reading(rows, worst, options)),
            *drawn,
            run.show(harness.residual_table(residuals, "Measured against closed form: linear cell")),
            table,
        ],
    )


def _defines(options: Options, name: str) -> dict[str, Any]:
    scales = list(options.scales) if name == "linear" else [1.0]
    fields = ("hidden_size", "seeds", "steps", "seed")
    return {"cell": name, "scales": scales} | {field: getattr(options, field) for field in fields}


def _measure(options: Options, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    scales = options.scales if name == "linear" else (1.0,)
    cell = BUILT_IN[name](options.hidden_size)
    curves = measure_cell(name, cell, scales, options.seeds, options.steps, options.seed)
    rows = []
    for s, scale in enumerate(scales):
        own = slice(s * options.seeds, (s + 1) * options.seeds)
        for dtype in DTYPES:
            for kind in KINDS:
                died = death_lags(curves.plain[f"{kind}/{dtype}"][own])
                told = foretold_lags(kind, dtype, curves.log_norm[own], curves.log_largest[own])
                both = np.isfinite(died) & np.isfinite(told)
                rows.append(
                    {
                        "cell": name,
                        "scale": scale,
                        "what": kind,
                        "dtype": dtype,
                        "dies_at_lag_steps": _median(died),
                        "foretold_lag_steps": _median(told),
                        "closed_form_lag_steps": closed_form_lag(kind, dtype, scale) if name == "linear" else None,
                        "worst_difference_steps": float(np.abs(died - told)[both].max()) if both.any() else None,
                        "one_foretold_other_not_count": int((np.isfinite(died) != np.isfinite(told)).sum()),
                    }
                )
    shown = {"log_norm": curves.log_norm[0]} | {name: curve[0] for name, curve in curves.plain.items()}
    return {"cell": name, "rows": rows, "disagreement_nats": disagreement(curves)}, shown


def _median(lags: np.ndarray) -> float | None:
    """None where most seeds outlive the sequence."""
    middle = float(np.median(np.where(np.isnan(lags), np.inf, lags)))
    return middle if math.isfinite(middle) else None


def _residuals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        harness.residual(
            f"{row['dtype']} {row['what']} dies, scale {row['scale']:g}",
            row["dies_at_lag_steps"],
            row["closed_form_lag_steps"],
            unit="steps",
        )
        for row in rows
        if row["closed_form_lag_steps"] is not None and row["dies_at_lag_steps"] is not None
    ]


def _reading(rows: list[dict[str, Any]], worst: float, options: Options) -> list[str]:
    differences = [row["worst_difference_steps"] for row in rows if row["worst_difference_steps"] is not None]
    lines = [
        "The exact log-adjoint has no horizon. Where the plain float64 norm is alive it differs from the exact one by "
        f"{worst:.1e} nats at most; where it dies, it dies within {max(differences):.0f} steps of the lag foretold "
        "(every cell, scale, format and seed).",
    ]
    for row in rows:
        if row["cell"] == "tanh" and row["what"] == "norm" and row["dies_at_lag_steps"] is not None:
            lines.append(
                f"A tanh network of {options.hidden_size} units with an orthogonal W2 of scale 1, driven by white "
                f"noise: the {row['dtype']} norm is 0 from lag {row['dies_at_lag_steps']:.0f} on."
            )
    return lines


EXPERIMENT = harness.Experiment(
    "float_horizon",
    float_horizon.__doc__ or "",
    Options,
    measure,
    quick={"scales": (0.25, 0.5, 2.0), "seeds": 2, "steps": 1200},
    code=("rnnjax", "experiments.float_horizon.measure", "experiments.gradient_decay.cells"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

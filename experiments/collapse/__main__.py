"""Runs `experiments.collapse`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import collapse, harness
from experiments.collapse.figures import collapse_figure, groups_figure, rates_figure
from experiments.collapse.fit import fit
from experiments.collapse.networks import CELLS, SETTINGS, TASKS
from experiments.collapse.rates import exact_cases, measure_rates
from experiments.collapse.training import train
from experiments.harness import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.ProcessOptions):
    """Rates of decay before training, and what training makes of them."""

    lengths: tuple[int, ...] = (10, 20, 40)
    """Sequence lengths T [steps]."""
    hidden_size: int = 32
    """H [units]."""
    seeds: int = 3
    """Networks a setting."""
    updates: int = 600
    """Updates of Adam."""
    batch: int = 32
    """Sequences in a batch."""
    rate: float = 3e-3
    """Learning rate of Adam."""

    def check(self) -> None:
        super().check()
        for name in ("hidden_size", "seeds", "updates", "batch", "rate"):
            harness.positive(f"--{name.replace('_', '-')}", getattr(self, name))
        if not self.lengths or min(self.lengths) < 10:
            raise UsageError(f"--lengths is {self.lengths}; give at least one, of 10 steps or more.")


def measure(run: harness.Run[Options]) -> harness.Outcome:
    options = run.options
    pairs = [(cell, task) for cell in CELLS for task in TASKS]
    common = {"hidden_size": options.hidden_size, "seeds": options.seeds, "seed": options.seed}
    exact = run.rows.compute({"what": "exact"}, lambda: {"cases": exact_cases(8)}).values["cases"]
    rates, points = [], []
    with run.progress("programs", len(pairs) * (1 + len(options.lengths))) as advance:
        for cell, task in pairs:
            row = run.rows.compute(
                {"what": "rates", "cell": cell, "task": task} | common,
                lambda cell=cell, task=task: measure_rates(
                    cell, task, options.hidden_size, options.seeds, options.seed
                ),
            )
            rates += _rate_lines(cell, task, row.values)
            advance(note=f"rates of {cell}")
        for steps in options.lengths:
            for cell, task in pairs:
                asked = {"cell": cell, "task": task, "steps": steps} | common
                asked |= {name: getattr(options, name) for name in ("updates", "batch", "rate")}
                row = run.rows.compute({"what": "trained"} | asked, lambda asked=asked: train(asked, run.mesh))
                points += _points(cell, task, steps, row.values, rates)
                advance(note=f"{cell}, {task}, T = {steps}")

    fits = _fits(points)
    with harness.plotting():
        figures = [
            rates_figure(run, rates, exact),
            collapse_figure(run, points, fits),
            groups_figure(run, points, fits),
        ]
    shown = [{"axis": name} | found for name, found in fits.items() if name != "by cell and task"]
    shown += [{"axis": f"rate times lag: {name}"} | found for name, found in fits["by cell and task"].items()]
    columns = ("axis", "r_squared", "rms_residual", "centre", "width")
    table = run.show(harness.Table.of(shown, columns, "Logistic curves of success"))
    summary = {
        "exact_cases": exact,
        "rates": rates,
        "points": points,
        "fits": fits,
        "residuals": _residuals(rates, exact),
    }
    return harness.Outcome(summary, [harness.Text("What is to be seen", _reading(summary)), *figures, table])


def _rate_lines(cell: str, task: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    columns = (values[name] for name in ("settings", "adjoint_rates", "exponents", "closed_forms"))
    return [
        {"cell": cell, "task": task}
        | setting
        | {
            "adjoint_rate": float(np.mean(found)),
            "exponent": float(np.mean(exponents)),
            "closed_form": closed,
            "adjoint_rate_by_seed": found,
            "exponent_by_seed": exponents,
        }
        for setting, found, exponents, closed in zip(*columns, strict=True)
    ]


def _points(
    cell: str, task: str, steps: int, values: dict[str, Any], rates: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    chance, lag = TASKS[task].chance, TASKS[task].lag(steps)
    points = []
    for setting, found in zip(SETTINGS[cell], values["accuracy"], strict=True):
        (rate,) = (
            r for r in rates if (r["cell"], r["task"], r["gain"], r["bias"]) == (cell, task, setting.gain, setting.bias)
        )
        known = np.array([chance if a is None else a for a in found], float)  # a run that met NaN knows nothing
        points.append(
            {"cell": cell, "task": task, "steps": steps, "gain": setting.gain, "bias": setting.bias, "lag_steps": lag}
            | {"rate": rate["adjoint_rate"], "rate_times_lag": rate["adjoint_rate"] * lag}
            | {"success": float((known.mean() - chance) / (1 - chance)), "accuracy_by_seed": found}
        )
    return points


def _fits(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all points: one curve of rate × lag, of the rate and of the lag alone; and of rate × lag group by group."""

    def of(some: list[dict[str, Any]], axis: Any) -> dict[str, float]:
        return fit(np.array([axis(p) for p in some]), np.array([p["success"] for p in some]))

    groups = {f"{c}, {t}": [p for p in points if (p["cell"], p["task"]) == (c, t)] for c in CELLS for t in TASKS}
    found: dict[str, Any] = {
        "rate times lag": of(points, lambda p: p["rate_times_lag"]),
        "rate alone": of(points, lambda p: p["rate"]),
        "lag alone": of(points, lambda p: -np.log(p["lag_steps"])),
    }
    for name in CELLS:
        found[f"rate times lag, {name}"] = of([p for p in points if p["cell"] == name], lambda p: p["rate_times_lag"])
    for name in TASKS:
        found[f"rate times lag, {name}"] = of([p for p in points if p["task"] == name], lambda p: p["rate_times_lag"])
    found["by cell and task"] = {name: of(some, lambda p: p["rate_times_lag"]) for name, some in groups.items()}
    return found


def _residuals(rates: list[dict[str, Any]], exact: list[dict[str, Any]]) -> dict[str, Any]:
    known = [r for r in rates if r["closed_form"] is not None]
    by_seed = np.concatenate([np.subtract(r["adjoint_rate_by_seed"], r["exponent_by_seed"]) for r in rates])
    return {
        "adjoint_minus_exponent_rms": _root_mean_square(by_seed),
        "adjoint_minus_exponent_largest": float(np.abs(by_seed).max()),
        "adjoint_minus_closed_form_rms": {
            cell: float(
                np.sqrt(np.mean([(r["adjoint_rate"] - r["closed_form"]) ** 2 for r in known if r["cell"] == cell]))
            )
            for cell in CELLS
        },
        "exact_adjoint_largest": max(abs(c["adjoint_rate"] - c["closed_form"]) for c in exact),
        "exact_exponent_largest": max(abs(c["exponent"] - c["closed_form"]) for c in exact),
    }


def _root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _reading(summary: dict[str, Any]) -> list[str]:
    residuals, fits = summary["residuals"], summary["fits"]
    closed = ", ".join(f"{cell} {value:.3f}" for cell, value in residuals["adjoint_minus_closed_form_rms"].items())
    centres = ", ".join(f"{name} {found['centre']:.1f}" for name, found in fits["by cell and task"].items())
    return [
        f"In the solvable cases the adjoint's rate is the closed form to {residuals['exact_adjoint_largest']:.1e}, and "
        f"the Lyapunov exponent to {residuals['exact_exponent_largest']:.1e} nats a step.",
        "Network by network, the adjoint's rate and the exponent of the same rows differ by "
        f"{residuals['adjoint_minus_exponent_rms']:.4f} nats a step (root mean square; at most "
        f"{residuals['adjoint_minus_exponent_largest']:.3f}). From the closed form, root mean square: {closed}.",
        f"One curve of rate × lag explains {fits['rate times lag']['r_squared']:.0%} of the variance of success over "
        f"all points, the lag alone {fits['lag alone']['r_squared']:.0%}, the rate alone "
        f"{fits['rate alone']['r_squared']:.0%}. Half of success is reached at (nats): {centres}.",
    ]


EXPERIMENT = harness.Experiment(
    "collapse",
    collapse.__doc__ or "",
    Options,
    measure,
    quick={"lengths": (10, 20), "seeds": 1, "updates": 100, "hidden_size": 16},
    code=(
        *(f"rnnjax.{name}" for name in ("cell", "cells", "_unroll", "tasks", "training", "numerics", "initializers")),
        *(f"rnnjax.gradients.{name}" for name in ("adjoint", "lyapunov", "orthonormal", "tangents", "theory")),
        *(f"experiments.collapse.{name}" for name in ("networks", "rates", "training")),
    ),
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

"""Runs `experiments.temporal_order`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import harness, temporal_order
from experiments.harness import UsageError
from experiments.temporal_order.figures import history_figure, success_figure
from experiments.temporal_order.network import INITIALISATIONS
from experiments.temporal_order.training import methods_of, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.ProcessOptions):
    """Temporal order with plain, clipped and regularised gradient descent."""

    lengths: tuple[int, ...] = (20, 35, 50, 80)
    """Sequence lengths T [steps]."""
    initialisations: tuple[str, ...] = ("smart tanh", "basic tanh")
    """sigmoid, basic tanh, smart tanh."""
    seeds: int = 5
    """Networks trained for each point."""
    updates: int = 4000
    """Updates at most."""
    hidden_size: int = 50
    """H [units]."""
    batch: int = 20
    """Sequences in a batch."""
    rate: float = 0.1
    """Learning rate; ten times that of the authors, who had a thousand times the updates."""
    max_norm: float = 1.0
    """Where the gradient's norm is clipped."""
    omega_weight: float = 4.0
    """Weight of Ω."""

    def check(self) -> None:
        super().check()
        for name in ("seeds", "updates", "hidden_size", "batch", "rate", "max_norm", "omega_weight"):
            harness.positive(f"--{name.replace('_', '-')}", getattr(self, name))
        if not self.lengths or min(self.lengths) < 10:
            raise UsageError(f"--lengths is {self.lengths}; give at least one, of 10 steps or more.")
        unknown = [name for name in self.initialisations if name not in INITIALISATIONS]
        if unknown or not self.initialisations:
            raise UsageError(f"--initialisations {unknown}: choose from {', '.join(INITIALISATIONS)}.")


def measure(run: harness.Run[Options]) -> harness.Outcome:
    options = run.options
    fields = ("seeds", "seed", "hidden_size", "updates", "batch", "rate", "max_norm")
    plan = [
        {"initialisation": name, "steps": steps, "omega": with_omega}
        | {"omega_weight": options.omega_weight if with_omega else 0.0}
        | {field: getattr(options, field) for field in fields}
        for steps in options.lengths
        for name in options.initialisations
        for with_omega in (False, True)
    ]
    rows = []
    with run.progress("programs", len(plan)) as advance:
        for asked in plan:
            row = run.rows.compute(asked, lambda asked=asked: train(asked, mesh=run.mesh))
            rows.append((asked, row.values, row.arrays))
            advance(note=f"{asked['initialisation']}, T = {asked['steps']}")

    table = [line for row in rows for line in _lines(*row)]
    shown = sorted(options.lengths)[len(options.lengths) // 2]
    with harness.plotting():
        figures = [success_figure(run, table), history_figure(run, rows, shown)]
    columns = ("initialisation", "steps", "method", "solved_share", "mean_test_accuracy", "median_updates", "diverged")
    drawn = run.show(harness.Table.of(table, columns, f"Solved, of {options.seeds} seeds, {options.updates} updates"))
    return harness.Outcome(
        summary={"rows": table, "chance_accuracy": 0.25, "updates_budget": options.updates},
        report=[harness.Text("What is to be seen", _reading(table)), *figures, drawn],
    )


def _lines(asked: dict[str, Any], values: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    lines = []
    for i, method in enumerate(methods_of(asked)):
        found = values[method]
        solved = np.array(found["solved"])
        lines.append(
            {name: asked[name] for name in ("initialisation", "steps", "seeds")}
            | {
                "method": method,
                "solved_share": float(solved.mean()),
                "mean_test_accuracy": float(np.mean(found["test_accuracy"])),
                "median_updates": float(np.median(np.where(solved, found["updates"], np.inf))),
                "diverged": int(np.sum(found["diverged"])),
                "best_held_out_accuracy_by_seed": np.nanmax(arrays["accuracy"][:, i], axis=0).tolist(),
            }
            | {f"{name}_by_seed": found[name] for name in ("solved", "test_accuracy", "updates")}
        )
    return lines


def _reading(table: list[dict[str, Any]]) -> list[str]:
    said = []
    for name in dict.fromkeys(line["initialisation"] for line in table):
        parts = []
        for method in dict.fromkeys(line["method"] for line in table):
            found = [line for line in table if (line["initialisation"], line["method"]) == (name, method)]
            parts.append(f"{method} " + ", ".join(f"{line['solved_share']:.0%} at {line['steps']}" for line in found))
        said.append(f"{name}: " + "; ".join(parts) + ".")
    return said


EXPERIMENT = harness.Experiment(
    "temporal_order",
    temporal_order.__doc__ or "",
    Options,
    measure,
    quick={"lengths": (20, 50), "initialisations": ("smart tanh",), "seeds": 3, "updates": 1500},
    code=(
        *(f"rnnjax.{name}" for name in ("cell", "cells", "_unroll", "tasks", "training", "numerics")),
        *(f"rnnjax.gradients.{name}" for name in ("adjoint", "adjoint_clipping", "pascanu", "sequence")),
        *(f"experiments.temporal_order.{name}" for name in ("network", "training")),
    ),
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

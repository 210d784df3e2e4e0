"""Runs `experiments.flossing`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import flossing, harness
from experiments.flossing.figures import NAMES, accuracy_figure, exponents_figure
from experiments.flossing.training import train
from experiments.harness import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.ProcessOptions):
    """Delayed XOR with and without flossing before training."""

    delays: tuple[int, ...] = (10, 16, 24, 36)
    """Delays d of the task [steps]."""
    hidden_size: int = 32
    """H [units]."""
    exponents: int = 16
    """How many leading exponents are brought to zero."""
    seeds: int = 5
    """Networks a delay."""
    floss_updates: int = 500
    """Updates of flossing."""
    floss_steps: int = 40
    """Length of the sequences for flossing [steps]."""
    updates: int = 1500
    """Updates of training."""
    batch: int = 16
    """Sequences in a batch."""
    rate: float = 1e-3
    """Learning rate of Adam, in both."""

    def check(self) -> None:
        super().check()
        for name in ("hidden_size", "exponents", "seeds", "floss_updates", "floss_steps", "updates", "batch", "rate"):
            harness.positive(f"--{name.replace('_', '-')}", getattr(self, name))
        if not self.delays or min(self.delays) < 2:
            raise UsageError(f"--delays is {self.delays}; give at least one, of 2 steps or more.")
        if self.exponents > self.hidden_size:
            raise UsageError(
                f"--exponents is {self.exponents}, but {self.hidden_size} units have no more than that many."
            )
        if self.floss_steps < 4:
            raise UsageError(f"--floss-steps is {self.floss_steps}; give at least 4.")


def measure(run: harness.Run[Options]) -> harness.Outcome:
    options = run.options
    common = {f.name: getattr(options, f.name) for f in dataclasses.fields(Options)}
    for name in ("out", "quick", "fresh", "delays"):
        common.pop(name)
    rows, exponents = [], []
    with run.progress("delays", len(options.delays)) as advance:
        for delay in sorted(options.delays):
            asked = {"delay": delay} | common
            row = run.rows.compute(asked, lambda asked=asked: train(asked, run.mesh))
            rows.append({"delay": delay} | row.values)
            exponents.append(row.arrays["exponents"])
            advance(note=f"delay {delay}")
    lines = [_line(row, arrays) for row, arrays in zip(rows, exponents, strict=True)]
    with harness.plotting():
        figures = [
            accuracy_figure(run, rows),
            exponents_figure(run, [row["delay"] for row in rows], exponents),
        ]
    columns = ("delay", "plain_accuracy", "flossed_accuracy", "mean_square_before", "mean_square_flossed")
    table = run.show(harness.Table.of(lines, columns, f"Held-out accuracy, mean of {options.seeds} seeds"))
    return harness.Outcome({"rows": lines, "runs": rows, "chance_accuracy": 0.5}, [*figures, table])


def _line(row: dict[str, Any], exponents: np.ndarray) -> dict[str, Any]:
    line: dict[str, Any] = {"delay": row["delay"]}
    for name in NAMES:
        found = np.array(row[name]["accuracy"], float)
        line |= {f"{name}_accuracy": float(found.mean()), f"{name}_accuracy_std": float(found.std())}
    names = ("before", "flossed", "plain_trained", "flossed_trained")
    squares = (exponents**2).mean(axis=(1, 2))
    line |= {f"mean_square_{name}": float(square) for name, square in zip(names, squares, strict=True)}
    return line | {
        f"leading_exponent_{name}": float(e) for name, e in zip(names, exponents[..., 0].mean(1), strict=True)
    }


EXPERIMENT = harness.Experiment(
    "flossing",
    flossing.__doc__ or "",
    Options,
    measure,
    quick={"delays": (4,), "seeds": 2, "updates": 200, "floss_updates": 50, "hidden_size": 16, "exponents": 8},
    code=(
        *(f"rnnjax.{name}" for name in ("cell", "cells", "_unroll", "tasks", "training", "numerics")),
        *(f"rnnjax.gradients.{name}" for name in ("flossing", "lyapunov", "orthonormal", "tangents", "slopes")),
        "experiments.flossing.training",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

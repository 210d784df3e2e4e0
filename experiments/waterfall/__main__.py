"""Runs `experiments.waterfall`; see its docstring."""

import dataclasses
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import harness, waterfall
from experiments.gradient_decay.cells import BUILT_IN
from experiments.waterfall.figure import success_figure, waterfall_figure
from experiments.waterfall.measure import measure_cell
from experiments.waterfall.theory import closed_form

_LEARNED = 0.1  # of the best constant's error

if TYPE_CHECKING:
    from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.ProcessOptions):
    """Log-adjoint of a memory task against lag, scale and cell, before and after training."""

    cells: tuple[str, ...] = ("linear", "tanh", "gru", "lstm")
    """Built-in cells: linear, tanh, relu (Elman), lstm, gru."""
    scales: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)
    """Scales of the orthogonal W2 at initialisation [dimensionless]."""
    steps: int = 20
    """Length of the sequences, and so the lag to be bridged [steps]."""
    hidden_size: int = 32
    """H [units]."""
    seeds: int = 2
    """How many networks per cell and scale."""
    updates: int = 1500
    """How many updates of Adam."""
    batch: int = 32
    """Sequences in an update."""
    learning_rate: float = 3e-3
    """Of Adam."""

    def check(self) -> None:
        super().check()
        unknown = [name for name in self.cells if name not in BUILT_IN]
        if unknown or not self.cells:
            raise harness.UsageError(f"--cells {' '.join(unknown)}: choose from {', '.join(BUILT_IN)}.")
        if len(self.scales) < 2:
            raise harness.UsageError("--scales needs at least two values.")
        for name in ("hidden_size", "seeds", "updates", "batch", "learning_rate"):
            harness.positive(f"--{name.replace('_', '-')}", getattr(self, name))
        harness.positive("--steps minus 2", self.steps - 2)
        for scale in self.scales:
            harness.positive("one of --scales", scale)


def measure(run: harness.Run[Options]) -> harness.Outcome:
    o, kept = run.options, {}
    with run.progress("cells", len(o.cells)) as advance:
        for name in o.cells:
            fields = ("hidden_size", "scales", "seeds", "steps", "updates", "batch", "learning_rate", "seed")
            defines = {field: getattr(o, field) for field in fields}
            kept[name] = run.rows.compute(
                {"cell": name} | defines, lambda n=name, d=defines: _measure(n, d, run.mesh)
            ).arrays
            advance(note=name)
    rows, maps = [], {}
    for name, arrays in kept.items():
        maps[name] = {what: _by_scale(arrays[what], o).mean(axis=1) / math.log(10) for what in ("before", "after")}
        rows += _rows(name, arrays, o)
    closed = {name: curves for name in o.cells if (curves := closed_form(name, o.scales, o.steps, o.seed)) is not None}
    residuals = [
        each
        for name, curves in closed.items()
        for each in _residuals(name, o.scales, curves, _by_scale(kept[name]["before"], o))
    ]
    with harness.plotting():
        decades = {name: curves / math.log(10) for name, curves in closed.items()}
        drawn = [waterfall_figure(run, o.scales, maps, decades), success_figure(run, rows)]
    tables = [
        run.show(harness.residual_table(residuals, "Rate over all lags before training, measured and in theory")),
        run.show(harness.Table.of(rows, caption=f"Every network: gradient at lag {o.steps - 1}, and error")),
    ]
    return harness.Outcome(
        summary={"rows": rows, "residuals": residuals, "learned_below_error": _LEARNED},
        report=[harness.Text("What is to be seen", _reading(rows, residuals, o)), *drawn, *tables],
    )


def _measure(name: str, defines: dict[str, Any], mesh: "Mesh | None") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    found = measure_cell(BUILT_IN[name](defines["hidden_size"]), **defines, mesh=mesh)
    return {}, found._asdict()


def _by_scale(values: np.ndarray, o: Options) -> np.ndarray:
    """`[N, ...]` to `[scales, seeds, ...]`."""
    return values.reshape(len(o.scales), o.seeds, *values.shape[1:])


def _rows(name: str, arrays: dict[str, np.ndarray], o: Options) -> list[dict[str, Any]]:
    """The longest lag that matters is T - 1: the carry after the first input."""
    rows = []
    for s, scale in enumerate(o.scales):
        for i in range(o.seeds):
            n = s * o.seeds + i
            rows.append(
                {
                    "cell": name,
                    "scale": scale,
                    "seed": i,
                    "log10_gradient_before": float(arrays["before"][n, o.steps - 1] / math.log(10)),
                    "log10_gradient_after": float(arrays["after"][n, o.steps - 1] / math.log(10)),
                    "error_before": float(arrays["error_before"][n]),
                    "error_after": float(arrays["error_after"][n]),
                }
            )
    return rows


def _residuals(name: str, scales: tuple[float, ...], closed: np.ndarray, before: np.ndarray) -> list[dict[str, Any]]:
    found = []
    lags = closed.shape[1] - 1
    for s, scale in enumerate(scales):
        samples = before[s, :, -1] / lags
        quantity = f"{name}, scale {scale:g}: rate"
        found.append(
            harness.residual(quantity, samples.mean(), closed[s, -1] / lags, unit="nats/step", samples=samples.tolist())
        )
    return found


def _reading(rows: list[dict[str, Any]], residuals: list[dict[str, Any]], o: Options) -> list[str]:
    lines = []
    for name in ("linear", "tanh"):
        own = [abs(each["residual"]) for each in residuals if each["quantity"].startswith(name)]
        if own:
            lines.append(f"{name}: the rate before training is within {max(own):.1e} nats a step of theory.")
    learned = [row for row in rows if row["error_after"] < _LEARNED]
    failed = [row for row in rows if not row["error_after"] < _LEARNED]
    for cell in o.cells:
        count = sum(row["cell"] == cell for row in learned)
        lines.append(f"{cell}: {count} of {len(o.scales) * o.seeds} networks bring the error below {_LEARNED:g}.")
    if learned and failed:
        lines.append(
            f"Among those that learn, the gradient at lag {o.steps - 1} after training is 10^"
            f"{min(row['log10_gradient_after'] for row in learned):.1f} or more of that at lag 0; among those that "
            f"fail its median is 10^{np.median([row['log10_gradient_after'] for row in failed]):.1f}."
        )
    return lines


EXPERIMENT = harness.Experiment(
    "waterfall",
    waterfall.__doc__ or "",
    Options,
    measure,
    quick={"scales": (0.6, 1.0, 1.4), "seeds": 1, "updates": 150, "steps": 15, "hidden_size": 16},
    code=("rnnjax", "experiments.waterfall.measure", "experiments.gradient_decay.cells"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

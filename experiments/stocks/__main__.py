"""Runs `experiments.stocks`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import harness, learning, stocks
from experiments.harness import UsageError
from experiments.stocks import series
from experiments.stocks.folds import Folds, least_days, walk_forward

CONTROL_CELL = "gru"
WORDS = {True: "clipped", False: "unclipped"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(learning.GridOptions):
    """Tomorrow's price, walked forward; the seeds are networks of each fold, cell and clipping."""

    folds: int = 16
    """Half-years that are forecast, the last ones."""
    days: int = 126
    """Trading days of a fold."""
    control_folds: int = 6
    """Folds of the planted series and of the random walk; 0: no controls."""
    steps: int = 30
    """Past returns that a forecast is made from [days]."""
    hidden_size: int = 16
    updates: int = 200
    batch: int = 32
    max_norm: float = 0.5

    def check(self) -> None:
        super().check()
        for name in ("folds", "days", "steps"):
            harness.positive(f"--{name}", getattr(self, name))
        if self.control_folds < 0:
            raise UsageError(f"--control-folds is {self.control_folds}; give 0 or more.")
        panel = series.load("stocks")
        before = len(panel.dates) - max(self.folds, self.control_folds) * self.days
        if before < least_days(panel, self.steps):
            raise UsageError(
                f"--folds, --days and --steps leave {before} of {len(panel.dates)} days before the first fold; "
                f"at least {least_days(panel, self.steps)} are needed: give fewer folds or days."
            )


def measure(run: harness.Run[Options]) -> harness.Outcome:
    from experiments.stocks import figures, table  # JAX and matplotlib are not needed for --help

    plan = _plan(run.options)
    rows = []
    with run.progress("programs", len(plan)) as advance:
        for asked in plan:
            rows.append(run.rows.compute(asked, lambda asked=asked: _work(run, asked)))
            advance(note=f"{asked['input']}, {asked['cell']}")

    lines: dict[str, list[dict[str, Any]]] = {}
    shown: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(row.options["input"] for row in rows):
        own = [row for row in rows if row.options["input"] == name]
        walked = _walk(own[0].options)
        named = table.all_forecasts(*walked, _networks(own))
        lines[name] = table.lines_of(*walked, named)
        if name == "stocks":
            shown = named
    panel, folds = _walk(rows[0].options)
    with harness.plotting():
        pictures = [
            figures.errors(run, panel, folds, shown),
            figures.gains(run, lines),
            figures.curves(run, [row for row in rows if row.options["input"] == "stocks"]),
        ]
    tables = [run.show(_table(lines[name], _caption(name, rows))) for name in lines]
    return harness.Outcome(
        summary={
            "input": {"source": _source(), "first_test_day": str(panel.dates[folds.first[0]])},
            "lines": lines,
            "companies": list(panel.names),
            "rmse_over_persistence_by_fold_and_company": {
                name: table.by_fold(panel, folds, said).tolist()
                for name, said in shown.items()
                if name != "persistence"
            },
            "first_day_of_fold": [str(day) for day in panel.dates[folds.first]],
            "programs": [row.values | {"input": row.options["input"], "cell": row.options["cell"]} for row in rows],
        },
        report=[harness.Text("What is to be seen", reading(lines)), pictures[0], tables[0], *pictures[1:], *tables[1:]],
    )


def _plan(options: Options) -> list[dict[str, Any]]:
    """A program for each cell on the prices, and one for each control."""
    names = ("seeds", "seed", "days", "steps", "hidden_size", "updates", "batch", "rate", "max_norm")
    shared = {name: getattr(options, name) for name in names}
    real = [
        {"input": "stocks", "cell": cell, "clipping": list(options.clipping), "folds": options.folds} | shared
        for cell in options.cells
    ]
    controls = [
        {"input": name, "cell": CONTROL_CELL, "clipping": [True], "folds": options.control_folds} | shared
        for name in series.INPUTS[1:]
        if options.control_folds
    ]
    return real + controls


def _walk(asked: dict[str, Any]) -> tuple[series.Panel, Folds]:
    panel = series.load(asked["input"], asked["seed"])
    return panel, walk_forward(panel, asked["folds"], asked["days"], asked["steps"])


def _work(run: harness.Run[Options], asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One row; its networks of the last fold are saved before it, so that where there is a row there are models."""
    import jax

    from experiments.stocks.training import INPUT_SIZE, train
    from rnnjax.training import save_model

    done = train(asked, run.mesh)
    if asked["input"] == "stocks" and run.leads:
        panel, folds = _walk(asked)
        served = {
            name: {"mean": float(folds.mean[-1, i]), "std": float(folds.std[-1, i])}
            for i, name in enumerate(panel.names)
            if folds.served[-1, i]
        }
        info = {"task": "the next daily log return, standardised", "standardised_by": served}
        info |= {"fitted_before": str(panel.dates[folds.cut[-1]])}
        for i, clipped in enumerate(asked["clipping"]):
            for j in range(asked["seeds"]):
                params = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j, -1], done.params)
                folder = run.folder / "models" / f"{asked['cell']}-{WORDS[clipped]}-{j}"
                save_model(folder, done.model, params, info | asked, input_size=INPUT_SIZE)
    return done.values, done.arrays


def _networks(rows: list[harness.Row]) -> dict[str, np.ndarray]:
    """`[seeds, N, C]` of each cell and clipping."""
    return {
        f"{row.options['cell']}, {WORDS[clipped]}": row.arrays["forecast"][i].astype(np.float64)
        for row in rows
        for i, clipped in enumerate(row.options["clipping"])
    }


def _table(lines: list[dict[str, Any]], caption: str) -> harness.Table:
    columns = {
        "model": "model",
        "seeds": "seeds",
        "RMSE of log return": "rmse_log_return",
        "loss": "loss",
        "gain": "gain_over_persistence",
        "right direction": "right_direction_share",
        "DM": "diebold_mariano",
        "95% from": "difference_low",
        "to": "difference_high",
        "than persistence": "verdict",
    }
    return harness.Table(list(columns), [[_short(line[name]) for name in columns.values()] for line in lines], caption)


def _short(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _caption(name: str, rows: list[harness.Row]) -> str:
    folds = next(row.options["folds"] for row in rows if row.options["input"] == name)
    said = {"stocks": "Daily prices", "planted": "Control: a planted series", "walk": "Control: a random walk"}
    return (
        f"{said[name]}, {folds} folds. Loss: squared error in variances of the past; gain: 1 - loss / persistence's; "
        "DM and the interval: of loss - persistence's"
    )


def _source() -> str:
    from experiments.data import stocks as data

    return data.SOURCE


def reading(lines: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What the table says, model by model, and what the controls say of the method."""
    said = []
    for verdict in ("better", "worse", "no difference shown"):
        found = [line for line in lines["stocks"] if line["verdict"] == verdict]
        if found:
            parts = [f"{line['model']} ({line['gain_over_persistence']:+.2%})" for line in found]
            words = {"better": "Better than persistence", "worse": "Worse than persistence"}
            said.append(f"{words.get(verdict, 'No difference to persistence is shown for')}: {', '.join(parts)}.")
    for name, words in (("planted", "On the planted series"), ("walk", "On the random walk")):
        for line in lines.get(name, ()):
            if line["model"].startswith(CONTROL_CELL):
                said.append(f"{words} {line['model']}: {line['verdict']} ({line['gain_over_persistence']:+.2%}).")
    return said


EXPERIMENT = harness.Experiment(
    "stocks",
    stocks.__doc__ or "",
    Options,
    measure,
    quick={"cells": ("gru",), "seeds": 2, "folds": 3, "control_folds": 2, "updates": 60, "hidden_size": 8},
    code=(
        *(
            f"rnnjax.{name}"
            for name in ("cell", "cells", "_unroll", "compose", "readout", "tasks", "training", "numerics")
        ),
        *(f"experiments.stocks.{name}" for name in ("series", "folds", "training")),
        "experiments.data.stocks",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

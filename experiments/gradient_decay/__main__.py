"""Runs `experiments.gradient_decay`; see its docstring."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import gradient_decay, harness
from experiments.gradient_decay.cells import resolve
from experiments.gradient_decay.figure_decay import decay_figure
from experiments.gradient_decay.figure_map import map_figure
from experiments.gradient_decay.figure_rates import rates_figure
from experiments.gradient_decay.options import Options
from experiments.gradient_decay.scalar import scalar_case
from experiments.gradient_decay.sweep import Measured, measure_cell
from experiments.gradient_decay.table import VERDICT_DECADES, VERDICTS, curves_by_lag, row_by_lag, rows_by_length
from experiments.gradient_decay.theory import predict
from experiments.harness.manifest import code_sha256


def measure(run: harness.Run[Options]) -> harness.Outcome:
    """One kept row a cell (one compiled program); everything else is drawn and summed up from those."""
    options = run.options
    xs, record = _input(options)
    names = [*options.cells, *([options.cell] if options.cell else [])]
    kept = []
    each = len(options.kinds) * len(options.scales) * options.seeds
    with run.progress("networks", len(names) * each) as advance:
        for name in names:
            defines = _defines(options, name)
            if run.rows.get(defines) is not None:
                advance(each, note=name)
            kept.append(run.rows.compute(defines, lambda name=name: _measure(options, name, xs, advance)))

    origin = {"source": record["source"], "sha256": record["sha256"]}
    rows = [row | {"input": origin} for each in kept for row in each.values["rows"]]
    lag_rows = [row for each in kept for row in each.values["lag_rows"]]
    scalars = [scalar_case(w2) for w2 in (0.5, 2.0)]
    curves = {row.values["cell"]: row.arrays for row in kept}
    with harness.plotting():
        drawn = [decay_figure(run, lag_rows, curves), map_figure(run, rows), rates_figure(run, lag_rows)]
    table = run.show(_table(rows, max(options.lengths)))
    return harness.Outcome(
        summary={
            "rows": rows,
            "lag_rows": lag_rows,
            "scalar_cases": scalars,
            "input": record,
            "verdict_threshold_decades": VERDICT_DECADES,
            "loss": "inner product of the last output with a random unit vector",
        },
        report=[harness.Text("What is to be seen", _reading(rows, scalars)), *drawn, table],
    )


def _input(options: Options) -> tuple[np.ndarray, dict[str, Any]]:
    """`[T, D]` for the longest T, and where it comes from."""
    steps = max(options.lengths)
    if options.input == "gaussian":
        xs = np.asarray(jax.random.normal(jax.random.key(options.seed), (steps, len(options.tickers)), "float64"))
        source = f"jax.random.normal, seed {options.seed}"
        return xs, {"source": source, "sha256": _sha256(xs), "kind": "white noise N(0, 1)", "steps_count": steps}
    from experiments.data import stocks

    returns = stocks.log_returns(*options.tickers, standardize=True)
    return returns.values[:steps], returns.record | {"steps_count": steps}


def _sha256(array: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _defines(options: Options, name: str) -> dict[str, Any]:
    """What a kept row depends on, the code of a user's own cell included."""
    fields = ("kinds", "scales", "lengths", "seeds", "hidden_size", "input", "tickers", "seed")
    own = {"cell_code_sha256": code_sha256([name.partition(":")[0]])} if ":" in name else {}
    return {"cell": name} | {field: getattr(options, field) for field in fields} | own


def _measure(
    options: Options, name: str, xs: np.ndarray, advance: Callable[..., None]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    cell = resolve(name, options.hidden_size)
    key = jax.random.key(options.seed)
    measured = measure_cell(
        cell, xs, options.kinds, options.scales, options.lengths, options.seeds, key,
        lambda networks: advance(networks, note=name),
    )  # fmt: skip
    rows, lag_rows, curves = [], [], {}
    shape = (len(options.kinds), len(options.scales), options.seeds)
    grid = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*shape, *leaf.shape[1:]), measured)
    for k, kind in enumerate(options.kinds):
        for s, scale in enumerate(options.scales):
            part = Measured(*(leaf[k, s] for leaf in grid))
            base = {"cell": name, "kind": kind, "scale": scale}
            prediction = predict(name, kind, scale, xs, part.log_spectral_radius)
            rows += rows_by_length(base, part, options.lengths, prediction, name == "linear")
            lag_rows.append(row_by_lag(base, part, prediction, name == "linear"))
            found = curves_by_lag(part)
            if prediction is not None:
                found["theory"] = prediction.by_lag() / np.log(10)
            curves |= {f"{kind}/{scale}/{what}": values for what, values in found.items()}
    return {"cell": name, "rows": rows, "lag_rows": lag_rows}, curves


def _table(rows: list[dict[str, Any]], longest: int) -> harness.Table:
    columns = [
        "cell", "kind", "scale", "length", "log10_gradient_mean", "log10_gradient_std",
        "rate_nats_per_step", "predicted_rate_nats_per_step", "half_life_steps", "verdict",
    ]  # fmt: skip
    caption = f"Gradient that reaches step 1 of {longest} steps (all lengths: summary.json)"
    return harness.Table.of([row for row in rows if row["length"] == longest], columns, caption)


def _reading(rows: list[dict[str, Any]], scalars: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"One unit: {case['w2']:g} to the power {case['lag_steps']} is {case['gradient']:.17g} as measured, "
        f"{case['closed_form']:.17g} as a power."
        for case in scalars
    ]
    exact = [row for row in rows if row["prediction"] == "log scale" and row["rate_nats_per_step"] is not None]
    if exact:
        worst = max(abs(row["rate_nats_per_step"] - row["predicted_rate_nats_per_step"]) for row in exact)
        lines.append(f"Linear cell, orthogonal W2: the measured rate differs from log scale by {worst:.1e} at most.")
    counts = {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS}
    lines.append("Of all rows, " + ", ".join(f"{count} are {name}" for name, count in counts.items() if count) + ".")
    return lines


EXPERIMENT = harness.Experiment(
    "gradient_decay",
    gradient_decay.__doc__ or "",
    Options,
    measure,
    quick={"lengths": (5, 10, 20, 50, 100), "seeds": 4, "hidden_size": 32},
    code=("rnnjax", *(f"experiments.gradient_decay.{name}" for name in ("cells", "sweep", "table", "theory"))),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

"""An `Experiment` of the harness from a problem: grid, table, figure, report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments import harness
from experiments.learning import table
from experiments.learning.options import Options
from experiments.learning.problem import Problem

_CODE = (
    *(
        f"rnnjax.{name}"
        for name in (
            "cell",
            "cells",
            "initializers",
            "_unroll",
            "compose",
            "readout",
            "tasks",
            "training",
            "numerics",
            "sharding",
        )
    ),
    *(f"experiments.learning.{name}" for name in ("grid", "network", "options", "problem", "sequences")),
)
"""What the numbers of a row come from."""


def experiment(
    name: str,
    doc: str | None,
    options: type[Options],
    problem: Callable[[Any], Problem],
    *,
    quick: Mapping[str, Any],
    code: Sequence[str],
) -> harness.Experiment:
    """The experiment that trains the grid on `problem(options)`.

    Args:
      name: the module under `experiments`.
      doc: its docstring.
      options: extends `Options`.
      problem: from options to what is to be learned.
      quick: defaults of `--quick`.
      code: modules of its own that its rows depend on.
    """

    def measure(run: harness.Run[Any]) -> harness.Outcome:
        from experiments.learning import figures, grid  # JAX and matplotlib are not needed for --help

        asked = problem(run.options)
        rows = grid.rows_of(run, asked)
        lines = table.lines_of(rows, asked)
        with harness.plotting():
            picture = figures.curves(run, rows, asked)
        words = f"{name}, {run.options.seeds} seeds, H = {run.options.hidden_size}, {run.options.updates} updates"
        shown = run.show(table.table_of(lines, asked, words))
        return harness.Outcome(
            summary={
                "measure": asked.measure,
                "baseline": asked.baseline,
                "baseline_name": asked.baseline_name,
                "lines": lines,
                "rows": [row.flat for row in rows],
            },
            report=[harness.Text("What is to be seen", table.reading(lines, asked)), picture, shown],
        )

    return harness.Experiment(name, doc or "", options, measure, quick=quick, code=(*_CODE, *code))

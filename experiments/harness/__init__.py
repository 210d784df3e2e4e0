"""What all experiments share: options to command line, a result folder, resumable rows, figures, a report.

An experiment is a module (or a package with `__main__.py`) whose docstring has a title and the fields of
`experiments.harness.about` (Question, Command, Minutes, Expected), and which ends like this:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(harness.CommonOptions):              # brings --out, --quick, --seed, --fresh
        steps: int = 1000
        \"\"\"Length of the longest sequence [steps].\"\"\"     # shown by --help, with the default

        def check(self) -> None:                       # runs before any work; ValueError -> one line, status 2
            super().check()
            harness.positive("--steps", self.steps)

    def measure(run: harness.Run[Options]) -> harness.Outcome:
        cells = ["tanh", "lstm"]
        rows = []
        with run.progress("cells", len(cells)) as advance:
            for cell in cells:
                todo = {"cell": cell, "steps": run.options.steps}            # what defines this row: its key
                rows.append(run.rows.compute(todo, lambda: work(**todo)))    # done before? then not again
                advance(note=cell)
        table = run.show(harness.Table.of([row.flat for row in rows], caption="Rates"))
        with harness.plotting():
            fig, ax = harness.figure(width=7, height=4)                      # inches
            for i, row in enumerate(rows):
                ax.plot(row.arrays["log10_norm"], label=row.options["cell"], **harness.line(i)._asdict())
            picture = run.figure("decay", fig, alt="what is to be seen", caption="what it means")
        return harness.Outcome(
            summary={"rows": [row.flat for row in rows]},                    # units in the key names
            report=[harness.Text("Result", ["One paragraph."]), picture, table],
        )

    EXPERIMENT = harness.Experiment(
        "gradient_decay", __doc__, Options, measure,
        quick={"steps": 100}, code=("rnnjax", "experiments.gradient_decay"), x64=True,
    )

    if __name__ == "__main__":
        sys.exit(harness.launch(EXPERIMENT))

What is then given:

* `work` returns values (anything `strict_json.strict` takes) or `(values, {"name": array})`. A row is on the disk,
  flushed, when `compute`/`put`/`put_many` returns. `put_many([(options, values, arrays), ...])` keeps the rows of one
  compiled program at once; `run.rows.missing(list_of_options)` says which are still to do; `run.rows.get(options)`
  finds one. A row's key covers its options, the code named in `code` (comments and docstrings apart), versions,
  platform and precision; so a plot may be redrawn, and a sweep resumed, without computing anything twice.
* `row.values` has passed through JSON: NaN and infinity are None there with `<key>_reason` beside them.
* `residual` and `residual_table` put a measurement beside its theory, in one form for all summaries and reports.
* `config.json` at the start, `summary.json`, PNG + SVG and `report.html` at the end, each written whole or not at all.
* Raise `harness.UsageError` for what the user can fix. The folder is locked for the time of the run; another
  experiment's folder, or other options in the same folder, are refused (`--fresh` starts over).
* An experiment that trains takes its options from `ProcessOptions` in place of `CommonOptions` (it brings --devices,
  --coordinator, --num-processes, --process-id) and passes `run.mesh` on: see `experiments.harness.processes`. What it
  writes by itself it writes only where `run.leads`.
* x64 holds inside `measure` only; no global setting is changed.

This package imports neither JAX nor matplotlib before they are needed, so `--help` and bad options answer at once.
"""

from typing import TYPE_CHECKING, Any

from experiments.harness.errors import UsageError
from experiments.harness.experiment import CommonOptions, Experiment, launch, positive
from experiments.harness.report import Block, Contents, Figure, Table, Text
from experiments.harness.residuals import residual, residual_table

if TYPE_CHECKING:
    from experiments.harness.processes import ProcessOptions
    from experiments.harness.rows import Row, RowStore
    from experiments.harness.run import Outcome, Run
    from experiments.harness.style import figure, figures, line, plotting

__all__ = [
    "Block",
    "CommonOptions",
    "Contents",
    "Experiment",
    "Figure",
    "Outcome",
    "ProcessOptions",
    "Row",
    "RowStore",
    "Run",
    "Table",
    "Text",
    "UsageError",
    "figure",
    "figures",
    "launch",
    "line",
    "plotting",
    "positive",
    "residual",
    "residual_table",
]

_LATER = {"ProcessOptions": "processes", "Row": "rows", "RowStore": "rows", "Outcome": "run", "Run": "run"}
_LATER |= dict.fromkeys(("figure", "figures", "line", "plotting"), "style")


def __getattr__(name: str) -> Any:
    """Names that need rich or matplotlib are fetched at first use."""
    import importlib

    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)

"""Runs `experiments.reproduce`; see its docstring."""

import dataclasses
import sys
import time
import traceback
from typing import Any

from experiments import harness, reproduce
from experiments.reproduce import lecture, linear, memory, pascanu, tanh, tasks, traps
from experiments.reproduce.figure import deviations_figure
from experiments.reproduce.row import Row, as_line, checked

THEMES = {
    "The lecture": lecture.ROWS,
    "Linear networks": linear.ROWS,
    "Tanh networks": tanh.ROWS,
    "Memory": memory.ROWS,
    "Tasks": tasks.ROWS,
    "Cliffs and what helps": pascanu.ROWS,
    "Traps": traps.ROWS,
}
ROWS = checked([row for rows in THEMES.values() for row in rows])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Published numbers beside ours."""

    only: tuple[str, ...] = ()
    """Names of rows, or beginnings of names; all if left out."""

    def check(self) -> None:
        super().check()
        for name in self.only:
            if not any(row.name.startswith(name) for row in ROWS):
                raise harness.UsageError(
                    f"--only {name}: no row begins so; choose from {', '.join(r.name for r in ROWS)}."
                )


def measure(run: harness.Run[Options]) -> harness.Outcome:
    o = run.options
    chosen = [row for row in ROWS if not (o.quick and row.full_only) and (not o.only or row.name.startswith(o.only))]
    lines: dict[str, dict[str, Any]] = {}
    with run.progress("rows", len(chosen)) as advance:
        for row in chosen:
            lines[row.name] = as_line(row, o.quick, _kept(run, row))
            advance(note=row.name)
    blocks: list[harness.Block] = []
    for theme, rows in THEMES.items():
        own = [lines[row.name] for row in rows if row.name in lines]
        if own:
            columns = (
                "what",
                "published",
                "ours",
                "unit",
                "tolerance",
                "verdict",
                "exact",
                "seeds",
                "seconds",
                "source",
            )
            blocks.append(run.show(harness.Table.of([_short(each) for each in own], columns, theme)))
    failed = [each["row"] for each in lines.values() if each["exact"] and each["verdict"] != "reproduced"]
    missed = [each["row"] for each in lines.values() if not each["exact"] and each["verdict"] != "reproduced"]
    columns = ("published", "source", "why it has no row")
    blocks.append(harness.Table(columns, tasks.NOT_RUN, "Published, and not attempted here"))
    with harness.plotting():
        picture = deviations_figure(run, list(lines.values()))
    words = _reading(list(lines.values()), failed, missed)
    for each in words:
        run.say(each)
    return harness.Outcome(
        summary={"rows": list(lines.values()), "failed_exact": failed, "missed": missed},
        report=[harness.Text("Verdict", words), *blocks, picture],
        status=1 if failed else 0,
    )


def _kept(run: harness.Run[Options], row: Row) -> dict[str, Any]:
    """Ours, from an earlier run or measured now. What raised is said, not kept: next time it is tried again."""

    def work() -> dict[str, Any]:
        started = time.monotonic()
        found = row.measure(run.options.quick)
        return {**dataclasses.asdict(found), "seconds": time.monotonic() - started}

    try:
        return run.rows.compute({"row": row.name, "quick": run.options.quick}, work).values
    except Exception as error:
        run.err.print(traceback.format_exc(), markup=False)
        return {"error": f"{type(error).__name__}: {error}"}


def _short(line: dict[str, Any]) -> dict[str, Any]:
    """Enough digits to compare, no more."""
    return line | {
        "published": f"{line['published']:.8g}",
        "ours": None if line["ours"] is None else f"{line['ours']:.8g}",
        "tolerance": f"{line['tolerance']:.2g}",
        "seconds": None if line["seconds"] is None else f"{line['seconds']:.1f}",
    }


def _reading(lines: list[dict[str, Any]], failed: list[str], missed: list[str]) -> list[str]:
    exact = [each for each in lines if each["exact"]]
    good = sum(each["verdict"] == "reproduced" for each in lines)
    words = [
        f"{good} of {len(lines)} numbers are reproduced; of {len(exact)} that are exact, {len(exact) - len(failed)}."
    ]
    if failed:
        words.append(f"FAILED, though exact: {', '.join(failed)}.")
    if missed:
        words.append(f"Missed their tolerance: {', '.join(missed)}.")
    return words


_MEASURED_BY = (
    "experiments.cliff.surface",
    "experiments.statland.published",
    "experiments.gradient_decay.scalar",
    "experiments.curse_of_memory.measure",
    "experiments.driven_edge.measure",
    "experiments.float_horizon.measure",
    "experiments.linear_spectra.measure",
    "experiments.lstm_memory.measure",
    "experiments.tanh_phase_diagram.measure",
    "experiments.temporal_order.network",
    "experiments.temporal_order.training",
)

EXPERIMENT = harness.Experiment(
    "reproduce",
    reproduce.__doc__ or "",
    Options,
    measure,
    code=("rnnjax", "experiments.reproduce", *_MEASURED_BY),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

"""From rows to lines: a cell with and without clipping, over its seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import harness
from experiments.learning.problem import Problem

Line = dict[str, Any]


def lines_of(rows: Sequence[harness.Row], problem: Problem) -> list[Line]:
    """One line for each cell and clipping: median, extremes, mean and standard deviation of the test measure."""
    groups: dict[tuple[str, bool], list[harness.Row]] = {}
    for row in rows:
        groups.setdefault((row.options["cell"], row.options["clipped"]), []).append(row)
    return [_line(cell, clipped, group, problem) for (cell, clipped), group in groups.items()]


def _line(cell: str, clipped: bool, rows: Sequence[harness.Row], problem: Problem) -> Line:
    line: Line = {"cell": cell, "clipped_at_norm": rows[0].options["max_norm"] if clipped else None, "seeds": len(rows)}
    for name in problem.measures:
        tested = numbers(rows, f"test_{name}")
        line |= {
            f"test_{name}_median": float(np.median(tested)),
            f"test_{name}_lowest": float(tested.min()),
            f"test_{name}_highest": float(tested.max()),
            f"test_{name}_mean": float(tested.mean()),
            f"test_{name}_std": float(tested.std(ddof=1)) if len(tested) > 1 else None,
        }
    line["held_out_median"] = float(np.median(numbers(rows, f"held_out_{problem.measure}")))
    line["updates_clipped_share"] = float(np.mean(numbers(rows, "clipped_share"))) if clipped else None
    line["largest_gradient_norm"] = float(numbers(rows, "largest_gradient_norm").max())
    line["stopped_not_finite"] = sum(row.values["stopped_at_update"] is not None for row in rows)
    return line


def numbers(rows: Sequence[harness.Row], name: str) -> np.ndarray:
    """A value of every row, NaN where it is not finite (JSON holds None there)."""
    return np.array([np.nan if row.values[name] is None else row.values[name] for row in rows], np.float64)


def table_of(lines: Sequence[Line], problem: Problem, caption: str) -> harness.Table:
    """The columns that a page has room for; the rest is in `summary.json`."""
    measures = [f"test_{name}_{what}" for name in problem.measures for what in ("median", "lowest", "highest")]
    columns = ["cell", "clipped_at_norm", "seeds", *measures, "updates_clipped_share", "largest_gradient_norm"]
    return harness.Table.of(lines, [*columns, "stopped_not_finite"], caption)


def reading(lines: Sequence[Line], problem: Problem) -> list[str]:
    """One sentence a cell, and one of the baseline."""
    name = problem.measure
    words = name.replace("_", " ")
    said = []
    for cell in dict.fromkeys(line["cell"] for line in lines):
        parts = [
            f"{_clipping(line)} {line[f'test_{name}_median']:.4g} (seeds from {line[f'test_{name}_lowest']:.4g} to "
            f"{line[f'test_{name}_highest']:.4g})"
            for line in lines
            if line["cell"] == cell
        ]
        said.append(f"{cell}, median test {words}: {'; '.join(parts)}.")
    return [*said, f"Who reads nothing ({problem.baseline_name}) gets {problem.baseline:.4g}."]


def _clipping(line: Line) -> str:
    limit = line["clipped_at_norm"]
    return "without clipping" if limit is None else f"clipped at norm {limit:g}"

"""Writes `docs/parity.md`: every cell, against whom, and the largest differences. Needs all libraries."""

import pathlib
import sys

from benchmarks import contest
from benchmarks.harness import machine
from tests.parity import models
from tests.parity.pairs import DEPARTURES, REMARKS, differences, pairs

PACKAGES = {
    "Flax": "flax",
    "Haiku": "dm-haiku",
    "Equinox": "equinox",
    "Keras": "keras",
    "PyTorch": "torch",
    "torchrecurrent": "torchrecurrent",
}


def table() -> str:
    """The page; raises `contest.LeftOut` where a library is not installed."""
    found = machine.versions(tuple(PACKAGES.values()))
    versions = ", ".join(f"{name} {found[package]}" for name, package in PACKAGES.items())
    lines = [
        "# Cells against others",
        "",
        "Written by `python -m tests.parity`: every cell against every library that has it, and against its paper's",
        "equations in NumPy (`tests/paper_steps.py`, in float64), with the same random weights, biases too: the",
        "largest difference of outputs, over 6 steps (4 of convolutions) and 2 rows, relative to the largest output,",
        "and of the gradients of all parameters and the input, relative to the largest.",
        "",
        f"{versions}.",
        "",
        "| cell | against | float64: outputs | gradients | float32: outputs | gradients | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    told: set[str] = set()
    for pair in pairs():
        if pair.cell not in told:
            for library, why in DEPARTURES.get(pair.cell, {}).items():
                lines.append(f"| `{pair.cell}` | {library} | | | | | not compared: {why} |")
        told.add(pair.cell)
        numbers = [f"{x:.0e}" for dtype in ("float64", "float32") for x in differences(pair, dtype)]
        cell = f"`{pair.cell}`{f', {pair.axes}-D' if pair.axes else ''}"
        theirs = f"{pair.library} {pair.theirs}".strip()
        lines.append(f"| {cell} | {theirs} | {' | '.join(numbers)} | {REMARKS.get((pair.cell, pair.library), '')} |")
    return "\n".join([*lines, *whole_models(), ""])


def whole_models() -> list[str]:
    """The lines on whole models, as `rnnjax.converters.from_any` and its inverses convert them."""
    lines = [
        "",
        "## Whole models",
        "",
        "Weights of a whole model in each library, biases too, through `rnnjax.converters.from_any` (of torchrecurrent",
        "`from_torchrecurrent`), and back through its inverse: the largest difference of outputs on a padded batch,",
        f"rows of {', '.join(map(str, models.LENGTHS))} of {models.T} steps, relative to the largest output.",
        "",
        "| library | layer | direction | float64: from | back | float32: from | back |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model in models.models():
        numbers = [f"{x:.0e}" for dtype in ("float64", "float32") for x in models.differences(*model, dtype)]
        library, layer, form = model
        lines.append(f"| {library} | {layer} | {form} | {' | '.join(numbers)} |")
    lines += ["", "Differences that remain:", "", "| where | there | here |", "| --- | --- | --- |"]
    return lines + [f"| {' | '.join(row)} |" for row in models.REMAIN]


if __name__ == "__main__":
    try:
        page = table()
    except contest.LeftOut as reason:
        sys.exit(f"error: {reason}; the table is written only where all libraries are installed.")
    (pathlib.Path(__file__).parents[2] / "docs" / "parity.md").write_text(page)

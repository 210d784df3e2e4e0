"""A small experiment for the tests of the harness, and a strict reader of JSON."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import harness


def strictly(text: str) -> Any:
    """Reads JSON as the standard has it: NaN and Infinity are errors."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of the toy."""

    numbers: tuple[int, ...] = (1, 2, 3)
    """What to square [1]."""

    def check(self) -> None:
        super().check()
        if not self.numbers:
            raise ValueError("--numbers is empty;\ngive one.")


squared: list[int] = []


def measure(run: harness.Run[Options]) -> harness.Outcome:
    rows = []
    for number in run.options.numbers:

        def work(number: int = number) -> dict[str, Any]:
            if number == STOP_AT[0]:
                raise KeyboardInterrupt
            squared.append(number)
            return {"square": number**2, "log": math.log(number) if number else -math.inf}

        rows.append(run.rows.compute({"number": number}, work))
    table = run.show(harness.Table.of([row.flat for row in rows], caption="Squares <of> numbers"))
    with harness.plotting():
        fig, ax = harness.figure()
        ax.plot(
            [row.options["number"] for row in rows], [row.values["square"] for row in rows], **harness.line(0)._asdict()
        )
        picture = run.figure("squares", fig, alt="A parabola, <rising>.", caption="Squares")
    assert jax.numpy.ones(()).dtype == np.float64
    return harness.Outcome(
        {"rows": [row.flat for row in rows], "quick": run.options.quick},
        [harness.Text("Squares & more"), picture, table],
    )


STOP_AT = [-1]  # the number at which Ctrl-C is pressed
DOC = "A toy.\n\nQuestion: what is a square?\nCommand: python -m experiments.toy\nMinutes: 0\nExpected: n squared.\n"
TOY = harness.Experiment("toy", DOC, Options, measure, quick={"numbers": (1,)}, code=("rnnjax.cell",), x64=True)


def read(path: Path, name: str = "summary.json") -> Any:
    return strictly((path / name).read_text())

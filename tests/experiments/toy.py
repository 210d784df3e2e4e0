"""A small experiment for the tests of the harness, which counts what it computes and can be interrupted."""

import math
import os
import signal
from typing import Any

import jax
import numpy as np

from experiments import lab

squared: list[int] = []
STOP: dict[str, int] = {}  # "at": the number at which Ctrl-C is pressed; "kill": at which the process is killed


@lab.options(quick={"numbers": (1,)})
class Options(lab.ProcessOptions):
    """Options of the toy."""

    numbers: lab.Distinct[int] = (1, 2, 3)
    """What to square [1]."""

    def check(self) -> None:
        super().check()
        if 13 in self.numbers:
            raise lab.UsageError("--numbers has 13;\ngive another.")


def square(number: int) -> dict[str, Any]:
    if number == STOP.get("at"):
        raise KeyboardInterrupt
    if number == STOP.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    squared.append(number)
    assert jax.numpy.ones(()).dtype == np.float64
    log = math.log(number) if number else -math.inf
    return {"square": number**2, "log": log, "pair": (number, number), "curve": number * np.arange(3.0)}


def squares(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, of several numbers at once."""
    return [square(**each) for each in asked]


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    return run.rows(square, [{"number": number} for number in options.numbers], "numbers")


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    from experiments.lab import style

    page.text("Squares & more", ["First paragraph."], anchor="a<b")
    page.contents({"a<b": "First & last"})
    fig, ax = style.figure(3, 2)
    ax.plot([row["number"] for row in rows], [row["square"] for row in rows], **style.line(0))
    page.figure("squares", fig, alt="A parabola, <rising>.", caption="Squares.")
    page.table(rows, {"number": "n", "square": "n²", "log": "log n"}, "Squares <of> numbers")
    page.summary |= {"rows": [row.plain for row in rows], "quick": page.options.quick}


TOY = lab.Experiment(Options, measure, draw, x64=True)

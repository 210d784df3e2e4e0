"""Adding: the sum of two marked numbers in a sequence of a hundred, asked at its end.

Question: which cells learn to add two numbers that lie far apart in a sequence of T = 100, and does clipping matter?
Command: python -m experiments.adding
Minutes: 8 on one core; with --quick one.
Expected: at T = 100, after 3000 updates of 32 sequences, the median test error of 5 seeds is 0.0003 for the LSTM
(seeds from 0.0002 to 0.0006) and 0.0001 for the GRU, clipped or not: gates hold what they read, and their gradients
hardly ever exceed norm 1. The tanh network stays above 0.08 with every seed: 0.165 without clipping, no better than
always answering the mean; 0.161 with clipping, where a few of five seeds begin to learn, the best reaches 0.095, and a
quarter of the updates are clipped. Which of its seeds begin depends on rounding: 0.14 in an earlier version.

Numbers from U(0, 1), one mark in each half; always answering 1 has a mean squared error of 1/6.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import PositiveFloat, PositiveInt

from rnnjax import tasks

from . import lab, learning


@lab.options(quick={"updates": 200, "seeds": 3, "steps": 20, "hidden_size": 16, "look_every": 20})
class Options(learning.Options):
    """The adding problem."""

    steps: Annotated[int, Ge(2)] = 100
    """T [steps]."""
    seeds: PositiveInt = 5
    hidden_size: PositiveInt = 32
    updates: PositiveInt = 3000
    batch: PositiveInt = 32
    rate: PositiveFloat = 1e-2


def problem(asked: learning.Asked) -> learning.Problem:
    return learning.Problem(
        inputs=2,
        outputs=1,
        **learning.fresh(lambda key, rows: tasks.adding(key, asked["steps"], (rows,)), asked, held_out=500, test=2000),
        loss=tasks.squared_error,
        measures={"mean_squared_error": tasks.squared_error},
        baseline=tasks.adding_baseline().loss,
        baseline_name="always the mean",
    )


def trained(asked: Sequence[learning.Asked], **given: Any) -> list[dict[str, Any]]:
    return learning.train(problem(asked[0]), asked, **given)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    return learning.rows_of(trained, options, run)


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    learning.draw(problem(rows[0]), rows, page)


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

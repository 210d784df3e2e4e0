"""Adding: the sum of two marked numbers in a sequence of a hundred, asked at its end.

Question: which cells learn to add two numbers that lie far apart in a sequence of T = 100, and does clipping matter?
Command: python -m experiments.adding
Minutes: 8 on one core; with --quick one.
Expected: at T = 100, after 3000 updates of 32 sequences, the median test error of 5 seeds is 0.00036 for the LSTM
(seeds from 0.0002 to 0.0006) and 0.0001 for the GRU, clipped or not: gates hold what they read, and their gradients
hardly ever exceed norm 1. The tanh network stays above 0.08 with every seed: 0.164 without clipping, no better than
always answering the mean; 0.14 with clipping, where two or three of five seeds begin to learn and a quarter of the
updates are clipped.

Numbers from U(0, 1), one mark in each half; always answering 1 has a mean squared error of 1/6.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
from annotated_types import Ge
from jax import Array
from pydantic import PositiveFloat, PositiveInt

from experiments import lab, learning
from rnnjax import tasks

TEST_KEY, TEST_ROWS, HELD_OUT_ROWS = 2**31, 2000, 500


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
    """Fresh sequences at every update; 500 held out for each seed; 2,000 for the test, the same for all seeds."""

    def data(key: Array, step: Array, *, rows: int = asked["batch"]) -> tasks.Batch:
        return tasks.adding(key, asked["steps"], (rows,))

    def test() -> tasks.Batch:
        key = jax.random.fold_in(jax.random.key(asked["seed"]), TEST_KEY)
        return tasks.adding(key, asked["steps"], (TEST_ROWS,))

    return learning.Problem(
        inputs=2,
        outputs=1,
        train=data,
        held_out=functools.partial(data, rows=HELD_OUT_ROWS),
        test=test,
        loss=tasks.squared_error,
        measures={"mean_squared_error": tasks.squared_error},
        baseline=tasks.adding_baseline().loss,
        baseline_name="always the mean",
    )


def trained(asked: Sequence[learning.Asked], **given: Any) -> list[dict[str, Any]]:
    """The rows of one cell."""
    return learning.train(problem(asked[0]), asked, **given)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    return learning.rows_of(trained, options, run)


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    learning.draw(problem(rows[0]), rows, page)


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

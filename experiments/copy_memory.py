"""Copy memory: ten symbols, a silence, and then the ten symbols again.

Question: which cells do better than staying silent and then guessing, and does clipping matter?
Command: python -m experiments.copy_memory
Minutes: 9 on one core; with --quick one.
Expected: over a delay of 50, after 4000 updates of 32 sequences, the median test cross-entropy of 3 seeds is 0.297 nats
per step for the tanh network, which equals the 0.2971 of a predictor without memory; 0.260 with clipping and 0.283
without for the LSTM; and 0.113 and 0.125 for the GRU. Of the ten symbols one in eight, a fifth and two thirds are
right. No cell has solved the task by then. Clipping touches one or two updates in a hundred. It changes no final result
by more than the range over seeds, but clipped tanh networks have learned to be silent after 200 updates, and unclipped
ones only after 1000 or more.

Ten of eight symbols, held over a delay. A predictor that remembers only when to speak has a cross-entropy of
10 log 8 / (delay + 20) nats per step, and one symbol in eight right.
"""

from collections.abc import Sequence
from typing import Any

from jax import Array
from pydantic import PositiveFloat, PositiveInt

from rnnjax import tasks

from . import lab, learning

SYMBOLS, MEMORY = 8, 10


@lab.options(quick={"updates": 200, "delay": 10, "hidden_size": 32, "look_every": 20})
class Options(learning.Options):
    """Copy memory."""

    delay: PositiveInt = 50
    """Steps between the last symbol read and the first answered [steps]; T = delay + 20."""
    updates: PositiveInt = 4000
    batch: PositiveInt = 32
    rate: PositiveFloat = 1e-2


def recalled(outputs: Array, batch: tasks.Batch) -> Array:
    """The share of the ten symbols that are right: accuracy over the last ten steps alone."""
    return tasks.accuracy(outputs, batch._replace(weights=batch.weights.at[:-MEMORY].set(0)))


def problem(asked: learning.Asked) -> learning.Problem:
    def draw(key: Array, rows: int) -> tasks.Batch:
        return tasks.copy_memory(key, asked["delay"], (rows,), symbols=SYMBOLS, memory=MEMORY)

    return learning.Problem(
        inputs=SYMBOLS + 2,
        outputs=SYMBOLS + 1,
        **learning.fresh(draw, asked, held_out=200, test=1000),
        loss=tasks.cross_entropy,
        measures={"cross_entropy_nats": tasks.cross_entropy, "recalled_share": recalled},
        baseline=tasks.copy_memory_baseline(asked["delay"], symbols=SYMBOLS, memory=MEMORY).loss,
        baseline_name="silent, then guessing",
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

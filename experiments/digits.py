"""Digits, a pixel at a time: the image is read row after row, and classified after the last pixel.

Question: how well do the three cells read a digit that comes as a sequence of single pixels?
Command: python -m experiments.digits
Minutes: 11 on one core; with --quick one; --data mnist about twelve times that, estimated from its length.
Expected: on the 8x8 digits, after 3000 updates, the median test accuracy of 3 seeds is 0.88 for the tanh network, 0.89
for the LSTM and 0.89 for the GRU with clipping, and 0.80 (one seed 0.53), 0.87 and 0.86 without. A quarter to a half of
the updates are clipped, and every cell is better with clipping, the gated two by less than a few seeds can settle. The
best single answer is right in 0.11. All overfit the 1,197 images: held-out accuracy is higher than that on the 300 of
the test, which are the last of the file.

By default the 8x8 digits, 64 steps; `--data mnist` has 5,000 of the 28x28 ones, 784 steps, which is the field's
sequential MNIST with a twelfth of its images.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from . import lab, learning
from .data import labelled

CLASSES = 10


@lab.options(quick={"updates": 200, "hidden_size": 32, "look_every": 20})
class Options(learning.Options):
    """Digits, pixel by pixel."""

    data: Literal["small", "mnist"] = "small"
    """small: 8x8, 64 steps. mnist: 28x28, 784 steps."""
    updates: PositiveInt = 3000
    rate: PositiveFloat = 5e-3


def problem(asked: learning.Asked) -> learning.Problem:
    parts = labelled.small_digits() if asked["data"] == "small" else labelled.mnist()
    return learning.labelled_problem(parts, CLASSES, asked["batch"])


def trained(asked: Sequence[learning.Asked], **given: Any) -> list[dict[str, Any]]:
    return learning.train(problem(asked[0]), asked, **given)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    return learning.rows_of(trained, options, run)


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    learning.draw(problem(rows[0]), rows, page)


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

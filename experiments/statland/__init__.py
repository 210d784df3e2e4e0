"""StatLand: one recurrent unit unrolled number by number, trained from scratch, and one LSTM unit.

In StatLand stocks are low, medium or high, and four rules say how two days lead to the next. A published network with
a single ReLU unit meets the rules; a published LSTM unit tells two companies apart by their first day.

Question: what passes through every copy of the published network, and how often does training from scratch find the
rules again?
Command: python -m experiments.statland
Minutes: 0.3 on two CPU cores; 0.2 with --quick (fewer updates).
Expected: the network predicts 0, 0.99, 0, 0.99 for the four rules (low, high, low, high) and 0.99 for high, medium,
medium; the LSTM predicts 0.0064 for company A and 0.9694 for B. Of 64 seeds learn all four rules: 19% by gradient
descent, 25% with clipping, 31% by Adam, 33% with clipping (of 4,096 seeds 20%, 28%, 29%, 29%); about two thirds die,
because the only ReLU unit outputs 0 for everything and no gradient passes.
"""

from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import PositiveFloat, PositiveInt

from .. import lab
from . import published


@lab.options(quick={"steps": 1000})
class Options(lab.ProcessOptions):
    """Options of StatLand."""

    days: Annotated[tuple[Literal["low", "medium", "high"], ...], MinLen(1)] | None = None
    """Days for the published network to read, oldest first; drawn only with --out, and trained only with --train."""
    train: bool = False
    """Train as well where --days is given."""
    seeds: PositiveInt = 64
    """How many networks to train at once [count]."""
    steps: PositiveInt = 5000
    """Updates of each network [count]."""
    sgd_learning_rate: PositiveFloat = 0.1
    """Learning rate of gradient descent [1]."""
    adam_learning_rate: PositiveFloat = 0.01
    """Learning rate of Adam [1]."""
    clip_norm: PositiveFloat = 1.0
    """Global norm that gradients are clipped to, in the runs with clipping [1]."""
    tolerance: PositiveFloat = 0.1
    """A seed has learned if each of its four predictions is within this of its rule [1; low is 0, high is 1]."""
    train_three_days: bool = False
    """Train on high, medium, medium -> high as well (what the published network predicts), beside the four rules."""
    show_updates: PositiveInt = 4
    """How many first updates the table shows [count]."""


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    """A row for each seed and optimizer, then one with the first updates of a seed; with days alone one for them."""
    from .training import first_updates, train

    if options.days and not options.train:
        return run.rows(published.trace, [{"days": options.days}])
    shared = {name: getattr(options, name) for name in ("seed", "steps", "tolerance", "train_three_days")}
    asked = [
        {"optimizer": optimizer, "learning_rate": rate, "clip_norm": clip, "index": index, **shared}
        for optimizer, rate in (("sgd", options.sgd_learning_rate), ("adam", options.adam_learning_rate))
        for clip in (None, options.clip_norm)
        for index in range(options.seeds)
    ]
    rows = run.rows(train, asked, "networks", together=("optimizer", "clip_norm"), given={"mesh": run.mesh})
    shown = next((row["index"] for row in rows[options.seeds : 2 * options.seeds] if row["fate"] == "learned"), 0)
    first = {"learning_rate": options.sgd_learning_rate, "clip_norm": options.clip_norm, "count": options.show_updates}
    return rows + run.rows(first_updates, [{"seed": options.seed, "index": shown, **first}], "first updates")


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    from .figures import draw_days, draw_lstm, draw_training

    draw_days(page)
    if "updates" in rows[-1]:
        draw_training(rows[:-1], rows[-1], page)
    draw_lstm(page)


experiment = lab.Experiment(Options, measure, draw, x64=True)

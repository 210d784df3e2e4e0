"""Options of the language model."""

import dataclasses
from typing import Any

from experiments import harness, learning
from experiments.harness import UsageError
from experiments.text.ngram import MAX_ORDER

_NOT_OF_THE_GRID = {"order", "sample", "prompt", "temperature"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(learning.Options):
    """The grid of small networks, one larger LSTM, and what it writes."""

    hidden_size: int = 128
    """H of the grid [units]."""
    updates: int = 240
    """Updates of each run of the grid; 2276 are a pass over the text."""
    batch: int = 32
    """Rows of the text that are read side by side, in the grid."""
    rate: float = 4e-3
    """Adam's learning rate at the first update of the grid; it falls to zero along half a cosine."""
    look_every: int = 20
    """Updates from one look at the validation play to the next."""
    max_norm: float = 0.25
    """Where the gradient's global norm is clipped: in the grid in runs that clip, and in the larger network."""
    steps: int = 64
    """Characters to an update of each row, and how far back its gradient reaches [steps]."""
    large_hidden_size: int = 512
    """H of the larger LSTM [units]."""
    large_updates: int = 5600
    """Its updates."""
    large_batch: int = 32
    """Its rows."""
    large_rate: float = 8e-3
    """Adam's highest learning rate for it; it falls by a cosine."""
    large_dropped: float = 0.0
    """Share of its recurrent and readout weights that are absent at each update (DropConnect)."""
    large_restarted: float = 0.02
    """Share of its rows that begin an update with the initial carry; the others go on from the last update."""
    order: int = 5
    """n of the n-gram that the networks are held against."""
    train_characters: int | None = None
    """Train on no more than the first so many characters; None: on all of the 35 plays."""
    test_characters: int | None = None
    """Test on no more than the first so many; None: on all of the held-out play."""
    sample: int = 400
    """Characters to write when all is trained; 0: none."""
    prompt: str = "\n"
    """What the model reads before it writes."""
    temperature: float = 0.8
    """Of the sample: below 1 likelier, above 1 wilder."""

    def check(self) -> None:
        super().check()
        for name in ("steps", "large_hidden_size", "large_updates", "large_batch", "large_rate", "temperature"):
            harness.positive(f"--{name.replace('_', '-')}", getattr(self, name))
        for name in ("large_dropped", "large_restarted"):
            if not 0 <= getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} is {getattr(self, name)}; give a share, at least 0 and below 1.")
        if not 2 <= self.order <= MAX_ORDER:
            raise UsageError(f"--order is {self.order}; give one from 2 to {MAX_ORDER}.")
        if self.sample < 0:
            raise UsageError(f"--sample is {self.sample}; give 0 or more characters.")
        if not self.prompt:
            raise UsageError("--prompt is empty; give at least one character.")
        if self.test_characters is not None and self.test_characters < 64:
            raise UsageError(f"--test-characters is {self.test_characters}; give 64 or more.")
        if self.train_characters is not None:
            least = 2 * self.steps * max(self.batch, self.large_batch)
            if self.train_characters < least:
                raise UsageError(
                    f"--train-characters is {self.train_characters}; {max(self.batch, self.large_batch)} rows in "
                    f"chunks of {self.steps} steps need {least} or more."
                )

    @property
    def of_a_row(self) -> dict[str, Any]:
        found = super().of_a_row
        return {
            name: value
            for name, value in found.items()
            if not name.startswith("large") and name not in _NOT_OF_THE_GRID
        }

    @property
    def of_the_large(self) -> dict[str, Any]:
        """What the larger network is, in the words of a row."""
        names = ("hidden_size", "updates", "batch", "rate", "dropped", "restarted")
        return {
            "cell": "lstm",
            **{name: getattr(self, f"large_{name}") for name in names},
            **{
                name: getattr(self, name)
                for name in ("steps", "max_norm", "seed", "train_characters", "test_characters")
            },
        }

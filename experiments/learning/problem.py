"""What is to be learned, and how well is well."""

import dataclasses
from collections.abc import Callable, Mapping

from jax import Array

import rnnjax
from rnnjax.tasks import Batch

Score = Callable[[Array, Batch], Array]
"""`(outputs [T, *batch, K], batch) -> []`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem for the grid.

    Attributes:
      inputs: D.
      outputs: K.
      train: `(key, step) -> Batch`, what the update of this step sees.
      held_out: `(key, index) -> Batch`, what the learning curves are measured on: never trained on, never the test.
      test: `() -> Batch`, the sequences of the table, looked at once when all updates are done.
      loss: what is minimised.
      measures: what is reported, by name with its unit; the first is the one that curves and table show.
      baseline: what a predictor that reads nothing gets of the first measure.
      baseline_name: how it predicts.
      ragged: whether rows end before T.
      higher_is_better: of the first measure, as accuracy is.
    """

    inputs: int
    outputs: int
    train: Callable[[Array, Array], Batch]
    held_out: Callable[[Array, Array], Batch]
    test: Callable[[], Batch]
    loss: Score
    measures: Mapping[str, Score]
    baseline: float
    baseline_name: str
    ragged: bool = False
    higher_is_better: bool = False

    @property
    def measure(self) -> str:
        """The name of the first measure."""
        return next(iter(self.measures))

    def outputs_of(self, model: rnnjax.Readout, params: rnnjax.ReadoutParams, batch: Batch) -> Array:
        """`[T, *batch, K]`."""
        return rnnjax.unroll(model, params, batch.xs, lengths=batch.lengths if self.ragged else None)[1]

    def measured(self, model: rnnjax.Readout, params: rnnjax.ReadoutParams, batch: Batch) -> dict[str, Array]:
        """Every measure of this model on this batch."""
        outputs = self.outputs_of(model, params, batch)
        return {name: score(outputs, batch) for name, score in self.measures.items()}

"""Labelled sequences of a fixed data set, as batches: the label is asked at each row's last step."""

import jax
import jax.numpy as jnp
from jax import Array

from experiments.data.labelled import Parts, Sequences, best_constant
from experiments.learning.problem import Problem
from rnnjax.tasks import Batch, accuracy, cross_entropy


def batch_of(rows: Sequences, chosen: Array | None = None) -> Batch:
    """The rows with these indices (all, if None) as a batch; only the last step of each is scored.

    Example:

      >>> import numpy as np
      >>> rows = Sequences(np.zeros((5, 2, 1), np.float32), np.array([1, 0], np.int32), np.array([5, 3], np.int32))
      >>> batch_of(rows).weights.T.tolist()
      [[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0, 0.0]]
    """
    xs, labels, lengths = (jnp.asarray(each) for each in rows)
    if chosen is not None:
        xs, labels, lengths = xs[:, chosen], labels[chosen], lengths[chosen]
    at = jnp.arange(xs.shape[0], dtype=lengths.dtype)[:, None]
    weights = (at == lengths - 1).astype(xs.dtype)
    return Batch(xs, jnp.broadcast_to(labels, weights.shape), weights, lengths)


def draw_rows(rows: Sequences, key: Array, count: int) -> Batch:
    """`count` rows, evenly drawn, with replacement."""
    return batch_of(rows, jax.random.randint(key, (count,), 0, len(rows.labels), jnp.int32))


def labelled_problem(parts: Parts, classes: int, batch: int) -> Problem:
    """Which class is it? Rows of the training part, evenly drawn `batch` at a time; the validation part held out."""
    return Problem(
        inputs=parts.train.xs.shape[-1],
        outputs=classes,
        train=lambda key, step: draw_rows(parts.train, key, batch),
        held_out=lambda key, index: batch_of(parts.validation),
        test=lambda: batch_of(parts.test),
        loss=cross_entropy,
        measures={"accuracy": accuracy, "cross_entropy_nats": cross_entropy},
        baseline=best_constant(parts.test),
        baseline_name="best single answer",
        ragged=any(len(set(part.lengths.tolist())) > 1 for part in parts),
        higher_is_better=True,
    )

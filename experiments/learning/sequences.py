"""Labelled sequences of a fixed data set, as batches: the label is asked at each row's last step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax.tasks import Batch


class Sequences(NamedTuple):
    """N rows, padded with zeros to the longest.

    Attributes:
      xs: `[T, N, D]`.
      labels: `[N]` int32 classes.
      lengths: `[N]` int32, where each row ends.
    """

    xs: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray


def batch_of(rows: Sequences, chosen: Array | np.ndarray | None = None) -> Batch:
    """The rows with these indices (all, if None) as a batch; only the last step of each is scored.

    Example:

      >>> rows = Sequences(np.zeros((5, 2, 1), np.float32), np.array([1, 0], np.int32), np.array([5, 3], np.int32))
      >>> batch_of(rows).weights.T.tolist()
      [[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0, 0.0]]
    """
    rows = Sequences(*(jnp.asarray(each) for each in rows))  # pyright: ignore[reportArgumentType]
    if chosen is not None:
        rows = Sequences(rows.xs[:, chosen], rows.labels[chosen], rows.lengths[chosen])
    steps = rows.xs.shape[0]
    at = jnp.arange(steps, dtype=rows.lengths.dtype)[:, None]
    weights = (at == rows.lengths - 1).astype(rows.xs.dtype)
    targets = jnp.broadcast_to(rows.labels, weights.shape)
    return Batch(jnp.asarray(rows.xs), jnp.asarray(targets), weights, jnp.asarray(rows.lengths))


def draw_rows(rows: Sequences, key: Array, count: int) -> Batch:
    """`count` rows, evenly drawn, with replacement."""
    return batch_of(rows, jax.random.randint(key, (count,), 0, len(rows.labels), jnp.int32))

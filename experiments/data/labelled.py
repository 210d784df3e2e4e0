"""Labelled sequences, in three parts: to train on, to choose by, to report on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Sequences(NamedTuple):
    """N rows, time first, padded with zeros to the longest.

    Attributes:
      xs: `[T, N, D]` float32.
      labels: `[N]` int32 classes from 0.
      lengths: `[N]` int32, where each row ends.
    """

    xs: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray


class Parts(NamedTuple):
    """`test` is for the last number alone; whatever is chosen is chosen by `validation`."""

    train: Sequences
    validation: Sequences
    test: Sequences


def padded(rows: Sequence[np.ndarray], labels: Sequence[int] | np.ndarray, steps: int) -> Sequences:
    """Rows `[T_n, D]` of different lengths as one array of T = `steps`.

    Example:

      >>> padded([np.ones((2, 1)), np.ones((3, 1))], [0, 4], 4).xs[..., 0].T.tolist()
      [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    """
    xs = np.zeros((steps, len(rows), rows[0].shape[1]), np.float32)
    for n, row in enumerate(rows):
        xs[: len(row), n] = row
    return Sequences(xs, np.asarray(labels, np.int32), np.array([len(row) for row in rows], np.int32))


def best_constant(rows: Sequences) -> float:
    """The accuracy of the best single answer to all rows: the share of their commonest class.

    Example:

      >>> best_constant(padded([np.ones((2, 1))] * 4, [0, 4, 4, 1], 2))
      0.5
    """
    return float(np.bincount(rows.labels).max() / len(rows.labels))

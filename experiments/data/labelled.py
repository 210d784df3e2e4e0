"""Labelled sequences in three parts: the digits as sequences of pixels, and the Japanese vowels.

    digits    x_t = pixel t of the image, row after row, from 0 to 1                       label 0 to 9
    vowels    x_t = 12 coefficients of the linear prediction of 25.6 ms of sound, a step every 6.4 ms
              of one of nine speakers who says /ae/                                        label 0 to 8

Origin, licence and what was checked: `experiments/data/README.md`. The SHA-256 of a file is verified at every load.

Reference: Kudo, Toyama and Shimbo, Multidimensional curve classification using passing-through regions, Pattern
Recognition Letters 20 (1999), 1103-1111.
"""

import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnjax.training import pad

from ..lab.machine import verified

FOLDER = Path(__file__).parent
SHA256 = {
    "digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    "mnist_5k.xz": "a7af64d28dbbbc750697817ff4eca3a22208fd5039b04bb3084272d11d4a8118",
    "JapaneseVowels_TRAIN.ts.xz": "54eedcaea118cd7c5517b2937dd36dab85174ff29d967ee163694a3456575d51",
    "JapaneseVowels_TEST.ts.xz": "1b2e51722075efdf5cd0514417ee5288c3a484c749f41a070b21c8fb4d3b24bf",
}
LONGEST, SPEAKERS, OF_EACH, TRAIN_OF_EACH = 29, 9, 30, 25


class Sequences(NamedTuple):
    """N rows, time first, padded with zeros to the longest."""

    xs: np.ndarray  # [T, N, D] float32
    labels: np.ndarray  # [N] int32, classes from 0
    lengths: np.ndarray  # [N] int32, where each row ends


class Parts(NamedTuple):
    """`test` is used once, for the last number; all choices are made on `validation`."""

    train: Sequences
    validation: Sequences
    test: Sequences


def small_digits() -> Parts:
    """1,797 images of 8x8: in the order of the file 1,197 to train on, 300 to validate and 300 to test."""
    lines = gzip.decompress(verified(FOLDER / "digits.csv.gz", SHA256["digits.csv.gz"])).decode().splitlines()
    table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    return Parts(*(_pixels(part, 16) for part in (table[:1197], table[1197:1497], table[1497:])))


def mnist() -> Parts:
    """5,000 images of 28x28, 500 a class: of each class the first 400 to train on, 50 to validate and 50 to test."""
    data = lzma.decompress(verified(FOLDER / "mnist_5k.xz", SHA256["mnist_5k.xz"]))
    table = np.frombuffer(data, np.uint8).reshape(5000, 785)
    by_class = table[np.argsort(table[:, -1], kind="stable")].reshape(10, 500, 785)
    parts = (by_class[:, part].reshape(-1, 785) for part in (slice(400), slice(400, 450), slice(450, None)))
    return Parts(*(_pixels(part, 255) for part in parts))


def _pixels(table: np.ndarray, white: int) -> Sequences:
    """A line of the table is the pixels of an image and its class."""
    xs = (table[:, :-1].T[..., None] / np.float32(white)).astype(np.float32)
    return Sequences(xs, table[:, -1].astype(np.int32), np.full(len(table), len(xs), np.int32))


def utterances(part: str) -> tuple[list[np.ndarray], np.ndarray]:
    """`[T_n, 12]` float64 for each utterance of "TRAIN" (270) or "TEST" (370), and their speakers, 0 to 8."""
    name = f"JapaneseVowels_{part}.ts.xz"
    text = lzma.decompress(verified(FOLDER / name, SHA256[name])).decode()
    rows, speakers = [], []
    for line in text.split("@data\n")[1].splitlines():
        *channels, speaker = line.split(":")
        rows.append(np.array([channel.split(",") for channel in channels], np.float64).T)
        speakers.append(int(speaker) - 1)
    return rows, np.array(speakers)


def vowels() -> Parts:
    """The given test part of 370; of the given 270, the last 5 of each speaker's 30 validate, and 225 train.

    Each coefficient is scaled to mean 0 and variance 1 over all steps of the 225.
    """
    rows, speakers = utterances("TRAIN")
    trains = np.arange(len(rows)) % OF_EACH < TRAIN_OF_EACH  # the file lists speaker after speaker
    every_step = np.concatenate([rows[n] for n in np.flatnonzero(trains)])
    mean, deviation = every_step.mean(axis=0), every_step.std(axis=0)
    parts = [([rows[n] for n in np.flatnonzero(of)], speakers[of]) for of in (trains, ~trains)] + [utterances("TEST")]
    return Parts(*(padded([(row - mean) / deviation for row in part], who, LONGEST) for part, who in parts))


def padded(rows: Sequence[np.ndarray], labels: Sequence[int] | np.ndarray, steps: int) -> Sequences:
    """Rows `[T_n, D]` of different lengths as one array of T = `steps`, zero beyond their ends."""
    xs, lengths = pad(rows, steps)
    return Sequences(xs, np.asarray(labels, np.int32), lengths)


def best_constant(rows: Sequences) -> float:
    """The accuracy of the best single answer to all rows: the share of their most common class."""
    return float(np.bincount(rows.labels).max() / len(rows.labels))

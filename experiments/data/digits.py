"""Handwritten digits as sequences of pixels, row after row: 8x8 images (64 steps), or 28x28 of MNIST (784 steps).

    x_t = pixel t of the image, from 0 to 1        label 0 to 9

Origin, licence and what was checked: `experiments/data/README.md`. The SHA-256 of the file is verified at every load.
"""

import gzip
import io
import lzma
from pathlib import Path

import numpy as np

from experiments.data.labelled import Parts, Sequences
from experiments.data.vendored import verified

SMALL_PATH = Path(__file__).with_name("digits.csv.gz")
SMALL_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
MNIST_PATH = Path(__file__).with_name("mnist_5k.xz")
MNIST_SHA256 = "a7af64d28dbbbc750697817ff4eca3a22208fd5039b04bb3084272d11d4a8118"


def small(path: Path = SMALL_PATH) -> Parts:
    """1,797 images of 8x8: in the order of the file 1,197 to train on, 300 to validate and 300 to test.

    Raises:
      UsageError: the file is not there, or not the one this package came with.
    """
    with gzip.open(io.BytesIO(verified(path, SMALL_SHA256)), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1], table[:, -1]
    return Parts(
        *(_pixels(images[part], labels[part], 16) for part in (slice(1197), slice(1197, 1497), slice(1497, None)))
    )


def mnist(path: Path = MNIST_PATH) -> Parts:
    """5,000 images of 28x28, 500 a class: of each class the first 400 to train on, 50 to validate and 50 to test.

    Raises:
      UsageError: the file is not there, or not the one this package came with.
    """
    table = np.frombuffer(lzma.decompress(verified(path, MNIST_SHA256)), np.uint8).reshape(5000, 785)
    by_class = table[np.argsort(table[:, -1], kind="stable")].reshape(10, 500, 785)
    parts = (by_class[:, part].reshape(-1, 785) for part in (slice(400), slice(400, 450), slice(450, None)))
    return Parts(*(_pixels(part[:, :-1], part[:, -1], 255) for part in parts))


def _pixels(images: np.ndarray, labels: np.ndarray, white: int) -> Sequences:
    xs = (images.T[..., None] / np.float32(white)).astype(np.float32)
    return Sequences(xs, labels.astype(np.int32), np.full(len(labels), len(xs), np.int32))

"""The vendored digits and vowels: the files are those on record, and the parts are what they are said to be."""

import gzip
import hashlib
import lzma
from pathlib import Path

import numpy as np
import pytest

from experiments.data import digits, labelled, vowels
from experiments.harness import UsageError

FOLDER = vowels.FOLDER
FILES = {"digits.csv.gz": digits.SMALL_SHA256, "mnist_5k.xz": digits.MNIST_SHA256, **vowels.SHA256}


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_the_one_on_record_everywhere(name: str) -> None:
    found = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
    assert found == FILES[name] and found in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", ["mnist_5k.xz", *vowels.SHA256])
def test_what_is_inside_is_on_record_too(name: str) -> None:
    text = lzma.decompress((FOLDER / name).read_bytes())
    assert hashlib.sha256(text).hexdigest() in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", ["aeon", "mlxtend", "scikit_learn"])
def test_the_licence_comes_with_it(name: str) -> None:
    assert "Redistributions of source code" in (FOLDER / "licenses" / f"{name}-LICENSE.txt").read_text()


def test_small_digits_are_the_lines_of_the_file() -> None:
    with gzip.open(digits.SMALL_PATH, "rt") as file:
        lines = [[int(number) for number in line.split(",")] for line in file]
    parts = digits.small()
    assert [part.xs.shape for part in parts] == [(64, 1197, 1), (64, 300, 1), (64, 300, 1)]
    xs, labels = np.concatenate([p.xs for p in parts], axis=1), np.concatenate([p.labels for p in parts])
    np.testing.assert_allclose(16 * xs[..., 0].T, [line[:-1] for line in lines], atol=1e-6)
    assert labels.tolist() == [line[-1] for line in lines]
    assert xs.dtype == np.float32 and xs.min() == 0 and xs.max() == 1
    assert all((part.lengths == 64).all() for part in parts)


def test_mnist_has_its_share_of_each_class_in_each_part_and_no_image_twice() -> None:
    parts = digits.mnist()
    assert [part.xs.shape for part in parts] == [(784, 4000, 1), (784, 500, 1), (784, 500, 1)]
    for part, count in zip(parts, (400, 50, 50), strict=True):
        assert np.bincount(part.labels).tolist() == [count] * 10
        assert part.xs.dtype == np.float32 and part.xs.min() == 0 and part.xs.max() == 1
    images = [{column.tobytes() for column in part.xs[..., 0].T} for part in parts]
    assert sum(map(len, images)) == len(set.union(*images)) == 5000


def test_vowels_have_the_published_counts_and_lengths() -> None:
    parts = vowels.load()
    assert [len(part.labels) for part in parts] == [225, 45, 370]
    assert np.bincount(parts.train.labels).tolist() == [25] * 9
    assert np.bincount(parts.validation.labels).tolist() == [5] * 9
    assert np.bincount(parts.test.labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]  # UCI's description
    assert (parts.test.lengths.min(), parts.test.lengths.max()) == (7, 29)
    assert labelled.best_constant(parts.test) == 88 / 370


def test_vowels_are_scaled_by_what_is_trained_on_alone_and_padded_with_zeros() -> None:
    parts = vowels.load()
    rows, speakers = vowels.utterances("TRAIN")
    assert [row.shape[1] for row in rows] == [12] * 270
    chosen = [n for n in range(270) if n % 30 < 25]
    assert parts.train.labels.tolist() == speakers[chosen].tolist()
    steps = np.concatenate([rows[n] for n in chosen])
    scaled = (np.asarray(vowels.utterances("TEST")[0][5]) - steps.mean(0)) / np.sqrt(
        ((steps - steps.mean(0)) ** 2).mean(0)
    )
    length = parts.test.lengths[5]
    np.testing.assert_allclose(parts.test.xs[:length, 5], scaled, rtol=1e-5, atol=1e-6)
    for part in parts:
        beyond = np.arange(29)[:, None] >= part.lengths
        assert part.xs.shape[0] == 29 and not part.xs[beyond].any() and np.isfinite(part.xs).all()
        assert np.abs(part.xs[~beyond]).min(axis=0).max() > 0


def test_the_first_utterance_is_read_channel_by_channel() -> None:
    """Three numbers of the file, by eye: first and second step of the first coefficient, first of the second."""
    rows, speakers = vowels.utterances("TRAIN")
    assert rows[0].shape == (20, 12) and speakers[0] == 0 and speakers[-1] == 8
    assert (rows[0][0, 0], rows[0][1, 0], rows[0][0, 1]) == (1.860936, 1.891651, -0.207383)


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("digits.csv.gz", lambda folder: digits.small(folder / "digits.csv.gz")),
        ("mnist_5k.xz", lambda folder: digits.mnist(folder / "mnist_5k.xz")),
        ("JapaneseVowels_TRAIN.ts.xz", vowels.load),
    ],
)
def test_a_changed_byte_is_noticed(name: str, load, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
        load(tmp_path)
    data = bytearray((FOLDER / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(bytes(data))
    with pytest.raises(UsageError, match=f"{name} is damaged.*restore"):
        load(tmp_path)

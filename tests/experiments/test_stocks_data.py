"""The vendored prices: the file is the one on record, and the returns are what they are said to be."""

import csv
import gzip
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.data import stocks
from experiments.harness import UsageError

FOLDER = stocks.PATH.parent


def raw() -> list[dict[str, str]]:
    with gzip.open(stocks.PATH, "rt", newline="") as file:
        return list(csv.DictReader(file))


def test_the_file_is_the_one_on_record_everywhere() -> None:
    found = hashlib.sha256(stocks.PATH.read_bytes()).hexdigest()
    assert found == stocks.SHA256
    assert found in (FOLDER / "README.md").read_text()
    assert found in (FOLDER / "licenses" / "stocks-provenance.json").read_text()


def test_the_licence_comes_with_it() -> None:
    assert '"recorded_license": "Public domain"' in (FOLDER / "licenses" / "stocks-provenance.json").read_text()
    assert "Bokeh Contributors" in (FOLDER / "licenses" / "bokeh_sampledata-LICENSE.txt").read_text()


@pytest.mark.parametrize(
    ("ticker", "days", "first", "last"),
    [
        ("AAPL", 3270, "2000-03-01", "2013-03-01"),
        ("FB", 196, "2012-05-18", "2013-03-01"),
        ("GOOG", 2148, "2004-08-19", "2013-03-01"),
        ("IBM", 3270, "2000-03-01", "2013-03-01"),
        ("MSFT", 3270, "2000-03-01", "2013-03-01"),
    ],
)
def test_days_rise_and_prices_are_positive(ticker: str, days: int, first: str, last: str) -> None:
    prices = stocks.load()[ticker]
    assert prices.dates.shape == prices.adjusted_close.shape == (days,)
    assert (str(prices.dates[0]), str(prices.dates[-1])) == (first, last)
    assert (np.diff(prices.dates) > np.timedelta64(0, "D")).all()
    assert (prices.adjusted_close > 0).all() and np.isfinite(prices.adjusted_close).all()


def test_no_ticker_lacks_a_day_that_another_has() -> None:
    prices = stocks.load()
    calendar = np.unique(np.concatenate([each.dates for each in prices.values()]))
    for each in prices.values():
        np.testing.assert_array_equal(each.dates, calendar[calendar >= each.dates[0]])


def test_returns_are_log_ratios_of_adjusted_close_on_shared_days() -> None:
    close = {(row["Ticker"], row["Date"]): float(row["Adj Close"]) for row in raw()}
    returns = stocks.log_returns("MSFT", "GOOG")
    assert returns.values.shape == (2147, 2) and returns.values.dtype == np.float64
    days = [str(day) for day in returns.dates]
    for column, ticker in enumerate(returns.tickers):
        for t in (1, 1000, 2146):
            expected = math.log(close[ticker, days[t]] / close[ticker, days[t - 1]])
            assert returns.values[t, column] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_largest_loss_is_apples_on_its_day() -> None:
    returns = stocks.log_returns("AAPL")
    worst = int(returns.values[:, 0].argmin())
    assert str(returns.dates[worst]) == "2000-09-29" and returns.values[worst, 0] == pytest.approx(-0.7312470, abs=1e-7)


def test_standardized_returns_have_mean_0_and_variance_1() -> None:
    plain, scaled = stocks.log_returns("AAPL", "IBM"), stocks.log_returns("AAPL", "IBM", standardize=True)
    np.testing.assert_allclose(scaled.values.mean(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose((scaled.values**2).mean(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(np.corrcoef(plain.values[:, 1], scaled.values[:, 1])[0, 1], 1, rtol=1e-12)


def test_the_record_names_the_input_exactly() -> None:
    record = stocks.log_returns("AAPL", "IBM", "MSFT", standardize=True).record
    assert record["sha256"] == stocks.SHA256 and "public domain" in record["source"]
    assert record["days_count"] == 3269 and record["tickers"] == ["AAPL", "IBM", "MSFT"]
    assert (record["first_date"], record["last_date"]) == ("2000-03-02", "2013-03-01")


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    data = bytearray(stocks.PATH.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "stocks.csv.gz"
    path.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"damaged.*restore"):
        stocks.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        stocks.load(tmp_path / "absent.csv.gz")


@pytest.mark.parametrize("tickers", [(), ("TSLA",), ("IBM", "IBM")])
def test_tickers_that_make_no_sense_are_named(tickers: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="give one or more of AAPL, FB, GOOG, IBM, MSFT"):
        stocks.log_returns(*tickers)

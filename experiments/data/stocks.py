"""Daily prices of five US stocks, 2000-03-01 to 2013-03-01, as inputs of recurrent networks.

    log return    r_t = log p_t - log p_{t-1}          p: closing price adjusted for splits and dividends [USD]

Origin, licence and what was checked: `README.md` here. The file's SHA-256 is verified at every load.
"""

import csv
import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..lab.machine import verified
from ..lab.options import UsageError

PATH = Path(__file__).with_name("stocks.csv.gz")
SHA256 = "5abadf99b2d394f920120a27de6f0df129859d71d4cfb0bf661bcc99446ab1fd"
SOURCE = "bokeh_sampledata 2026.1, stocks.csv.gz (Quandl WIKI prices, public domain)"
TICKERS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


class Prices(NamedTuple):
    """One ticker, one entry per trading day, oldest first.

    Splits and dividends after 2013-03-01 count in the adjustment too, so only ratios of prices are meaningful.
    """

    ticker: str
    dates: np.ndarray  # [N] datetime64[D]
    adjusted_close: np.ndarray  # [N] float64, USD


class Returns(NamedTuple):
    """Log returns of some tickers on the days that all of them share."""

    tickers: tuple[str, ...]  # D names, in the order of the columns
    dates: np.ndarray  # [T] datetime64[D]; the return of a day is from the shared day before it
    values: np.ndarray  # [T, D] float64
    standardized: bool  # whether each column has mean 0 and variance 1

    @property
    def record(self) -> dict[str, Any]:
        """What `summary["input"]` should say of this input."""
        kind = "daily log returns of adjusted close" + (", standardized" if self.standardized else "")
        days = {"first_date": str(self.dates[0]), "last_date": str(self.dates[-1]), "days_count": len(self.dates)}
        return {"source": SOURCE, "sha256": SHA256, "tickers": list(self.tickers), "kind": kind, **days}


def load(path: Path = PATH) -> dict[str, Prices]:
    """All tickers, by name; `UsageError` if the file is missing or damaged."""
    prices, lines = {}, list(csv.DictReader(gzip.decompress(verified(path, SHA256)).decode().splitlines()))
    for ticker in TICKERS:
        own = [(line["Date"], float(line["Adj Close"])) for line in lines if line["Ticker"] == ticker]
        dates, close = zip(*own, strict=True)
        prices[ticker] = Prices(ticker, np.array(dates, "datetime64[D]"), np.array(close))
    return prices


def log_returns(*tickers: str, standardize: bool = False) -> Returns:
    """Log returns r_t = log p_t - log p_{t-1} of one ticker or more, as `[T, D]` columns.

    Args:
      tickers: one or more of `TICKERS`; columns come in this order. AAPL, IBM and MSFT share 3,269 returns; with GOOG
        2,147, with FB 195.
      standardize: subtract each column's mean and divide by its standard deviation (with 1/T), both over the whole
        span. That looks ahead: right for studying gradients, wrong for judging forecasts.
    Raises:
      UsageError: a ticker is unknown or given twice, or none is given.
    Example:

      >>> returns = log_returns("AAPL", "IBM", "MSFT")
      >>> returns.values.shape, str(returns.dates[0])
      ((3269, 3), '2000-03-02')
    """
    unknown = [ticker for ticker in tickers if ticker not in TICKERS]
    if unknown or not tickers or len(set(tickers)) < len(tickers):
        given = ", ".join(tickers) or "none"
        raise UsageError(f"tickers are {given}; give one or more of {', '.join(TICKERS)}, each once.")
    prices = load()
    shared = prices[tickers[0]].dates
    for ticker in tickers[1:]:
        shared = np.intersect1d(shared, prices[ticker].dates)
    logs = [np.log(prices[t].adjusted_close[np.isin(prices[t].dates, shared)]) for t in tickers]
    values = np.diff(np.stack(logs, axis=-1), axis=0)
    if standardize:
        values = (values - values.mean(axis=0)) / values.std(axis=0)
    return Returns(tuple(tickers), shared[1:], values, standardize)

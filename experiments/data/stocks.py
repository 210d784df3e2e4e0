"""Daily prices of five US stocks, 2000-03-01 to 2013-03-01, as inputs of recurrent networks.

    log return    r_t = log p_t - log p_{t-1}          p: closing price adjusted for splits and dividends [USD]

Origin, licence and what was checked: `experiments/data/README.md`. The file's SHA-256 is verified at every load, so
that a result can name its input exactly.
"""

import csv
import dataclasses
import gzip
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.machine import verified
from experiments.lab.options import UsageError

PATH = Path(__file__).with_name("stocks.csv.gz")
SHA256 = "5abadf99b2d394f920120a27de6f0df129859d71d4cfb0bf661bcc99446ab1fd"
SOURCE = "bokeh_sampledata 2026.1, stocks.csv.gz (Quandl WIKI prices, public domain)"
TICKERS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


@dataclasses.dataclass(frozen=True)
class Prices:
    """One ticker, one entry a trading day, oldest first.

    Attributes:
      ticker: name on the exchange.
      dates: `[N]` days as `datetime64[D]`.
      adjusted_close: `[N]` float64, USD, adjusted for splits and dividends (those after 2013-03-01 included, so the
        level is not the price of the day; ratios of consecutive days are what matters).
    """

    ticker: str
    dates: np.ndarray
    adjusted_close: np.ndarray


@dataclasses.dataclass(frozen=True)
class Returns:
    """Log returns of some tickers on the days that all of them share.

    Attributes:
      tickers: D names, in the order of the columns.
      dates: `[T]` days as `datetime64[D]`; the return of a day is from the shared day before it.
      values: `[T, D]` float64, dimensionless.
      standardized: whether each column has mean 0 and variance 1.
      source, sha256: what to record with a result.
    """

    tickers: tuple[str, ...]
    dates: np.ndarray
    values: np.ndarray
    standardized: bool
    source: str = SOURCE
    sha256: str = SHA256

    @property
    def record(self) -> dict[str, Any]:
        """What `summary["input"]` should say of this input."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "tickers": list(self.tickers),
            "kind": "daily log returns of adjusted close" + (", standardized" if self.standardized else ""),
            "first_date": str(self.dates[0]),
            "last_date": str(self.dates[-1]),
            "days_count": len(self.dates),
        }


def load(path: Path = PATH) -> dict[str, Prices]:
    """All tickers, by name.

    Raises:
      UsageError: the file is missing or damaged.
    """
    lines = list(csv.DictReader(gzip.decompress(verified(path, SHA256)).decode().splitlines()))
    return {ticker: _prices(ticker, [line for line in lines if line["Ticker"] == ticker]) for ticker in TICKERS}


def _prices(ticker: str, lines: list[dict[str, str]]) -> Prices:
    dates = np.array([line["Date"] for line in lines], "datetime64[D]")
    return Prices(ticker, dates, np.array([float(line["Adj Close"]) for line in lines]))


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

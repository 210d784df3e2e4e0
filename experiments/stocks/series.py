"""What is forecast: returns of several companies on the same days, each from its own first day on."""

import dataclasses

import numpy as np

from experiments.data import stocks
from experiments.harness import UsageError

INPUTS = ("stocks", "planted", "walk")

_PLANTED = (0.5, -0.3)  # of the last two returns: a quarter and more of the variance can be known the day before


@dataclasses.dataclass(frozen=True)
class Panel:
    """Log returns; a company that is not yet listed has NaN.

    Attributes:
      names: `C` companies.
      dates: `[N]` days.
      values: `[N, C]` float64, dimensionless.
      starts: `[C]` the first day of each.
    """

    names: tuple[str, ...]
    dates: np.ndarray
    values: np.ndarray
    starts: np.ndarray


def load(name: str, seed: int = 0) -> Panel:
    """The real returns, or a control: as many days and companies of made-up ones, of the same standard deviations.

    Args:
      name: "stocks"; "planted", x_t = 0.5 x_{t-1} - 0.3 x_{t-2} + noise; "walk", whose returns are noise alone.
      seed: of the controls.
    """
    real = _real()
    if name == "stocks":
        return real
    noise = np.random.default_rng(seed).standard_normal(real.values.shape)
    if name == "planted":
        for t in range(2, len(noise)):
            noise[t] += _PLANTED[0] * noise[t - 1] + _PLANTED[1] * noise[t - 2]
    scaled = noise / noise.std(axis=0) * np.nanstd(real.values, axis=0)
    return dataclasses.replace(real, values=np.where(np.isnan(real.values), np.nan, scaled))


def _real() -> Panel:
    prices = stocks.load()
    dates = max((p.dates for p in prices.values()), key=len)
    values = np.full((len(dates) - 1, len(prices)), np.nan)
    for column, p in enumerate(prices.values()):
        if not np.array_equal(p.dates, dates[-len(p.dates) :]):
            raise UsageError(f"{p.ticker} misses days that others have; this experiment needs the file as it is.")
        values[len(dates) - len(p.dates) :, column] = np.diff(np.log(p.adjusted_close))
    return Panel(tuple(prices), dates[1:], values, np.isnan(values).sum(axis=0))

"""Is one forecast better than another, or lucky? Both tests take the daily differences of their losses."""

from typing import NamedTuple

import numpy as np

RESAMPLES, BLOCK_DAYS = 2000, 21


class Compared(NamedTuple):
    """A model against persistence.

    Attributes:
      mean: of the daily differences, model minus persistence; below zero the model is better.
      statistic: Diebold and Mariano's, about N(0, 1) if the two are equally good.
      low, high: 95% interval of the mean by the moving-block bootstrap.
    """

    mean: float
    statistic: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What both tests say together, at the level of 5%."""
        if self.statistic < -1.96 and self.high < 0:
            return "better"
        return "worse" if self.statistic > 1.96 and self.low > 0 else "no difference shown"


def compare(differences: np.ndarray, seed: int = 0) -> Compared:
    """Tests whether daily differences of loss have mean zero.

        DM = d̄ / sqrt(V / n)        V = γ_0 + 2 Σ_{k=1..m} (1 - k/(m+1)) γ_k,   m = floor(4 (n/100)^(2/9))

    Args:
      differences: `[n]` in order of time.
      seed: of the bootstrap.
    Returns:
      A `Compared`; all zero where the two losses are the same.

    Reference: Diebold and Mariano, Comparing predictive accuracy, J. Business & Economic Statistics 13 (1995); Newey
    and West, Econometrica 55 (1987), with a lag of the order in their Review of Economic Studies 61 (1994); Künsch, The
    jackknife and the bootstrap for general stationary observations, Annals of Statistics 17 (1989).
    """
    d = np.asarray(differences, np.float64)
    n = len(d)
    if not d.any():
        return Compared(0.0, 0.0, 0.0, 0.0)
    centred, lags = d - d.mean(), int(4 * (n / 100) ** (2 / 9))
    variance = centred @ centred / n
    for k in range(1, lags + 1):
        variance += 2 * (1 - k / (lags + 1)) * (centred[k:] @ centred[:-k]) / n
    block = min(BLOCK_DAYS, n)
    starts = np.random.default_rng(seed).integers(0, n - block + 1, (RESAMPLES, -(-n // block)))
    days = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :n]
    low, high = np.quantile(d[days].mean(axis=1), (0.025, 0.975))
    return Compared(float(d.mean()), float(d.mean() / np.sqrt(variance / n)), float(low), float(high))

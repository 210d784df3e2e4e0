"""Walking forward: what each fold may know, and its numbers for standardising.

| start ... trained on ... cut | learning curve ... first | forecast ... end |      then the next fold begins at `end`
"""

from typing import NamedTuple

import numpy as np

from experiments.stocks.series import Panel

CURVE_DAYS = 21
"""Days before a fold's first that no weight is fitted to; the learning curves are measured on them."""

LEAST_DAYS = 40
"""A company with fewer returns to train on is not forecast in the fold."""


class Folds(NamedTuple):
    """F folds; all arrays come from days before `cut` alone.

    Attributes:
      cut, first, end: `[F]` days.
      mean, std: `[F, C]` of the returns before `cut`; 0 and 1 where a company is not served.
      served: `[F, C]` whether the company is trained on and forecast.
    """

    cut: np.ndarray
    first: np.ndarray
    end: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    served: np.ndarray


def walk_forward(panel: Panel, count: int, days: int, steps: int) -> Folds:
    """The last `count` times `days` days, a fold each.

    Args:
      panel: what is forecast.
      count: F.
      days: test days of a fold.
      steps: T, what a window needs of a company's past.
    """
    total = len(panel.dates)
    first = total - days * np.arange(count, 0, -1)
    cut = first - CURVE_DAYS
    served = cut[:, None] - panel.starts >= max(LEAST_DAYS, steps + 1)
    mean, std = np.zeros(served.shape), np.ones(served.shape)
    for fold, company in np.argwhere(served):
        past = panel.values[panel.starts[company] : cut[fold], company]
        mean[fold, company], std[fold, company] = past.mean(), past.std()
    return Folds(cut, first, first + days, mean, std, served)


def least_days(panel: Panel, steps: int) -> int:
    """How many days have to lie before the first fold, so that some company is served."""
    return int(panel.starts.min()) + max(LEAST_DAYS, steps + 1) + CURVE_DAYS

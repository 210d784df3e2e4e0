"""Forecasts without a network: `[N, C]`, NaN where no fold asks."""

from collections.abc import Callable

import numpy as np

from experiments.stocks.folds import Folds
from experiments.stocks.series import Panel

ORDER = 5
"""How many past returns AR sees: a week."""

AVERAGED = 20
"""How many past returns the moving average is over: a month."""


def persistence(past: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Tomorrow's price is today's."""
    return np.zeros(len(known))


def drift(past: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Tomorrow's return is the mean of what was trained on."""
    return np.full(len(known), past.mean())


def moving_average(past: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Tomorrow's return is the mean of the last month's."""
    return known[:, -AVERAGED:].mean(axis=1)


def autoregression(past: np.ndarray, known: np.ndarray) -> np.ndarray:
    """r_t = a + Σ_i b_i r_{t-i}, by least squares on what was trained on."""
    design = np.stack([past[ORDER - i : len(past) - i] for i in range(1, ORDER + 1)], axis=1)
    design = np.concatenate([np.ones((len(design), 1)), design], axis=1)
    weights, *_ = np.linalg.lstsq(design, past[ORDER:], rcond=None)
    return weights[0] + known[:, : -ORDER - 1 : -1] @ weights[1:]


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "persistence": persistence,
    "drift": drift,
    "moving average": moving_average,
    "linear AR": autoregression,
}


def forecasts(name: str, panel: Panel, folds: Folds) -> np.ndarray:
    """`[N, C]`: every day of every fold, from the days before it."""
    said = np.full(panel.values.shape, np.nan)
    for fold, company in np.argwhere(folds.served):
        days = np.arange(int(folds.first[fold]), int(folds.end[fold]))
        series = panel.values[:, company]
        past = series[panel.starts[company] : folds.cut[fold]]
        known = series[days[:, None] + np.arange(-AVERAGED, 0)]  # ends the day before
        said[days, company] = BASELINES[name](past, known)
    return said

"""Walking forward: what is forecast, what each fold may know, forecasts without a network, and which are better.

| start ... trained on ... cut | learning curve ... first | forecast ... |      then the next fold's forecast begins
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.data import stocks
from experiments.lab import UsageError

INPUTS = ("stocks", "planted", "walk")
PLANTED = (0.5, -0.3)  # of the last two returns: a quarter and more of the variance can be known the day before

CURVE_DAYS = 21  # before a fold's first; no weight is fitted to them, learning curves are measured on them
LEAST_DAYS = 40  # a company with fewer returns to train on is not forecast in the fold
ORDER, AVERAGED = 5, 20  # past returns that AR sees, a week, and that the moving average is over, a month
RESAMPLES, BLOCK_DAYS = 2000, 21  # of the bootstrap


class Panel(NamedTuple):
    """Log returns of C companies on the same N days; a company that is not yet listed has NaN."""

    names: tuple[str, ...]  # C
    dates: np.ndarray  # [N]
    values: np.ndarray  # [N, C] float64, dimensionless
    starts: np.ndarray  # [C] the first day of each


def load(name: str, seed: int = 0) -> Panel:
    """The real returns, or a control: as many days and companies of made-up ones, of the same standard deviations.

    Args:
      name: "stocks"; "planted", x_t = 0.5 x_{t-1} - 0.3 x_{t-2} + noise; "walk", whose returns are noise alone.
      seed: of the controls.
    """
    prices = stocks.load()
    dates = max((p.dates for p in prices.values()), key=len)
    values = np.full((len(dates) - 1, len(prices)), np.nan)
    for column, p in enumerate(prices.values()):
        if not np.array_equal(p.dates, dates[-len(p.dates) :]):
            raise UsageError(f"{p.ticker} misses days that others have; this experiment needs the file as it is.")
        values[len(dates) - len(p.dates) :, column] = np.diff(np.log(p.adjusted_close))
    real = Panel(tuple(prices), dates[1:], values, np.isnan(values).sum(axis=0))
    if name == "stocks":
        return real
    noise = np.random.default_rng(seed).standard_normal(values.shape)
    if name == "planted":
        for t in range(2, len(noise)):
            noise[t] += PLANTED[0] * noise[t - 1] + PLANTED[1] * noise[t - 2]
    scaled = noise / noise.std(axis=0) * np.nanstd(values, axis=0)
    return real._replace(values=np.where(np.isnan(values), np.nan, scaled))


class Folds(NamedTuple):
    """F folds; all but `truth` comes from days before `cut` alone."""

    cut: np.ndarray  # [F] days
    first: np.ndarray  # [F]
    mean: np.ndarray  # [F, C] of the returns before `cut`; 0 where a company is not served
    std: np.ndarray  # [F, C] likewise; 1 where a company is not served
    served: np.ndarray  # [F, C] whether the company is trained on and forecast
    truth: np.ndarray  # [F, days, C] what is forecast; NaN where a company is not served


def walk_forward(panel: Panel, count: int, days: int, steps: int) -> Folds:
    """The last `count` times `days` days, one fold each; `steps` is T, what a window needs of a company's past."""
    first = len(panel.dates) - days * np.arange(count, 0, -1)
    cut = first - CURVE_DAYS
    served = cut[:, None] - panel.starts >= max(LEAST_DAYS, steps + 1)
    mean, std = np.zeros(served.shape), np.ones(served.shape)
    for fold, company in np.argwhere(served):
        past = panel.values[panel.starts[company] : cut[fold], company]
        mean[fold, company], std[fold, company] = past.mean(), past.std()
    truth = np.where(served[:, None], panel.values[first[:, None] + np.arange(days)], np.nan)
    return Folds(cut, first, mean, std, served, truth)


def least_days(panel: Panel, steps: int) -> int:
    """How many days have to lie before the first fold, so that some company is served."""
    return int(panel.starts.min()) + max(LEAST_DAYS, steps + 1) + CURVE_DAYS


def autoregression(past: np.ndarray, known: np.ndarray) -> np.ndarray:
    """r_t = a + Σ_i b_i r_{t-i}, by least squares on what was trained on."""
    design = np.stack([past[ORDER - i : len(past) - i] for i in range(1, ORDER + 1)], axis=1)
    design = np.concatenate([np.ones((len(design), 1)), design], axis=1)
    weights, *_ = np.linalg.lstsq(design, past[ORDER:], rcond=None)
    return weights[0] + known[:, : -ORDER - 1 : -1] @ weights[1:]


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "persistence": lambda past, known: np.zeros(len(known)),
    "drift": lambda past, known: np.full(len(known), past.mean()),
    "moving average": lambda past, known: known.mean(axis=1),
    "linear AR": autoregression,
}
"""Each takes the returns before the cut and, for each day, those of the `AVERAGED` days before it."""


def forecasts(name: str, panel: Panel, folds: Folds) -> np.ndarray:
    """`[F, days, C]`: a baseline's returns, each from the days before it; NaN where a company is not served."""
    said = np.full(folds.truth.shape, np.nan)
    for fold, company in np.argwhere(folds.served):
        series = panel.values[:, company]
        days = folds.first[fold] + np.arange(len(folds.truth[0]))
        known = series[days[:, None] + np.arange(-AVERAGED, 0)]  # ends the day before
        said[fold, :, company] = BASELINES[name](series[panel.starts[company] : folds.cut[fold]], known)
    return said


def losses(folds: Folds, said: np.ndarray | float) -> np.ndarray:
    """Squared errors of forecasts `[..., F, days, C]` over the variance of the company's past."""
    return ((said - folds.truth) / folds.std[:, None]) ** 2


def by_fold(folds: Folds, said: np.ndarray) -> np.ndarray:
    """`[F, C]`: root mean squared error over persistence's, over days and seeds; NaN where a company is not served."""
    return np.sqrt(losses(folds, said).mean(axis=(0, 2)) / losses(folds, 0.0).mean(axis=1))


def lines_of(folds: Folds, named: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A line for each model, `[seeds, F, days, C]` forecasts: its errors, and whether it beats persistence."""
    base = np.nanmean(losses(folds, 0.0), axis=-1).ravel()  # [all days]
    lines = []
    for name, said in named.items():
        daily = np.nanmean(losses(folds, said), axis=-1).reshape(len(said), -1)
        counts = ~np.isnan(said) & (said != 0) & (folds.truth != 0)
        right = np.sign(said) == np.sign(folds.truth)
        line = {
            "model": name,
            "seeds": len(said),
            "rmse_log_return": float(np.sqrt(np.nanmean((said - folds.truth) ** 2))),
            "loss": float(daily.mean()),
            "gain_over_persistence": 1 - float(daily.mean() / base.mean()),
            "gain_by_seed": (1 - daily.mean(axis=1) / base.mean()).tolist(),
            "right_direction_share": float(right[counts].mean()) if counts.any() else None,
            **compare(daily.mean(axis=0) - base),
        }
        lines.append(line | ({"verdict": "–"} if name == "persistence" else {}))
    return lines


def compare(differences: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Tests whether daily differences of loss, model minus persistence, have mean zero.

        DM = d̄ / sqrt(V / n)        V = γ_0 + 2 Σ_{k=1..m} (1 - k/(m+1)) γ_k,   m = floor(4 (n/100)^(2/9))

    Args:
      differences: `[n]` in order of time.
      seed: of the bootstrap.
    Returns:
      `difference`, the mean, below zero where the model is better; `difference_low`, `difference_high`, its 95%
      interval by the moving-block bootstrap; `diebold_mariano`, about N(0, 1) if the two are equally good; `verdict`,
      what both tests say together at the level of 5%. All numbers are 0 if the losses are equal.

    Reference: Diebold and Mariano, Comparing predictive accuracy, J. Business & Economic Statistics 13 (1995); Newey
    and West, Econometrica 55 (1987), with a lag of the order in their Review of Economic Studies 61 (1994); Künsch, The
    jackknife and the bootstrap for general stationary observations, Annals of Statistics 17 (1989).
    """
    d = np.asarray(differences, np.float64)
    n, statistic, low, high = len(d), 0.0, 0.0, 0.0
    if d.any():
        centred, lags = d - d.mean(), int(4 * (n / 100) ** (2 / 9))
        variance = centred @ centred / n
        for k in range(1, lags + 1):
            variance += 2 * (1 - k / (lags + 1)) * (centred[k:] @ centred[:-k]) / n
        statistic = d.mean() / np.sqrt(variance / n)
        block = min(BLOCK_DAYS, n)
        starts = np.random.default_rng(seed).integers(0, n - block + 1, (RESAMPLES, -(-n // block)))
        days = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :n]
        low, high = np.quantile(d[days].mean(axis=1), (0.025, 0.975))
    better, worse = statistic < -1.96 and high < 0, statistic > 1.96 and low > 0
    return {
        "difference": float(d.mean()),
        "difference_low": float(low),
        "difference_high": float(high),
        "diebold_mariano": float(statistic),
        "verdict": "better" if better else "worse" if worse else "no difference shown",
    }

"""From forecasts to losses, and to the one table."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.stocks.baselines import BASELINES, forecasts
from experiments.stocks.folds import Folds
from experiments.stocks.series import Panel
from experiments.stocks.significance import compare

Forecasts = Mapping[str, np.ndarray]
"""Name to `[seeds, N, C]`."""


def all_forecasts(panel: Panel, folds: Folds, networks: Forecasts) -> dict[str, np.ndarray]:
    """Those without a network, each as of one seed, and the networks'."""
    return {name: forecasts(name, panel, folds)[None] for name in BASELINES} | dict(networks)


def losses(panel: Panel, folds: Folds, said: np.ndarray) -> np.ndarray:
    """`[..., N, C]`: squared errors over the variance of the company's past; NaN where no fold asks.

    Args:
      said: `[..., N, C]` forecasts.
    """
    scale = np.full(panel.values.shape, np.nan)
    for fold, (first, end) in enumerate(zip(folds.first, folds.end, strict=True)):
        scale[first:end] = np.where(folds.served[fold], folds.std[fold], np.nan)
    return ((said - panel.values) / scale) ** 2


def lines_of(panel: Panel, folds: Folds, named: Forecasts) -> list[dict[str, Any]]:
    """A line for each model: its errors, and whether it beats persistence."""
    asked = slice(folds.first[0], folds.end[-1])
    base = np.nanmean(losses(panel, folds, named["persistence"])[0, asked], axis=-1)  # [days]
    truth = panel.values[asked]
    lines = []
    for name, said in named.items():
        daily = np.nanmean(losses(panel, folds, said)[:, asked], axis=-1)  # [seeds, days]
        own = said[:, asked]
        found = compare(daily.mean(axis=0) - base)
        counts = ~np.isnan(own) & (own != 0) & (truth != 0)
        lines.append(
            {
                "model": name,
                "seeds": len(said),
                "rmse_log_return": float(np.sqrt(np.nanmean((own - truth) ** 2))),
                "loss": float(daily.mean()),
                "gain_over_persistence": 1 - float(daily.mean() / base.mean()),
                "gain_by_seed": (1 - daily.mean(axis=1) / base.mean()).tolist(),
                "right_direction_share": float((np.sign(own) == np.sign(truth))[counts].mean())
                if counts.any()
                else None,
                "difference": found.mean,
                "difference_low": found.low,
                "difference_high": found.high,
                "diebold_mariano": found.statistic,
                "verdict": "–" if name == "persistence" else found.verdict,
            }
        )
    return lines


def by_fold(panel: Panel, folds: Folds, said: np.ndarray) -> np.ndarray:
    """`[F, C]`: root mean squared error over persistence's, over days and seeds; NaN where a company is not served."""
    own, base = losses(panel, folds, said), losses(panel, folds, np.zeros(panel.values.shape))
    ratios = np.full(folds.served.shape, np.nan)
    for fold, (first, end) in enumerate(zip(folds.first, folds.end, strict=True)):
        mean = own[:, first:end].mean(axis=(0, 1)), base[first:end].mean(axis=0)
        ratios[fold] = np.sqrt(mean[0] / mean[1])
    return ratios

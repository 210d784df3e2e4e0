"""One logistic curve of one number, by least squares: how much of success does that number explain?"""

from typing import Any

import numpy as np


def logistic(x: np.ndarray, centre: Any, width: Any) -> np.ndarray:
    """Success at x, one for x far above the centre."""
    return 1 / (1 + np.exp(np.clip(-(x - centre) / width, -500, 500)))


def fit(x: np.ndarray, success: np.ndarray) -> dict[str, float]:
    """The best centre and width on a grid, refined twice, and R²: the share of the variance that the curve explains."""
    low, high = float(x.min()), float(x.max())
    span = max(high - low, 1e-9)
    centres, widths = np.linspace(low, high, 81), np.geomspace(span / 400, 4 * span, 61)
    best = (np.inf, low, span)
    for _ in range(3):
        curves = logistic(x[None, None], centres[:, None, None], widths[None, :, None])
        errors = ((curves - success) ** 2).mean(-1)
        i, j = np.unravel_index(errors.argmin(), errors.shape)
        best = min(best, (float(errors[i, j]), float(centres[i]), float(widths[j])))
        step = centres[1] - centres[0]
        centres = np.linspace(best[1] - step, best[1] + step, 41)
        widths = np.geomspace(best[2] / 1.2, best[2] * 1.2, 41)
    error, centre, width = best
    variance = float(success.var())
    return {
        "centre": centre,
        "width": width,
        "rms_residual": float(np.sqrt(error)),
        "r_squared": 1 - error / variance if variance > 0 else float("nan"),
    }

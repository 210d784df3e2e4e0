"""Two models on the same text: by how many bits per character they differ, and how certain that is.

    d_t = bits_t(other) - bits_t(model)        standard error of its mean: s_d / √50, s_d the spread over 50 stretches

What is hard for one model is hard for the other, so the difference is known better than either mean. Neighbouring
characters are not independent; stretches of about 2,000 nearly are.

"Well under" was fixed before the model was scored: at least `LEAST_SHARE` fewer bits per character, and a difference of
more than `LEAST_ERRORS` of its standard errors.
"""

from typing import Any

import numpy as np

STRETCHES = 50
LEAST_SHARE, LEAST_ERRORS = 0.05, 5.0


def by_stretch(bits: np.ndarray) -> np.ndarray:
    """Means of 50 stretches, of equal length to one character: `[N]` to `[50]`; empty if N is below 50."""
    if len(bits) < STRETCHES:
        return np.zeros(0)
    return np.array([stretch.mean() for stretch in np.array_split(np.asarray(bits, np.float64), STRETCHES)])


def standard_error(stretches: np.ndarray) -> float | None:
    """Of their mean; None where there are none."""
    return float(stretches.std(ddof=1) / np.sqrt(len(stretches))) if len(stretches) else None


def compared(model: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """How far `model` lies below `other`, both `[50]` from `by_stretch` of the same text."""
    gain, error = float((other - model).mean()), standard_error(other - model)
    share = gain / float(other.mean())
    certain = error is not None and gain > LEAST_ERRORS * error
    under = certain and share >= LEAST_SHARE
    return {"bits_fewer": gain, "share_fewer": share, "standard_error": error, "well_under": under}

"""A time counts only for the same numbers: contestants are compared before they are timed."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike


class Unequal(ValueError):
    """A contestant's numbers are not those of the reference, so its time would mean nothing."""


def errors(got: Mapping[str, ArrayLike], expected: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Largest difference of each array, relative to the largest entry expected there; inf for another shape.

    Where either has a NaN, the error is NaN, which is no error that `check` lets pass.

    Arrays that `got` does not have are left out: a system without a certain bias has no gradient for it.
    """
    found = {}
    for name, values in got.items():
        a, b = np.asarray(values, np.float64), np.asarray(expected[name], np.float64)
        if a.shape != b.shape:
            found[name] = np.inf
        elif a.size:
            scale = np.abs(b).max()
            difference = np.abs(a - b).max()
            found[name] = float(difference / scale) if scale else float(np.inf if difference else 0.0)
    return found


def check(who: str, got: Mapping[str, ArrayLike], expected: Mapping[str, ArrayLike], tolerance: float) -> float:
    """The largest error over all arrays.

    Raises:
      Unequal: it is above `tolerance`, or there is nothing to compare; the message names each array concerned.
    """
    found = errors(got, expected)
    if not found:
        raise Unequal(f"{who} gives nothing to compare.")
    wrong = {name: error for name, error in found.items() if not error <= tolerance}
    if wrong:
        listed = ", ".join(f"{name} by {error:.1e}" for name, error in sorted(wrong.items()))
        raise Unequal(f"{who} differs from the reference, relative to the largest entry: {listed} (> {tolerance:.0e}).")
    return max(found.values())

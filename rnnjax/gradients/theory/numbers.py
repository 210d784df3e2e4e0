"""What the closed forms share: numbers in, numbers out, and Gaussian means by quadrature."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

Numbers = float | np.ndarray
"""A float where all that came in were numbers, else a float64 array."""


def checked(name: str, values: ArrayLike, *, above: float = -np.inf, below: float = np.inf, closed: bool = False):
    """`values` as float64, all of them in the interval; `closed` counts the lower end in.

    Raises:
      ValueError: one of them is not a number, or lies outside.
    """
    array = np.asarray(values, np.float64)
    inside = ((array >= above) if closed else (array > above)) & (array < below)
    if not inside.all():
        wrong = array[~inside].flat[0]
        bounds = f"{above:g} {'<=' if closed else '<'} {name} < {below:g}"
        raise ValueError(f"{name} is {wrong:g}; this closed form is for {bounds}.")
    return array


def numbers(array: np.ndarray) -> Numbers:
    """A 0-d array as a float."""
    array = np.asarray(array)
    return float(array) if array.ndim == 0 else array


def gaussian_mean(function: Callable[[np.ndarray], np.ndarray], variance: np.ndarray) -> np.ndarray:
    """E[f(√v z)], z ~ N(0, 1), for an f that varies on the scale 1 and grows no faster than a power.

    The trapezoidal rule in s, z = sinh(s)/√(1 + v): it converges geometrically for an analytic f, and the nodes lie
    close where f changes and reach as far as the Gaussian does, for small variances and for 10^12 alike.

    Args:
      function: elementwise.
      variance: v, any shape.
    Returns:
      The shape of `variance`.
    """
    variance = np.asarray(variance, np.float64)[..., None]
    width = 1 / np.sqrt(1 + variance)
    reach = np.arcsinh(9 / width)  # e^(-81/2) is 3e-18
    s = reach * np.linspace(-1, 1, 801)
    z = width * np.sinh(s)
    weights = np.exp(-(z**2) / 2) * np.cosh(s)
    return (weights * function(np.sqrt(variance) * z)).sum(-1) / weights.sum(-1)


def bisect(function: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where an elementwise function goes from positive at `low` to negative at `high`, to the last bit or so."""
    low, high = np.array(low, np.float64), np.array(high, np.float64)
    for _ in range(200):
        middle = (low + high) / 2
        positive = function(middle) > 0
        low, high = np.where(positive, middle, low), np.where(positive, high, middle)
    return (low + high) / 2


def log_sech_squared(x: np.ndarray) -> np.ndarray:
    """log(1 - tanh²(x)), the log of tanh's slope: 2 (log 2 - |x| - log(1 + e^(-2|x|))), without cancellation."""
    x = np.abs(x)
    return 2 * (np.log(2) - x - np.log1p(np.exp(-2 * x)))

"""Helpers of the closed forms: conversion of numbers, Gaussian means by quadrature, and bisection."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Numbers = Any
"""A float if all arguments are numbers, else a float64 array."""


def checked(name: str, values: ArrayLike, *, above: float = -np.inf, below: float = np.inf, closed: bool = False):
    """`values` as float64, after checking that all are in the interval; `closed` includes the lower end.

    Raises:
      ValueError: a value is NaN or outside the interval.
    """
    array = np.asarray(values, np.float64)
    inside = ((array >= above) if closed else (array > above)) & (array < below)
    if not inside.all():
        wrong = array[~inside].flat[0]
        bounds = f"{above:g} {'<=' if closed else '<'} {name} < {below:g}"
        raise ValueError(f"{name} is {wrong:g}; this closed form is for {bounds}.")
    return array


def numbers(array: np.ndarray) -> Numbers:
    """Converts a 0-d array to a float."""
    array = np.asarray(array)
    return float(array) if array.ndim == 0 else array


def gaussian_mean(function: Callable[[np.ndarray], np.ndarray], variance: np.ndarray) -> np.ndarray:
    """E[f(√v z)], z ~ N(0, 1), for an f that varies on the scale 1 and grows no faster than a power.

    The trapezoidal rule in s, z = sinh(s)/√(1 + v), converges geometrically for an analytic f. Its nodes are dense
    where f varies and cover the whole Gaussian, for variances from very small to 10^12.

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
    """The root of an elementwise function that is positive at `low` and negative at `high`, almost to the last bit."""
    low, high = np.array(low, np.float64), np.array(high, np.float64)
    for _ in range(200):
        middle = (low + high) / 2
        positive = function(middle) > 0
        low, high = np.where(positive, middle, low), np.where(positive, high, middle)
    return (low + high) / 2


def log_sech_squared(x: np.ndarray) -> np.ndarray:
    """log(1 - tanh²(x)), the log derivative of tanh: 2 (log 2 - |x| - log(1 + e^(-2|x|))), without cancellation."""
    x = np.abs(x)
    return 2 * (np.log(2) - x - np.log1p(np.exp(-2 * x)))

"""The Lyapunov exponents of a wide tanh network, autonomous or driven by noise.

    h_t = tanh(x_t + h_{t-1} W_h),   W_h ~ N(0, g²/H),   x_t ~ N(0, σ²) independent in each unit and step

For large H the pre-activations are Gaussian and, in discrete time, independent from step to step. Their variance C
solves C = g² E[tanh²(√C z)] + σ².

References: Sompolinsky, Crisanti and Sommers, Phys. Rev. Lett. 61 (1988), 259; with input: Molgedey, Schuchhardt and
Schuster, Phys. Rev. Lett. 69 (1992), 3717.
"""

import numpy as np
from numpy.typing import ArrayLike

from rnnjax.gradients.theory.numbers import Numbers, bisect, checked, gaussian_mean, log_sech_squared, numbers


def tanh_variance(gain: ArrayLike, input_variance: ArrayLike = 0.0) -> Numbers:
    """C, the stationary variance of a unit's pre-activation: C = g² E[tanh²(√C z)] + σ².

    Args:
      gain: g > 0; numbers or an array.
      input_variance: σ² >= 0, of x_t W_x + b over units and steps; broadcasts against `gain`.
    Returns:
      C. For an autonomous network (σ² = 0), the nonzero solution, which exists for g > 1; else 0.

    Example:

      >>> round(tanh_variance(1.0, 1.0), 4), tanh_variance(0.9)
      (1.4639, 0.0)
    """
    return numbers(_variance(*_checked(gain, input_variance)))


def tanh_lyapunov_exponent(gain: ArrayLike, input_variance: ArrayLike = 0.0) -> Numbers:
    """λ₁ = ½ log(g² E[φ'(√C z)²]), φ' = 1 - tanh²: the leading exponent, forwards and backwards.

    Args:
      As for `tanh_variance`.
    Returns:
      Nats per step. For an autonomous network with g <= 1 it is log g, the decay rate around the zero state.

    Example: the published value for g = 2 is 0.15472.

      >>> round(tanh_lyapunov_exponent(2.0), 5), round(tanh_lyapunov_exponent(2.0, 1.0), 5)
      (0.15472, 0.04598)
    """
    gain, input_variance = _checked(gain, input_variance)
    return numbers(np.log(gain) + np.log(_mean_squared_slope(_variance(gain, input_variance))) / 2)


def tanh_mean_exponent(gain: ArrayLike, input_variance: ArrayLike = 0.0) -> Numbers:
    """The mean of all H exponents, log|det J|/H = log g - ½ + E[log φ'(√C z)].

    Args:
      As for `tanh_variance`.
    Returns:
      Nats per step. The first two terms are log|det W_h|/H of a large Gaussian matrix.

    Example: the published measurement for N = 4096 and g = 2 is -1.15055.

      >>> round(tanh_mean_exponent(2.0), 4)
      -1.149
    """
    gain, input_variance = _checked(gain, input_variance)
    return numbers(np.log(gain) - 0.5 + gaussian_mean(log_sech_squared, _variance(gain, input_variance)))


def critical_gain(input_variance: ArrayLike = 0.0) -> Numbers:
    """The gain at which λ₁ = 0, the edge of chaos of a driven network; it is 1 only without input.

    On the edge g² E[φ'²] = 1, so gain and input variance are functions of C: σ² = C - E[tanh²]/E[φ'²].

    Args:
      input_variance: σ² >= 0, numbers or an array.

    Example:

      >>> [round(critical_gain(variance), 4) for variance in (0.0, 0.01, 1.0)]
      [1.0, 1.1934, 1.8556]
    """
    input_variance = checked("input_variance", input_variance, above=0, closed=True)

    def missing(variance: np.ndarray) -> np.ndarray:
        return input_variance - (variance - _mean_squared_activity(variance) / _mean_squared_slope(variance))

    # σ² >= C - 0.75 √(2πC) - ..., so the edge is below this
    variance = bisect(missing, np.zeros_like(input_variance), 2 * input_variance + 20)
    variance = np.where(input_variance == 0, 0, variance)
    return numbers(_mean_squared_slope(variance) ** -0.5)


def _checked(gain: ArrayLike, input_variance: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    gain = checked("gain", gain, above=0)
    gain, input_variance = np.broadcast_arrays(gain, checked("input_variance", input_variance, above=0, closed=True))
    return gain, input_variance


def _variance(gain: np.ndarray, input_variance: np.ndarray) -> np.ndarray:
    def excess(variance: np.ndarray) -> np.ndarray:
        return gain**2 * _mean_squared_activity(variance) + input_variance - variance

    # concave in C: positive below the nonzero solution and negative above it
    found = bisect(excess, np.zeros_like(gain), gain**2 + input_variance)
    return np.where((input_variance == 0) & (gain <= 1), 0, found)


def _mean_squared_activity(variance: np.ndarray) -> np.ndarray:
    return gaussian_mean(lambda x: np.tanh(x) ** 2, variance)


def _mean_squared_slope(variance: np.ndarray) -> np.ndarray:
    return gaussian_mean(lambda x: np.exp(2 * log_sech_squared(x)), variance)

"""What closed forms say about each row, and where they say nothing."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rnnjax.gradients import theory


class Prediction(NamedTuple):
    """Growth in nats at each step, J_1 .. J_T, and where it comes from. `exact` says that it is no approximation."""

    rates: np.ndarray  # [T]
    source: str
    exact: bool

    def over(self, length: int) -> float:
        """Mean rate between step 1 and step `length`: that of J_2 .. J_length."""
        return float(self.rates[1:length].mean())

    def by_lag(self) -> np.ndarray:
        """Log gradient at lags 0..T within the longest sequence, relative to its end. `[T + 1]` nats."""
        return np.concatenate([[0.0], np.cumsum(self.rates[::-1])])


def predict(cell: str, kind: str, scale: float, xs: np.ndarray, log_spectral_radius: np.ndarray) -> Prediction | None:
    """The closed form for a built-in cell, or None (LSTM, GRU, a user's own cell).

    Args:
      xs: the input `[T, D]`; W1 ~ N(0, 1/D), so the units' drive has variance |x_t|²/D.
      log_spectral_radius: of each seed's W2; the linear cell with a Gaussian W2 is predicted from the drawn matrices.
    """
    steps = len(xs)
    if cell == "linear" and kind == "orthogonal":
        return Prediction(np.full(steps, np.log(scale)), "log scale", True)
    if cell == "linear":
        return Prediction(np.full(steps, log_spectral_radius.mean()), "mean of log spectral radius (long lags)", False)
    if cell == "tanh":
        drive = jnp.asarray((xs**2).mean(axis=-1))
        return Prediction(np.asarray(theory.tanh_mean_field_rates(scale, drive)), "mean field, large H", False)
    if cell == "relu":
        return Prediction(np.full(steps, float(theory.relu_mean_field_rate(scale))), "mean field, large H", False)
    return None

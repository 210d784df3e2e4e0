"""The lecture's own case: one unit, no input weight to speak of, W2 = 0.5 or 2, fifty steps back."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

import rnnjax

LAG = 50  # steps; an unrolled network of 51 copies has 50 products W2 between its first and its last


def scalar_case(w2: float, lag: int = LAG) -> dict[str, Any]:
    """dh_T/dh_{T-lag} of h_t = w2 h_{t-1} + x_t, as a plain number and in log form, beside w2^lag."""
    cell = rnnjax.Elman(1, activation="linear")
    params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.full((1, 1), w2), b=jnp.zeros(1))
    xs = jnp.ones((lag, 1))

    def last(ys):
        return ys[-1, 0]

    plain = rnnjax.gradients.adjoint_by_perturbation(cell, params, xs, last)
    logs = rnnjax.gradients.adjoint(cell, params, xs, last).log_norm
    return {
        "w2": w2,
        "lag_steps": lag,
        "gradient": float(plain[0, 0]),
        "closed_form": w2**lag,
        "log_gradient_nats": float(logs[0]),
        "log_closed_form_nats": lag * math.log(w2),
    }


def scalar_curve(w2: float, lag: int = LAG) -> np.ndarray:
    """log10 w2^k at lags k = 0..lag."""
    return np.arange(lag + 1) * math.log10(w2)

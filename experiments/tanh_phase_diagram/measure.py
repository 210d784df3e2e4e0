"""Leading, mean and all exponents of tanh networks without input."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax
from experiments.tanh_phase_diagram.network import GainParams, GainTanh, networks
from rnnjax import gradients


def leading_and_mean(
    hidden_size: int, gains: tuple[float, ...], steps: int, transient: int, seed: int
) -> dict[str, list[float]]:
    """One matrix at every gain.

    Returns:
      Lists over gains, nats a step: `leading`, its split-half `leading_error`, `mean` = log g + log|det W|/H + the
      mean of log φ' over units and steps. Also `log_radius`, log of g times the largest absolute eigenvalue of W.
    """
    cell, params, start = networks(hidden_size, gains, seed)
    leading, error, log_slope = _run(cell, params, start, steps, transient)
    w_h = np.asarray(params.w_h)
    log_det = float(np.linalg.slogdet(w_h)[1]) / hidden_size
    log_radius = float(np.log(np.abs(np.linalg.eigvals(w_h)).max()))
    return {
        "leading": np.asarray(leading).tolist(),
        "leading_error": np.asarray(error).tolist(),
        "mean": (np.log(gains) + log_det + np.asarray(log_slope)).tolist(),
        "log_radius": (np.log(gains) + log_radius).tolist(),
    }


def whole_spectrum(hidden_size: int, gain: float, steps: int, transient: int, seed: int) -> dict[str, Any]:
    """All H exponents at one gain, and what follows from them.

    `mean` is their mean; `mean_by_determinant` is that of log|det J_t|/H over the same steps, which it has to be.
    """
    cell, params, start = networks(hidden_size, (gain,), seed)
    found, log_slope = _spectrum(cell, params, start, steps, transient)
    exponents = np.asarray(found.exponents[0])
    log_det = float(np.linalg.slogdet(np.asarray(params.w_h))[1]) / hidden_size
    return {
        "exponents": exponents,
        "leading": float(exponents[0]),
        "mean": float(found.mean[0]),
        "mean_by_determinant": float(np.log(gain)) + log_det + float(log_slope[0]),
        "survivors": int(found.survivors[0]),
        "dimension_over_size": float(found.dimension[0]) / hidden_size,
        "entropy_rate_over_size": float(found.entropy_rate[0]) / hidden_size,
    }


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _run(cell: GainTanh, params: GainParams, start: Array, steps: int, transient: int) -> tuple[Array, Array, Array]:
    xs = _silence(start, steps)
    found = gradients.leading_exponent(cell, params, xs, carry=start, transient=transient)
    _, log_slopes = rnnjax.unroll(cell, params, xs, carry=start)
    return found.exponent, found.error, log_slopes[transient:].mean(axis=(0, 2))


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _spectrum(cell: GainTanh, params: GainParams, start: Array, steps: int, transient: int) -> Any:
    # One step an interval: at g = 3 the exponents spread by 12 nats a step, and 30 is all that float64 resolves.
    xs = _silence(start, steps)
    found = gradients.lyapunov_spectrum(cell, params, xs, carry=start, transient=transient)
    _, log_slopes = rnnjax.unroll(cell, params, xs, carry=start)
    return found, log_slopes[transient:].mean(axis=(0, 2))


def _silence(start: Array, steps: int) -> Array:
    return jnp.zeros((steps, *start.shape), start.dtype)

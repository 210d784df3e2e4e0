"""Leading exponents of driven tanh networks, and where they cross zero."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tanh_phase_diagram.network import GainParams, GainTanh, networks
from rnnjax import gradients


def leading_exponents(
    hidden_size: int, gains: tuple[float, ...], input_variance: float, steps: int, transient: int, seed: int
) -> dict[str, Any]:
    """`{"leading": [G], "error": [G]}` nats a step, of one matrix at every gain, all driven by the same noise."""
    cell, params, start = networks(hidden_size, gains, seed)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    deviation = jnp.sqrt(jnp.asarray(input_variance, jnp.float64))
    exponent, error = _run(cell, params, start, deviation, key, steps, transient)
    return {"leading": np.asarray(exponent).tolist(), "error": np.asarray(error).tolist()}


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _run(
    cell: GainTanh, params: GainParams, start: Array, deviation: Array, key: Array, steps: int, transient: int
) -> tuple[Array, Array]:
    noise = deviation * jax.random.normal(key, (steps, 1, cell.hidden_size), start.dtype)
    xs = jnp.broadcast_to(noise, (steps, *start.shape))
    found = gradients.leading_exponent(cell, params, xs, carry=start, transient=transient)
    return found.exponent, found.error


def zero_crossing(gains: np.ndarray, exponents: np.ndarray) -> float:
    """The gain at which a straight line between the last exponent below zero and the next one meets zero.

    NaN where the exponents do not go from below zero to above it.
    """
    below = np.flatnonzero((exponents[:-1] <= 0) & (exponents[1:] > 0))
    if not len(below):
        return float("nan")
    i = int(below[-1])
    share = -exponents[i] / (exponents[i + 1] - exponents[i])
    return float(gains[i] + share * (gains[i + 1] - gains[i]))

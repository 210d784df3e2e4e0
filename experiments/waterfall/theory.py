"""What closed forms say before training, for the very sequences that are measured."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.waterfall.measure import _MEASURED, _TESTED, INPUT_SIZE, sequences
from rnnjax.gradients import theory


def closed_form(name: str, scales: tuple[float, ...], steps: int, seed: int) -> np.ndarray | None:
    """log gradient at lags 0..T relative to lag 0, `[scales, T + 1]` nats: exact for linear, mean field for tanh.

    The mean field is that of each sequence's own drive, |x_t|²/D as W_x ~ N(0, 1/D), and then a mean over sequences.
    """
    if name == "linear":
        return np.log(scales)[:, None] * np.arange(steps + 1)
    if name != "tanh":
        return None
    key_test = jax.random.split(jax.random.key(seed), 3)[2]  # as `measure_cell` has it
    xs = sequences(key_test, steps, _TESTED)[0][:, :_MEASURED]
    drives = (xs**2).sum(axis=-1) / INPUT_SIZE
    rates = np.array([np.asarray(_rates(jnp.asarray(scale, drives.dtype), drives)) for scale in scales])
    return np.concatenate([np.zeros((len(scales), 1)), np.cumsum(rates[:, ::-1], axis=1)], axis=1)


@functools.partial(jax.jit)
def _rates(scale: jax.Array, drives: jax.Array) -> jax.Array:
    """`[T]`: mean over sequences."""
    return jax.vmap(theory.tanh_mean_field_rates, in_axes=(None, 1), out_axes=1)(scale, drives).mean(axis=1)

"""The cell state's gradient, unit by unit and lag by lag."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax
from rnnjax import gradients

INPUT_SIZE = 3
SETTINGS = ("closed", "driven")


class Retention(NamedTuple):
    """By lag k = 0..T-1, counted from the first cell state that the loss depends on, c_(T-1); seeds on axis 0.

    (h_T is computed from c_T, but c_T itself goes nowhere from there: dL/dc_T as a part of the carry is zero.)

    Attributes:
      log_share: `[S, T, H]` log |dL/dc_(T-1-k)| / |dL/dc_(T-1)| of each unit; -inf where it is zero.
      log_norm_c, log_norm_h: `[S, T]` nats, of the two parts of the carry.
    """

    log_share: Any
    log_norm_c: Any
    log_norm_h: Any


def forget_biases(init: str, hidden_size: int, t_max: int, key: Array) -> Array:
    """`[H]`: the number `init` for every unit, or log u with u uniform on [1, T_max - 1] for "chrono"."""
    if init == "chrono":
        return jnp.log(jax.random.uniform(key, (hidden_size,), "float64", 1.0, t_max - 1.0))
    return jnp.full(hidden_size, float(init), "float64")


def retention(init: str, setting: str, hidden_size: int, steps: int, t_max: int, seeds: int, seed: int) -> Retention:
    """The measurement for one initialisation of the forget gates.

    Args:
      init: a forget bias as text, or "chrono" (input biases are then minus the forget biases, as its authors have it).
      setting: "closed" or "driven".
      t_max: chrono's longest dependency [steps].
    """
    cell = rnnjax.LSTM(hidden_size)
    keys = jax.random.split(jax.random.key(seed), seeds)

    def draw(key: Array) -> tuple[Any, Array]:
        key_params, key_bias, key_input = jax.random.split(key, 3)
        params = cell.init(key_params, INPUT_SIZE, "float64")
        bias = forget_biases(init, hidden_size, t_max, key_bias)
        input_bias = -bias if init == "chrono" else jnp.zeros_like(bias)
        b = params.b.at[:hidden_size].set(input_bias).at[hidden_size : 2 * hidden_size].set(bias)
        xs = jax.random.normal(key_input, (steps, INPUT_SIZE), "float64")
        if setting == "closed":
            params, xs = params._replace(w_h=jnp.zeros_like(params.w_h)), jnp.zeros_like(xs)
        return params._replace(b=b), xs

    return jax.tree.map(np.asarray, _retention(cell, *jax.vmap(draw)(keys), np.ones(hidden_size)))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
def _retention(cell: rnnjax.LSTM, params: Any, xs: Array, ones: Array) -> Retention:
    # with ones that are known to the compiler, it spends seconds on working out the loss's gradient beforehand
    found = gradients.adjoint(cell, params, xs, lambda ys: ys[-1] @ ones)
    log_entry = found.log_norm[:, None] + jnp.log(jnp.abs(found.direction.c))
    log_share = (log_entry - log_entry[-2])[-2::-1]
    return Retention(log_share, found.log_norm_by_part.c[-2::-1], found.log_norm_by_part.h[-2::-1])


def mean_share(log_share: np.ndarray) -> np.ndarray:
    """Mean over units of the share that is left, per seed: `[S, T, H]` to `[S, T]`."""
    return np.exp(log_share).mean(axis=-1)


def rate(log_share: np.ndarray, from_lag: int) -> float:
    """Slope of the log share `[T]` from a lag on [nats/step]."""
    return float(np.polyfit(np.arange(from_lag, len(log_share)), log_share[from_lag:], 1)[0])

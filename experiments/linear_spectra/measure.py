"""Spectra and norms of linear networks, by the library's instrument in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax
from rnnjax import gradients
from rnnjax.initializers import Normal, Orthogonal

_SCALAR = rnnjax.Elman(1, activation="linear")


def fresh_cell(hidden_size: int) -> rnnjax.StepCell:
    """h_t = h_{t-1} W_t, the matrix coming in as the input: `[..., H * H]`. It has no parameters."""

    def step(params: Any, h: Array, x: Array) -> tuple[Array, Array]:
        h = jnp.einsum("...i,...ij->...j", h, x.reshape(*x.shape[:-1], hidden_size, hidden_size))
        return h, h

    return rnnjax.StepCell(step, lambda params, batch_shape: jnp.zeros((*batch_shape, hidden_size), "float64"))


def scalar(w: float, steps: int) -> dict[str, float]:
    """One unit: log |dh_T/dh_0| and dh_T/dw for h_0 = x_0 = 1 and no input."""
    log_norm, slope = _scalar(jnp.asarray(w, jnp.float64), steps)
    return {"log_gradient_nats": float(log_norm), "weight_gradient": float(slope)}


def orthogonal_spectrum(hidden_size: int, scale: float, steps: int, seed: int) -> np.ndarray:
    """`[H]` exponents of scale times an orthogonal matrix, used at every step."""
    w_h = Orthogonal(scale)(jax.random.key(seed), (hidden_size, hidden_size), jnp.float64)
    return np.asarray(_frozen(hidden_size, w_h, steps, steps // 4))


def frozen_spectrum(hidden_size: int, gain: float, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponents of one Gaussian matrix used at every step, and log|eigenvalues| of that matrix, `[H]` each."""
    w_h = Normal(gain)(jax.random.key(seed), (hidden_size, hidden_size), jnp.float64)
    found = _frozen(hidden_size, w_h, steps, steps // 4)
    return np.asarray(found), gradients.theory.frozen_exponents(w_h)


def fresh_spectrum(hidden_size: int, gain: float, steps: int, seed: int) -> np.ndarray:
    """`[H]` exponents of a product of Gaussian matrices, each drawn anew."""
    return np.asarray(_fresh(hidden_size, gain, steps, jax.random.key(seed)))


def log_squared_norms(kind: str, hidden_size: int, gain: float, lags: int, draws: int, seed: int) -> np.ndarray:
    """`[draws, lags + 1]` log ‖v W_1 ... W_k‖² [nats] of a random unit vector v; `kind` is "fresh" or "frozen"."""
    keys = jax.random.split(jax.random.key(seed), draws)
    return np.asarray(_norms(kind == "fresh", hidden_size, gain, lags, keys))


@functools.partial(jax.jit, static_argnums=1)
def _scalar(w: Array, steps: int) -> tuple[Array, Array]:
    xs, start, one = jnp.zeros((steps, 1)), jnp.ones(1), jnp.ones((1, 1))

    def params(w: Array) -> rnnjax.ElmanParams:
        return rnnjax.ElmanParams(w_x=one, w_h=w * one, b=jnp.zeros(1))

    found = gradients.adjoint(_SCALAR, params(w), xs, lambda ys: ys[-1, 0], carry=start)
    return found.log_norm[0], jax.grad(lambda w: rnnjax.unroll(_SCALAR, params(w), xs, carry=start)[1][-1, 0])(w)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _frozen(hidden_size: int, w_h: Array, steps: int, transient: int) -> Array:
    cell = rnnjax.Elman(hidden_size, activation="linear")
    params = rnnjax.ElmanParams(jnp.zeros((1, hidden_size)), w_h, jnp.zeros(hidden_size))
    return gradients.lyapunov_spectrum(cell, params, jnp.zeros((steps, 1)), transient=transient).exponents


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fresh(hidden_size: int, gain: float, steps: int, key: Array) -> Array:
    xs = jax.random.normal(key, (steps, hidden_size**2), "float64") * (gain / hidden_size**0.5)
    cell = fresh_cell(hidden_size)
    return gradients.lyapunov_spectrum(cell, None, xs, transient=steps // 10).exponents


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _norms(fresh: bool, hidden_size: int, gain: float, lags: int, keys: Array) -> Array:
    """One draw after the other, so that memory holds the matrices of one."""

    def one(key: Array) -> Array:
        key_w, key_v = jax.random.split(key)
        v = jax.random.normal(key_v, (hidden_size,), "float64")
        v = v / jnp.linalg.norm(v)
        matrices = jax.random.normal(key_w, (lags if fresh else 1, hidden_size**2), "float64")
        xs = jnp.broadcast_to(matrices * (gain / hidden_size**0.5), (lags, hidden_size**2))
        found = gradients.adjoint(fresh_cell(hidden_size), None, xs, lambda ys: ys[-1] @ v)
        return 2 * found.log_norm[::-1]

    return jax.lax.map(one, keys)


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    """log of the mean over axis 0 of exp, without overflow."""
    largest = values.max(axis=0)
    return largest + np.log(np.exp(values - largest).mean(axis=0))

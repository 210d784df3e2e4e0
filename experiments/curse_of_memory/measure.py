"""Second moments of a linear unit and of its derivative, and a student's loss, by sampling."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax

_CELL = rnnjax.Elman(1, activation="linear")


def valley(lam: np.ndarray, teacher: float) -> np.ndarray:
    """E[(h_λ - h_λ*)²] for white input of variance 1, in closed form."""
    return 1 / (1 - lam**2) + 1 / (1 - teacher**2) - 2 / (1 - lam * teacher)


def memory_steps(lam: float) -> float:
    """How long the unit remembers: 1/(1 - |λ|) steps, for the length of transients."""
    return 1 / (1 - abs(lam))


def second_moments(lam: float, sequences: int, steps: int, seed: int) -> dict[str, list[float]]:
    """`{"state": [sequences], "sensitivity": [sequences]}`: time averages of h² and (∂h/∂λ)² per sequence."""
    transient = transient_steps(lam)
    key = jax.random.fold_in(jax.random.key(seed), round((1 + lam) * 1e6))  # noise of its own for every λ
    state, sensitivity = _moments(jnp.asarray(lam), key, sequences, steps + transient, transient)
    return {"state": np.asarray(state).tolist(), "sensitivity": np.asarray(sensitivity).tolist()}


def transient_steps(lam: float) -> int:
    """Steps after which λ^(2t) t² is below 1e-12 of the sensitivity's stationary moment, rounded up to hundreds."""
    return int(np.ceil(20 * memory_steps(lam) / 100)) * 100


def student_losses(lams: np.ndarray, teacher: float, sequences: int, steps: int, seed: int) -> np.ndarray:
    """Mean squared difference between students and a teacher that see the same input. `[len(lams), sequences]`."""
    transient = transient_steps(max(float(np.abs(lams).max()), abs(teacher)))
    found = _losses(jnp.asarray(lams), jnp.asarray(teacher), jax.random.key(seed), sequences, steps, transient)
    return np.asarray(found)


def _states(lam: Array, xs: Array) -> Array:
    one = jnp.ones((1, 1), xs.dtype)
    params = rnnjax.ElmanParams(w_x=one, w_h=lam * one, b=jnp.zeros(1, xs.dtype))
    return rnnjax.unroll(_CELL, params, xs)[1][..., 0]


def _noise(key: Array, steps: int, sequences: int) -> Array:
    return jax.random.normal(key, (steps, sequences, 1), "float64")


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _moments(lam: Array, key: Array, sequences: int, steps: int, transient: int) -> tuple[Array, Array]:
    xs = _noise(key, steps, sequences)
    hs, slopes = jax.jvp(lambda lam: _states(lam, xs), (lam,), (jnp.ones_like(lam),))
    return (hs[transient:] ** 2).mean(axis=0), (slopes[transient:] ** 2).mean(axis=0)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _losses(lams: Array, teacher: Array, key: Array, sequences: int, steps: int, transient: int) -> Any:
    xs = _noise(key, steps + transient, sequences)
    target = _states(teacher, xs)
    return jax.lax.map(lambda lam: ((_states(lam, xs) - target)[transient:] ** 2).mean(axis=0), lams)

"""Flax's cells under test, in linen and nnx, and shared helpers.

The libraries have type `Any` because Flax's return types are too general.
"""

import functools
from typing import Any

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax.flax
from tests.registry import normal

linen: Any = flax.linen
nnx: Any = flax.nnx
our_linen: Any = rnnjax.flax.linen
our_nnx: Any = rnnjax.flax.nnx

T, B, D, H = 5, 3, 2, 3
LENGTHS = np.array([5, 3, 1])

NAMES = {"optimized_lstm": "OptimizedLSTMCell", "lstm": "LSTMCell", "gru": "GRUCell", "simple": "SimpleCell"}

FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm_gate_fn": ("optimized_lstm", {"gate_fn": jax.nn.hard_sigmoid}),
    "lstm_activation_fn": ("lstm", {"activation_fn": jax.nn.soft_sign}),
    "gru_both": ("gru", {"gate_fn": jax.nn.hard_sigmoid, "activation_fn": jax.nn.silu}),
    "simple_relu": ("simple", {"activation_fn": jax.nn.relu}),
    "simple_own": ("simple", {"activation_fn": jax.nn.soft_sign}),
    "simple_residual": ("simple", {"residual": True}),
}
"""Options of a cell that change what a step computes."""

every_cell = pytest.mark.parametrize("name", NAMES)
every_function = pytest.mark.parametrize("name", FUNCTIONS)

QUICK = {"kernel_init": jax.nn.initializers.uniform(), "recurrent_kernel_init": jax.nn.initializers.uniform()}
"""Initializers that compile fast, unlike the orthogonal ones that are Flax's default."""

KEY = jax.random.key(3, impl="unsafe_rbg")
"""Compiles in a fraction of the time of the default."""

compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""`jax.jit` for functions that run once."""


def linen_cell(name: str, param_dtype: str = "float64", **options: Any) -> Any:
    return getattr(linen, NAMES[name])(features=H, param_dtype=jnp.dtype(param_dtype), **(QUICK | options))


def nnx_cell(name: str, param_dtype: str = "float64", seed: int = 0, **options: Any) -> Any:
    options = QUICK | {"dtype": jnp.dtype(param_dtype)} | options
    return getattr(nnx, NAMES[name])(D, H, param_dtype=jnp.dtype(param_dtype), rngs=nnx.Rngs(seed), **options)


def inputs(dtype: str = "float64") -> Any:
    """`[B, T, D]`"""
    return normal(jax.ShapeDtypeStruct((B, T, D), dtype), "flax inputs")


def noisy(tree: Any, seed: str = "flax params") -> Any:
    """Random parameters, since initial biases are zero."""
    return normal(tree, seed, scale=0.6)


def carry_of(name: str, dtype: str = "float64") -> Any:
    """A nonzero carry in Flax's layout."""
    one = jax.ShapeDtypeStruct((B, H), dtype)
    return normal((one, one) if "lstm" in name else one, f"flax carry {name}")


def weights_of(name: str) -> Any:
    """A weight for every number of `(carry, outputs)`."""
    return carry_of(f"{name} weights"), normal(jnp.zeros((B, T, H)), "flax weights")


def valid(outputs: Any, lengths: Any = LENGTHS) -> Any:
    """`[B, T, ...]` with zeros in the padding."""
    return jnp.where((np.arange(T) < lengths[:, None])[..., None], outputs, 0)


def flags(*at: tuple[Any, Any]) -> np.ndarray:
    """`[B, T]` booleans, true at these (row, step)."""
    result = np.zeros((B, T), bool)
    for where in at:
        result[where] = True
    return result

"""Plain norms beside exact ones: every seed and scale of a cell in one compiled program."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax
from experiments.gradient_decay.cells import redraw, rescale
from rnnjax import gradients

DTYPES = ("float32", "float64")
KINDS = ("norm", "gradient")

INPUT_SIZE = 3


class Curves(NamedTuple):
    """By lag 0..T of N networks, each `[N, T + 1]`.

    Attributes:
      log_norm: exact log |dL/d(carry)| [nats].
      log_largest: exact log of the largest entry's size [nats].
      plain: {"norm/float32": ..., "gradient/float32": ..., ...}: the norm, and the largest entry, in plain arithmetic.
    """

    log_norm: Any
    log_largest: Any
    plain: dict[str, Any]


def measure_cell(name: str, cell: rnnjax.Cell, scales: tuple[float, ...], seeds: int, steps: int, seed: int) -> Curves:
    """All networks of one cell, axis N is (scale, seed) with the seed fastest.

    W2 is scale times orthogonal. The input is white noise N(0, 1); nothing for the linear cell, whose Jacobian does not
    depend on its state, while a state that grows would overflow first.
    """
    key_params, key_input = jax.random.split(jax.random.key(seed))
    xs = jax.random.normal(key_input, (steps, INPUT_SIZE), "float64")
    if name == "linear":
        xs = jnp.zeros_like(xs)
    keys = jax.random.split(key_params, seeds)

    def draw(key: Array) -> tuple[Any, Array]:
        key_params, key_recurrent, key_direction = jax.random.split(key, 3)
        params = redraw(cell.init(key_params, INPUT_SIZE, xs.dtype), key_recurrent, "orthogonal")
        size = jax.eval_shape(lambda p: rnnjax.unroll(cell, p, xs[:1])[1], params).shape[-1]
        direction = jax.random.normal(key_direction, (size,), xs.dtype)
        return params, direction / jnp.linalg.norm(direction)

    params, directions = jax.vmap(draw)(keys)  # LAPACK's QR in a program of its own, apart from the time loops
    found = [_curves(cell, params, directions, xs, jnp.asarray(scale, xs.dtype)) for scale in scales]
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *found)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None, None))
def _curves(cell: rnnjax.Cell, params: Any, direction: Array, xs: Array, scale: Array) -> Curves:
    params = rescale(params, scale)

    def loss(ys: Array) -> Array:
        return ys[-1] @ direction.astype(ys.dtype)

    exact = gradients.adjoint(cell, params, xs, loss)
    plain = {}
    for dtype in DTYPES:
        cast_params, cast_xs = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), (params, xs))
        gradient = gradients.adjoint_by_perturbation(cell, cast_params, cast_xs, loss)
        squares = [(leaf * leaf).sum(axis=-1) for leaf in jax.tree.leaves(gradient)]
        plain[f"norm/{dtype}"] = jnp.sqrt(sum(squares[1:], start=squares[0]))[::-1]
        plain[f"gradient/{dtype}"] = _largest(gradient)[::-1]
    log_largest = exact.log_norm + jnp.log(_largest(exact.direction))
    return Curves(exact.log_norm[::-1], log_largest[::-1], plain)


def _largest(tree: Any) -> Array:
    return functools.reduce(jnp.maximum, [jnp.abs(leaf).max(axis=-1) for leaf in jax.tree.leaves(tree)])


def death_lags(plain: np.ndarray) -> np.ndarray:
    """The first lag at which each row of `[N, T + 1]` is 0, inf or NaN; NaN for rows that live to the end."""
    return _first((plain == 0) | ~np.isfinite(plain))


def foretold_lags(kind: str, dtype: str, log_norm: np.ndarray, log_largest: np.ndarray) -> np.ndarray:
    """The same lag from the exact curves `[N, T + 1]` and the range of the number format alone."""
    log_tiny, log_max = _range(dtype)
    if kind == "norm":
        return _first((2 * log_largest < log_tiny) | (2 * log_norm >= log_max))
    return _first((log_largest < log_tiny) | (log_largest >= log_max))


def closed_form_lag(kind: str, dtype: str, scale: float) -> float:
    """The lag at which scale^k leaves the format, squared or not: what one unit would do; inf at scale 1."""
    if scale == 1:
        return float("inf")
    log_tiny, log_max = _range(dtype)
    return (log_tiny if scale < 1 else log_max) / float(np.log(scale)) / (2 if kind == "norm" else 1)


def _range(dtype: str) -> tuple[float, float]:
    """log of the smallest normal and of the largest number, a hair inside: powers of two stand on the border."""
    limits = np.finfo(dtype)
    return float(np.log(float(limits.tiny))) - 1e-9, float(np.log(float(limits.max))) - 1e-9


def disagreement(curves: Curves) -> float:
    """The largest |log of the plain float64 norm - exact log norm| where the plain one is alive [nats]."""
    plain = curves.plain["norm/float64"]
    # Entries within a factor 2^26 of where a square dies have lost digits; there the two need not agree to rounding.
    log_tiny = float(np.log(np.finfo("float64").tiny))
    alive = np.isfinite(plain) & (plain > 0) & (2 * curves.log_largest > log_tiny + 26 * 2 * np.log(2))
    return float(np.abs(np.log(plain[alive]) - curves.log_norm[alive]).max())


def _first(flags: np.ndarray) -> np.ndarray:
    return np.where(flags.any(axis=1), flags.argmax(axis=1).astype(float), np.nan)

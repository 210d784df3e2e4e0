"""The unit, its error and gradient on a grid, its closed forms, and descents over it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import rnnjax
from rnnjax.gradients import ClippedAdjoint
from rnnjax.training import clip_by_global_norm

START, TARGET = 0.5, 0.7


class Unit(NamedTuple):
    """w and b."""

    w: Array  # []
    b: Array  # []


@dataclasses.dataclass(frozen=True)
class SigmoidUnit(rnnjax.Cell):
    """x_t = w σ(x_{t-1}) + b, without input; y_t = σ(x_t)."""

    def init(self, key: Array, input_size: int, dtype: Any = None) -> Unit:
        return Unit(jnp.ones((), dtype), jnp.zeros((), dtype))

    def initial_carry(self, params: Unit, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.full((*batch_shape, 1), START, params.w.dtype)

    def step(self, params: Unit, carry: Array, x: Array) -> tuple[Array, Array]:
        state = params.w * jax.nn.sigmoid(carry) + params.b
        return state, jax.nn.sigmoid(state)


def error(params: Unit, steps: int, cell: Any = SigmoidUnit()) -> Array:
    """E = (σ(x_T) - 0.7)²."""
    _, ys = rnnjax.unroll(cell, params, jnp.zeros((steps, 1), params.w.dtype))
    return (ys[-1, 0] - TARGET) ** 2


def grid(ws: np.ndarray, bs: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """E and ‖∇E‖ `[b, w]`."""
    axes: Any = Unit
    over_w = jax.vmap(jax.value_and_grad(lambda p: error(p, steps)), in_axes=(axes(0, None),))
    each = jax.vmap(over_w, in_axes=(axes(None, 0),))
    value, gradient = jax.jit(each)(Unit(jnp.asarray(ws), jnp.asarray(bs)))
    return np.asarray(value), np.hypot(gradient.w, gradient.b)


def gradients_at(ws: np.ndarray, bs: np.ndarray, steps: int) -> Unit:
    """dE/dw and dE/db at pairs of points."""
    return jax.jit(jax.vmap(jax.grad(lambda p: error(p, steps))))(Unit(jnp.asarray(ws), jnp.asarray(bs)))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def wall(ws: np.ndarray) -> np.ndarray:
    """b at which x_0 is a fixed point."""
    return START - ws * sigmoid(START)


def gradient_on_wall(ws: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(dE/dw, dE/db) on the wall, closed form."""
    y = sigmoid(START)
    mu = ws * y * (1 - y)
    by_b = np.where(np.abs(mu - 1) < 1e-9, steps, (mu**steps - 1) / (mu - 1 + (mu == 1)))
    by_b = 2 * (y - TARGET) * y * (1 - y) * by_b
    return y * by_b, by_b


def fold(ws: np.ndarray) -> np.ndarray:
    """b below which the upper basin is gone; NaN for w < 4, where there is one basin."""
    with np.errstate(invalid="ignore"):
        y = (1 + np.sqrt(1 - 4 / ws)) / 2
    return np.log(y / (1 - y)) - ws * y


def descend(
    starts: np.ndarray, clip: str, max_norm: float, rate: float, updates: int, steps: int
) -> dict[str, np.ndarray]:
    """Gradient descent from each of `starts` `[N, 2]`: w and b `[N, updates + 1]`, E there, and how far each went.

    Args:
      clip: "none"; "gradient", at norm `max_norm`; or "adjoint", at `max_norm` in every step of the backward pass.
    """
    cell: Any = ClippedAdjoint(SigmoidUnit(), max_norm) if clip == "adjoint" else SigmoidUnit()
    rule = optax.sgd(rate)
    if clip == "gradient":
        rule = optax.chain(clip_by_global_norm(max_norm), rule)

    @jax.jit
    @jax.vmap
    def run(start: Array):
        def one(state: Any, _: None):
            params, memory = state
            value, gradient = jax.value_and_grad(lambda p: error(p, steps, cell))(params)
            change, memory = rule.update(gradient, memory)
            moved: Any = optax.apply_updates(params, change)
            return (moved, memory), (params, value)

        params = Unit(start[0], start[1])
        return lax.scan(one, (params, rule.init(params)), None, length=updates + 1)[1]

    points, values = run(jnp.asarray(starts))
    w, b = np.asarray(points.w), np.asarray(points.b)
    return {"w": w, "b": b, "error": np.asarray(values), "moved": np.hypot(np.diff(w), np.diff(b))}


def around_the_wall(count: int) -> np.ndarray:
    """`[count², 2]` starts: w from 4.6 to 6, b within 0.5 of the wall."""
    w, off = np.meshgrid(np.linspace(4.6, 6.0, count), np.linspace(-0.5, 0.5, count))
    return np.stack([w, wall(w) + off], axis=-1).reshape(-1, 2)

"""What is learned: four tasks as endless streams of sequences, among them a cart with a pole that is seen in part."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rnnjax import tasks

SYMBOLS, MEMORY, BITS = 4, 2, 2
STARTS, PUSHES = 64, 200  # of the cart, driven by a trained network


class Problem(NamedTuple):
    """A task: `draw(key)` is one sequence of all rows, `error(y, target)` the loss of each row `[*batch]` at a step."""

    draw: Callable[[Array], tasks.Batch]
    error: Callable[[Array, Array], Array]
    baseline: float
    inputs: int
    outputs: int


@functools.cache
def problem(task: str, lag: int, length: int, rows: int, push: float) -> Problem:
    shape = (rows,)
    if task == "adding":
        baseline = tasks.adding_baseline().loss
        return Problem(lambda key: tasks.adding(key, 2 * lag, shape), _squared, baseline, 2, 1)
    if task == "copy":
        given: dict[str, Any] = {"symbols": SYMBOLS, "memory": MEMORY}
        baseline = tasks.copy_memory_baseline(lag, **given).loss
        return Problem(
            lambda key: tasks.copy_memory(key, lag, shape, **given), _entropy, baseline, SYMBOLS + 2, SYMBOLS + 1
        )
    if task == "flip_flop":
        baseline = tasks.flip_flop_baseline(steps=length, probability=1 / lag).loss
        return Problem(
            lambda key: tasks.flip_flop(key, length, shape, bits=BITS, probability=1 / lag),
            _squared, baseline, BITS, BITS,
        )  # fmt: skip

    baseline = _without_memory(length, push)
    return Problem(lambda key: cart_pole(key, length, shape, push), _squared, baseline, 2, 1)


@functools.cache
def _without_memory(length: int, push: float) -> float:
    """The mean squared error of the best linear predictor of the force from what is seen at the same time."""
    many = cart_pole(jax.random.key(2**31), length, (400,), push)
    seen, forces = np.asarray(many.xs, "float64").reshape(-1, 2), np.asarray(many.targets, "float64").reshape(-1, 1)
    known = np.concatenate([seen, np.ones_like(forces)], axis=1)
    return float(((forces - known @ np.linalg.lstsq(known, forces, rcond=None)[0]) ** 2).mean())


def _squared(y: Array, target: Array) -> Array:
    return ((y - target) ** 2).mean(-1)


def _entropy(y: Array, target: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(y), target[..., None], axis=-1)[..., 0]


GRAVITY, CART, POLE, HALF, TICK, MOST = 9.8, 1.0, 0.1, 0.5, 0.02, 10.0  # m/s², kg, kg, m, s, N
UNITS = np.array([1.0, 0.1], "float32")  # of what is seen [m, rad]


def pushed(state: Array, force: Array) -> Array:
    """The cart after a tick; position, velocity, angle and angular velocity `[..., 4]`, force `[...]` in newtons."""
    x, v, angle, turn = (state[..., i] for i in range(4))
    sin, cos, mass = jnp.sin(angle), jnp.cos(angle), CART + POLE
    along = (force + POLE * HALF * turn**2 * sin) / mass
    bent = (GRAVITY * sin - cos * along) / (HALF * (4 / 3 - POLE * cos**2 / mass))
    moved = along - POLE * HALF * bent * cos / mass
    return jnp.stack([x + TICK * v, v + TICK * moved, angle + TICK * turn, turn + TICK * bent], axis=-1)


@functools.cache
def regulator() -> np.ndarray:
    """K `[4]`: the force -K · state minimises the sum of x² + 10 angle² + 0.01 force² of the linearized cart."""
    with jax.ensure_compile_time_eval():
        a, b = jax.jacobian(pushed, (0, 1))(jnp.zeros(4), jnp.zeros(()))
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")[:, None]
    cost = weight = np.diag([1.0, 0.0, 10.0, 0.0])
    for _ in range(2000):  # Riccati's equation
        gain = np.linalg.solve(0.01 + b.T @ cost @ b, b.T @ cost @ a)
        cost = weight + a.T @ cost @ (a - b @ gain)
    return gain[0].astype("float32")


def _starts(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, (*shape, 4), minval=-1.0) * jnp.array([0.5, 0.5, 0.1, 0.3])


def cart_pole(key: Array, steps: int, shape: tuple[int, ...], push: float) -> tasks.Batch:
    """What is seen, `[T, *batch, 2]`, and the regulator's force over 10 N, which drives the cart with noise added."""
    key_start, key_push = jax.random.split(key)
    gain = jnp.asarray(regulator())

    def tick(state: Array, noise: Array) -> tuple[Array, tuple[Array, Array]]:
        force = jnp.clip(-state @ gain, -MOST, MOST)
        return pushed(state, force + push * noise), (state[..., 0::2] / UNITS, force[..., None] / MOST)

    _, (seen, forces) = lax.scan(tick, _starts(key_start, shape), jax.random.normal(key_push, (steps, *shape)))
    return tasks.Batch(seen, forces, jnp.ones((steps, *shape)), jnp.full(shape, steps))


def balanced(model: Any, params: Any, key: Array) -> Array:
    """The share of starts from which a network keeps pole and cart within their limits."""

    def tick(state: Any, _: None) -> tuple[Any, None]:
        carry, cart, alive = state
        carry, y = model.step(params, carry, cart[..., 0::2] / UNITS)
        cart = pushed(cart, MOST * jnp.clip(y[..., 0], -1.0, 1.0))
        return (carry, cart, alive & (jnp.abs(cart[:, 0]) < 2.4) & (jnp.abs(cart[:, 2]) < math.radians(12))), None

    start = model.initial_carry(params, (STARTS,)), _starts(key, (STARTS,)), jnp.ones(STARTS, bool)
    return lax.scan(tick, start, None, length=PUSHES)[0][2].mean()


@functools.lru_cache(maxsize=8)
def stream(
    task: str, lag: int, length: int, rows: int, push: float, steps: int, seeds: tuple[int, ...]
) -> tuple[Array, tuple[Array, Array], Array]:
    """Whole sequences end to end, for each seed: `xs` `[seeds, T, *batch, D]`, `(targets, weights)`, and where each
    sequence begins."""
    draw = problem(task, lag, length, rows, push).draw
    one = jax.eval_shape(draw, jax.random.key(0)).xs.shape[0]

    def drawn(seed: Array) -> tuple[Array, tuple[Array, Array], Array]:
        many = jax.vmap(draw)(jax.random.split(jax.random.key(seed), max(1, steps // one)))
        xs, targets, weights = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in many[:3])
        begins = jnp.broadcast_to((jnp.arange(len(xs)) % one == 0)[:, None], weights.shape)
        return xs, (targets, weights), begins

    return jax.jit(jax.vmap(drawn))(jnp.array(seeds, jnp.uint32))

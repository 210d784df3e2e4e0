"""Two trainings as npow/schmidhuber-problems has them (NumPy): their tasks, draws, rates and lengths, our cells.

Facts read in `adding-problem` and `temporal-order-3bit` there. What still differs: random numbers, float32 in place of
float64, and evaluation on 2,000 and 1,000 fresh sequences in place of 512.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rnnjax
from rnnjax import tasks, training

BATCH = 32


@dataclasses.dataclass(frozen=True)
class LSTMWithoutForgetGate(rnnjax.LSTM):
    """The cell of 1997: c_t = c_{t-1} + σ(i) tanh(g). The forget gate's parameters are there and do nothing."""

    def step(self, params: Any, carry: Any, x: Array) -> tuple[Any, Array]:
        i, _, g, o = jnp.split(x @ params.w_x + params.b + carry.h @ params.w_h, 4, axis=-1)
        c = carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return rnnjax.LSTMCarry(h=h, c=c), h


def init_network(
    cell: Any, inputs: int, outputs: int, scales: tuple[float, float, float], gate: int, bias: float, key: Array
) -> dict[str, Any]:
    """Gaussian with these deviations (input, recurrent, readout); zero biases but for one LSTM gate of i, f, g, o."""
    lstm, size = isinstance(cell, rnnjax.LSTM), cell.hidden_size
    width = 4 * size if lstm else size
    shapes = (inputs, width), (size, width), (size, outputs)
    keys = jax.random.split(key, 3)
    w_x, w_h, w_out = (
        jnp.asarray(scale, jnp.float32) * jax.random.normal(key, shape, jnp.float32)
        for key, scale, shape in zip(keys, scales, shapes, strict=True)
    )
    b = jnp.zeros(width, jnp.float32)
    b = b.at[gate * size : (gate + 1) * size].set(bias) if lstm else b
    params = (rnnjax.LSTMParams if lstm else rnnjax.ElmanParams)(w_x, w_h, b)
    return {"cell": params, "w_out": w_out, "b_out": jnp.zeros(outputs, jnp.float32)}


def _outputs(cell: rnnjax.Cell, params: dict[str, Any], batch: tasks.Batch) -> Array:
    return rnnjax.unroll(cell, params["cell"], batch.xs)[1] @ params["w_out"] + params["b_out"]


def _train(loss: Any, init: Any, rate: Any, data: Any, options: training.FitOptions, seeds: int, **how: Any):
    key = jax.random.key(0)
    rule = optax.chain(training.clip_by_global_norm(1.0), optax.adam(rate))
    networks = {"key": jax.random.split(key, seeds)}
    return training.fit_many(loss, lambda key, setting: init(key), rule, data, networks, options, key=key, **how)


def adding_errors(name: str, steps: int, updates: int, seeds: int) -> list[float]:
    """Mean squared error on 2,000 fresh sequences of U(-1, 1): H = 8, Adam 5e-3 halved every 1,500 updates, clip 1.

    W ~ N(0, 1/4 D) and N(0, 1/4 H), a forget bias of 1, and half the mean squared error as the loss.
    """
    cell = rnnjax.LSTM(8) if name == "lstm" else rnnjax.Elman(8)
    scales = 0.5 / 2**0.5, 0.5 / 8**0.5, 1 / 8**0.5

    def data(key: Array, step: Array, count: int = BATCH) -> tasks.Batch:
        return tasks.adding(key, steps, (count,), low=-1.0, high=1.0, dtype=jnp.float32)

    def error(params: Any, batch: tasks.Batch) -> Array:
        return tasks.squared_error(_outputs(cell, params, batch), batch)

    fitted = _train(
        lambda params, batch: error(params, batch) / 2,
        lambda key: init_network(cell, 2, 1, scales, 1, 1.0, key),
        optax.exponential_decay(5e-3, 1500, 0.5, staircase=True),
        data,
        training.FitOptions(steps=updates, chunk=updates, nonfinite="skip"),
        seeds,
    )
    fresh = data(jax.random.key(12345), jnp.asarray(0), 2000)
    return np.asarray(jax.vmap(error, in_axes=(0, None))(fitted.state.params, fresh)).tolist()


def order_batch(key: Array, count: int) -> tasks.Batch:
    """T = 50: X or Y at one of steps 3..12 and 25..40, a, b, c, d between, B first and E last: 8 symbols, 4 classes."""
    steps, dtype = 50, jnp.float32
    keys = jax.random.split(key, 4)
    tokens = jax.random.randint(keys[0], (steps, count), 0, 4, jnp.int32)
    at = jnp.arange(steps, dtype=jnp.int32)[:, None]
    which = jax.random.randint(keys[1], (2, count), 0, 2, jnp.int32)
    for symbol, (low, high), place in zip(which, ((3, 12), (25, 40)), keys[2:], strict=True):
        tokens = jnp.where(at == jax.random.randint(place, (count,), low, high + 1, jnp.int32), 4 + symbol, tokens)
    xs = jax.nn.one_hot(tokens.at[0].set(6).at[-1].set(7), 8, dtype=dtype)
    targets = jnp.zeros((steps, count), jnp.int32).at[-1].set(2 * which[0] + which[1])
    last = jnp.zeros((steps, count), dtype).at[-1].set(1)
    return tasks.Batch(xs, targets, last, jnp.full((count,), steps, jnp.int32))


def order_learned(name: str, updates: int, seeds: int) -> list[float]:
    """Sequences until 95% of 1,000 are right for the first time, evaluated every 50 updates; inf where never.

    H = 4, W ~ N(0, 0.1²), an input bias of -1, Adam 0.02, clip 1; the LSTM has no forget gate.
    """
    cell = LSTMWithoutForgetGate(4) if name == "lstm" else rnnjax.Elman(4)
    fitted = _train(
        lambda params, batch: tasks.cross_entropy(_outputs(cell, params, batch), batch),
        lambda key: init_network(cell, 8, 4, (0.1, 0.1, 0.1), 0, -1.0, key),
        0.02,
        lambda key, step: order_batch(key, BATCH),
        training.FitOptions(steps=updates, chunk=50, nonfinite="skip"),
        seeds,
        held_out=lambda key, index: order_batch(key, 1000),
        measure=lambda params, batch: {"accuracy": tasks.accuracy(_outputs(cell, params, batch), batch)},
        until=lambda held: held["accuracy"] >= 0.95,
    )
    return np.where(fitted.state.done, BATCH * np.asarray(fitted.state.step), np.inf).tolist()

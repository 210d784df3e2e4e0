"""Two trainings as npow/schmidhuber-problems has them (NumPy): their tasks, draws, rates and lengths, our cells.

Facts read in `adding-problem` and `temporal-order-3bit` there. The differences that are left: random numbers, float32
in place of float64, and that a network is looked at on 2,000 and 1,000 fresh sequences in place of 512.
"""

import dataclasses
import functools
from collections.abc import Callable
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


def _normal(key: Array, scale: float, *shape: int) -> Array:
    return jnp.asarray(scale, jnp.float32) * jax.random.normal(key, shape, jnp.float32)


def _drawn(name: str, size: int, inputs: int, outputs: int, scales: tuple[float, float, float], key: Array) -> Any:
    """Gaussian of the given deviations (input, recurrent, readout); biases zero but for one gate."""
    keys = jax.random.split(key, 3)
    gates = 4 if name == "lstm" else 1
    w_x, w_h = _normal(keys[0], scales[0], inputs, gates * size), _normal(keys[1], scales[1], size, gates * size)
    b = jnp.zeros(gates * size, jnp.float32)
    params = rnnjax.LSTMParams(w_x, w_h, b) if name == "lstm" else rnnjax.ElmanParams(w_x, w_h, b)
    readout = _normal(keys[2], scales[2], size, outputs), jnp.zeros(outputs, jnp.float32)
    return {"cell": params, "w_out": readout[0], "b_out": readout[1]}


def _with_bias(drawn: Any, size: int, gate: int, value: float) -> Any:
    """With the bias of one of an LSTM's gates i, f, g, o."""
    b = drawn["cell"].b.at[gate * size : (gate + 1) * size].set(value)
    return drawn | {"cell": drawn["cell"]._replace(b=b)}


def _outputs(cell: rnnjax.Cell, params: dict[str, Any], batch: tasks.Batch) -> Array:
    ys = rnnjax.unroll(cell, params["cell"], batch.xs)[1]
    return ys @ params["w_out"] + params["b_out"]


def _train(loss: Callable[..., Array], init: Callable[[Array], Any], rate: Any, data: Any, seeds: int, **how: Any):
    options = {name: how.pop(name) for name in ("steps", "chunk")}
    return training.fit_many(
        loss,
        lambda key, setting: init(key),
        optax.chain(training.clip_by_global_norm(1.0), optax.adam(rate)),
        data,
        {"key": jax.random.split(jax.random.key(0), seeds)},
        training.FitOptions(**options, nonfinite="skip"),
        key=jax.random.key(0),
        **how,
    )


@functools.cache
def adding_errors(name: str, steps: int, updates: int, seeds: int) -> list[float]:
    """Mean squared error on 2,000 fresh sequences of U(-1, 1): H = 8, Adam 5e-3 halved every 1,500 updates, clip 1.

    W ~ N(0, 1/4 D) and N(0, 1/4 H), a forget bias of 1, and half the mean squared error as the loss.
    """
    size = 8
    cell = rnnjax.LSTM(size) if name == "lstm" else rnnjax.Elman(size)

    def init(key: Array) -> Any:
        drawn = _drawn(name, size, 2, 1, (0.5 / 2**0.5, 0.5 / size**0.5, 1 / size**0.5), key)
        return _with_bias(drawn, size, 1, 1.0) if name == "lstm" else drawn

    def data(key: Array, step: Array, count: int = BATCH) -> tasks.Batch:
        return tasks.adding(key, steps, (count,), low=-1.0, high=1.0, dtype=jnp.float32)

    def error(params: Any, batch: tasks.Batch) -> Array:
        return tasks.squared_error(_outputs(cell, params, batch), batch)

    rate = optax.exponential_decay(5e-3, 1500, 0.5, staircase=True)
    fitted = _train(lambda p, batch: error(p, batch) / 2, init, rate, data, seeds, steps=updates, chunk=updates)
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
    tokens = tokens.at[0].set(6).at[-1].set(7)
    targets = jnp.zeros((steps, count), jnp.int32).at[-1].set(2 * which[0] + which[1])
    lengths = jnp.full((count,), steps, jnp.int32)
    return tasks.Batch(jax.nn.one_hot(tokens, 8, dtype=dtype), targets, jnp.zeros((steps, count), dtype).at[-1].set(1), lengths)  # fmt: skip  # noqa: E501


@functools.cache
def order_learned(name: str, updates: int, seeds: int) -> list[float]:
    """Sequences seen when 95% of 1,000 are right for the first time, looked at every 50 updates; inf where never.

    H = 4, W ~ N(0, 0.1²), an input bias of -1, Adam 0.02, clip 1; the LSTM has no forget gate.
    """
    size = 4
    cell = LSTMWithoutForgetGate(size) if name == "lstm" else rnnjax.Elman(size)

    def init(key: Array) -> Any:
        drawn = _drawn(name, size, 8, 4, (0.1, 0.1, 0.1), key)
        return _with_bias(drawn, size, 0, -1.0) if name == "lstm" else drawn

    fitted = _train(
        lambda p, batch: tasks.cross_entropy(_outputs(cell, p, batch), batch),
        init,
        0.02,
        lambda key, step: order_batch(key, BATCH),
        seeds,
        steps=updates,
        chunk=50,
        held_out=lambda key, index: order_batch(key, 1000),
        measure=lambda params, batch: {"accuracy": tasks.accuracy(_outputs(cell, params, batch), batch)},
        until=lambda held: held["accuracy"] >= 0.95,
    )
    done, step = np.asarray(fitted.state.done), np.asarray(fitted.state.step)
    return [float(BATCH * s) if d else float("inf") for d, s in zip(done, step, strict=True)]

"""Cells that a user might bring to `experiments.gradient_decay --cell`, good ones and bad ones."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import rnnjax


class Params(NamedTuple):
    w_x: Any
    w_h: Any


@dataclasses.dataclass(frozen=True)
class Readout(rnnjax.Cell):
    """Linear, h_t = x_t W1 + h_{t-1} W2, and its output y_t = 2 h_t is no part of the carry."""

    hidden_size: int = 4

    def init(self, key, input_size, dtype=None):
        size = self.hidden_size
        return Params(jax.random.normal(key, (input_size, size), dtype), jnp.eye(size, dtype=dtype))

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params.w_h.dtype)

    def step(self, params, carry, x):
        h = x @ params.w_x + carry @ params.w_h
        return h, 2 * h


class Diagonal(Readout):
    """An independently recurrent network: W2 is a vector."""

    def init(self, key, input_size, dtype=None):
        w_x, w_h = super().init(key, input_size, dtype)
        return Params(w_x, w_h[0])

    def step(self, params, carry, x):
        h = x @ params.w_x + carry * params.w_h
        return h, 2 * h


def two_layers(hidden_size: int) -> rnnjax.Stack:
    """A function that makes a cell."""
    return rnnjax.Stack((rnnjax.GRU(hidden_size), rnnjax.GRU(hidden_size)))


INSTANCE = rnnjax.LSTM(3)


# What cannot be measured


class NotACell:
    """Takes a hidden size, and has no step."""

    def __init__(self, hidden_size):
        self.size = hidden_size


class Unhashable(Readout):
    """Like a dataclass that is not frozen: it compares by value, and so has no hash."""

    __hash__ = None  # type: ignore[assignment]


class Forgetful(Readout):
    """Nothing multiplies its carry, which it does not use."""

    def step(self, params, carry, x):
        h = x @ params.w_x + 0 * carry
        return h, 2 * h


class TwoOutputs(Readout):
    def step(self, params, carry, x):
        h, y = super().step(params, carry, x)
        return h, (h, y)


class Float32(Readout):
    """Takes no notice of the dtype that is asked for."""

    def init(self, key, input_size, dtype=None):
        return super().init(key, input_size, "float32")


class Impure(Readout):
    """Its step counts its calls."""

    calls = 0

    def step(self, params, carry, x):
        Impure.calls += 1
        h, _ = super().step(params, carry, x)
        return h, Impure.calls * h

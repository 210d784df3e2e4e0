"""Two custom cells, as a user would write them, which must have all properties of the built-in cells.

`Leaky` is a class with elementwise gates; `MGU` is a plain step with a scalar leaf in its carry.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import StepCell


class LeakyParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    rate: Array  # [H]


@dataclasses.dataclass(frozen=True)
class Leaky:
    """A leaky unit whose output is not part of its carry: h_t = σ(rate) h_{t-1} + tanh(u_t + r_t), y_t = h_t² - u_t."""

    hidden_size: int

    def init(self, key, input_size, dtype=None):
        key_x, key_h, key_rate = jax.random.split(key, 3)
        size = self.hidden_size
        return LeakyParams(
            w_x=jax.random.normal(key_x, (input_size, size), dtype),
            w_h=jax.random.normal(key_h, (size, size), dtype),
            rate=jax.random.normal(key_rate, (size,), dtype),
        )

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params.w_h.dtype)

    def step(self, params, carry, x):
        u = x @ params.w_x
        h = jax.nn.sigmoid(params.rate) * carry + jnp.tanh(u + carry @ params.w_h)
        return h, h * h - u


class MGUCarry(NamedTuple):
    h: Array  # [*batch, H]
    age: Array  # [*batch]: a leaf with no feature axis


def mgu_init(key, input_size, dtype=None):
    """`w` [D + H, 2H], and a learned initial hidden state `h_0` [H], so that resets have a gradient."""
    key_w, key_h = jax.random.split(key)
    return {"w": jax.random.normal(key_w, (input_size + 3, 6), dtype), "h_0": jax.random.normal(key_h, (3,), dtype)}


def mgu_initial_carry(params, batch_shape):
    h_0 = params["h_0"]
    return MGUCarry(jnp.broadcast_to(h_0, (*batch_shape, 3)), jnp.ones(batch_shape, h_0.dtype))


def mgu_step(params, carry, x):
    """A minimal gated unit whose candidate depends on its age: age_t = age_{t-1} / 2 + 1.

    It multiplies the concatenation [x, h], so it has no explicit input projection.
    """
    f, n = jnp.split(jnp.concatenate([x, carry.h], axis=-1) @ params["w"], 2, axis=-1)
    f = jax.nn.sigmoid(f)
    age = carry.age / 2 + 1
    h = (1 - f) * carry.h + f * jnp.tanh(n) / (1 + age**2)[..., None]
    return MGUCarry(h, age), h


MGU = StepCell(mgu_step, mgu_initial_carry, mgu_init)

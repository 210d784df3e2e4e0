"""One matrix at many gains: a tanh network whose rows of a batch differ in gain."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import rnnjax
from rnnjax.initializers import Normal


class GainParams(NamedTuple):
    w_h: Any  # [H, H], gain 1
    gain: Any  # [G, 1]


@dataclasses.dataclass(frozen=True)
class GainTanh(rnnjax.Cell):
    """h_t = tanh(x_t + g h_{t-1} W): a batch of G rows, row i with gain g_i, and one input per unit.

    The output is log φ' of each unit, `[G, H]`: 2 (log 2 - |z| - log(1 + e^(-2|z|))), right where tanh saturates.
    """

    hidden_size: int

    def init(self, key: Array, input_size: int, dtype: Any = None) -> GainParams:
        """Gain 1; replace it."""
        w_h = Normal()(key, (self.hidden_size, self.hidden_size), dtype or jnp.float32)
        return GainParams(w_h, jnp.ones((1, 1), w_h.dtype))

    def initial_carry(self, params: GainParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, self.hidden_size), params.w_h.dtype)

    def step(self, params: GainParams, carry: Array, x: Array) -> tuple[Array, Array]:
        z = x + params.gain * (carry @ params.w_h)
        size = jnp.abs(z)
        log_slope = 2 * (jnp.log(jnp.asarray(2, z.dtype)) - size - jnp.log1p(jnp.exp(-2 * size)))
        return jnp.tanh(z), log_slope


def networks(hidden_size: int, gains: tuple[float, ...], seed: int) -> tuple[GainTanh, GainParams, Array]:
    """The cell, one matrix with all gains, and a random state `[G, H]` to start from (zero would stay zero)."""
    cell = GainTanh(hidden_size)
    key_w, key_h = jax.random.split(jax.random.key(seed))
    params = cell.init(key_w, hidden_size, jnp.float64)._replace(gain=jnp.asarray(gains, jnp.float64)[:, None])
    start = jax.random.normal(key_h, (hidden_size,), jnp.float64) / 2
    return cell, params, jnp.broadcast_to(start, (len(gains), hidden_size))

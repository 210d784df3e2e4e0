"""The network of the paper: fifty units, three ways to draw them, a readout of the last state; and its loss with Ω."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import rnnjax
from rnnjax import tasks
from rnnjax.gradients import norm_ratios

INPUTS, CLASSES = 6, 4
FLOOR = 1e-10  # adjoints below it do not count in Ω, as in the authors' code, where the loss is a mean over rows

INITIALISATIONS = ("sigmoid", "basic tanh", "smart tanh")


@dataclasses.dataclass(frozen=True)
class SigmoidElman(rnnjax.Cell):
    """h_t = σ(x_t W1 + h_{t-1} W2 + b)."""

    hidden_size: int

    def init(self, key: Array, input_size: int, dtype: Any = None) -> rnnjax.ElmanParams:
        return rnnjax.elman_init(key, input_size, self.hidden_size, dtype=dtype)

    def initial_carry(self, params: rnnjax.ElmanParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return rnnjax.elman_initial_carry(params, batch_shape)

    def step(self, params: rnnjax.ElmanParams, carry: Array, x: Array) -> tuple[Array, Array]:
        return rnnjax.elman_step(params, carry, x, jax.nn.sigmoid)


class Network(NamedTuple):
    rnn: rnnjax.ElmanParams
    w_out: Array  # [H, 4]
    b_out: Array  # [4]


def cell_of(initialisation: str, hidden_size: int) -> Any:
    return SigmoidElman(hidden_size) if initialisation == "sigmoid" else rnnjax.Elman(hidden_size)


def draw(initialisation: str, hidden_size: int, key: Array) -> Network:
    """N(0, 0.01²) for sigmoid, N(0, 0.1²) for basic tanh; smart tanh: 15 connections a unit, spectral radius 0.95.

    Biases are zero. Eigenvalues are LAPACK's: to be run in a program of its own.
    """
    size = hidden_size
    scale = 0.1 if initialisation == "basic tanh" else 0.01
    key_in, key_h, key_out, key_which = jax.random.split(key, 4)
    w_h = scale * jax.random.normal(key_h, (size, size))
    if initialisation == "smart tanh":
        keys = jax.random.split(key_which, size)
        kept = jax.vmap(lambda key: jax.random.permutation(key, size) < min(15, size))(keys)
        w_h = jnp.where(kept, w_h, 0)
        w_h = 0.95 * w_h / jnp.abs(jnp.linalg.eigvals(w_h)).max()
    rnn = rnnjax.ElmanParams(scale * jax.random.normal(key_in, (INPUTS, size)), w_h, jnp.zeros(size))
    return Network(rnn, scale * jax.random.normal(key_out, (size, CLASSES)), jnp.zeros(CLASSES))


def logits(cell: Any, network: Network, batch: tasks.Batch) -> Array:
    """`[B, 4]`, of the last state, which `unroll` gives without storing all outputs."""
    last, _ = rnnjax.unroll(cell, network.rnn, batch.xs)
    return last @ network.w_out + network.b_out


def cross_entropy(scores: Array, batch: tasks.Batch) -> Array:
    """The mean over rows, in nats."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), batch.targets[-1][:, None], axis=-1)
    return -chosen.mean()


def accuracy(cell: Any, network: Network, batch: tasks.Batch) -> Array:
    return (logits(cell, network, batch).argmax(-1) == batch.targets[-1]).mean()


def omega(cell: Any, network: Network, batch: tasks.Batch) -> Array:
    """Ω as in the authors' code: of squared norms, the mean over the steps that count, through W2 alone."""

    def loss(ys: Array) -> Array:
        return cross_entropy(ys[-1] @ network.w_out + network.b_out, batch)

    ratio, counts = norm_ratios(cell, network.rnn, batch.xs, loss, floor=FLOOR)
    return jnp.where(counts, (ratio**2 - 1) ** 2, 0).sum() / jnp.maximum(counts.sum(), 1)


def total_loss(cell: Any, weight: float, network: Network, batch: tasks.Batch) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy, plus Ω times its weight."""
    value = cross_entropy(logits(cell, network, batch), batch)
    if weight == 0:
        return value, {}
    price = omega(cell, network, batch)
    return value + weight * price, {"omega": price}

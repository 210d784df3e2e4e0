"""Flossing before training, training, and the exponents at each of the three points."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

import rnnjax
from rnnjax.gradients import finite_time_exponents, flossing
from rnnjax.initializers import Normal
from rnnjax.tasks import Batch, accuracy, cross_entropy, delayed_xor
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many

HELD_OUT = 200  # sequences
BEYOND = 20  # steps of a sequence after the first answer

Asked = dict[str, Any]


class Network(NamedTuple):
    rnn: rnnjax.ElmanParams
    w_out: Array  # [H, 2]
    b_out: Array  # [2]


def draw(hidden_size: int, key: Array) -> Network:
    """W2 ~ N(0, 1/H): at the edge of chaos of a network that nothing drives."""
    key_rnn, key_out = jax.random.split(key)
    rnn = cell_of(hidden_size).init(key_rnn, 1)
    return Network(rnn, jax.random.normal(key_out, (hidden_size, 2)) / hidden_size**0.5, jnp.zeros(2))


def cell_of(hidden_size: int) -> rnnjax.Elman:
    return rnnjax.Elman(hidden_size, w_h=Normal())


def logits(cell: Any, network: Network, batch: Batch) -> Array:
    return rnnjax.unroll(cell, network.rnn, batch.xs)[1] @ network.w_out + network.b_out


def train(asked: Asked, mesh: Mesh | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One delay: every seed, not flossed and flossed.

    Args:
      asked: delay, hidden_size, exponents (k), seeds, seed, floss_updates, updates, batch, rate, floss_steps.
    Returns:
      Values: for "plain" and "flossed" the held-out accuracy and what cross-entropy is, over seeds. Arrays: "exponents"
      `[before, flossed, plain trained, flossed trained; seeds, k]`, "updates", and "accuracy" `[lines, 2, seeds]`.
    """
    cell, delay, seeds = cell_of(asked["hidden_size"]), asked["delay"], asked["seeds"]
    steps = delay + BEYOND
    key = jax.random.fold_in(jax.random.key(asked["seed"]), delay)
    keys = jax.random.split(key, seeds)
    start = jax.jit(jax.vmap(lambda key: draw(asked["hidden_size"], key)))(keys)

    def inputs(key: Array, rows: int) -> Array:
        return delayed_xor(key, asked["floss_steps"], (rows,), delay=2).xs

    def price(network: Network, xs: Array) -> Array:
        return flossing(cell, network.rnn, xs, k=asked["exponents"])

    flossed = fit_many(
        price,
        lambda key, setting: setting["network"],
        optax.adam(asked["rate"]),
        lambda key, step: inputs(key, 1),
        {"network": start, "key": keys},
        FitOptions(steps=asked["floss_updates"], chunk=asked["floss_updates"]),
        key=key,
        mesh=mesh,
    )
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), start, flossed.state.params)
    fitted = fit_many(
        lambda network, batch: cross_entropy(logits(cell, network, batch), batch),
        lambda key, setting: setting["network"],
        optax.chain(clip_by_global_norm(1.0), optax.adam(asked["rate"])),
        lambda key, step: delayed_xor(key, steps, (asked["batch"],), delay=delay),
        {"network": both, "key": jnp.concatenate([keys, keys])},
        FitOptions(steps=asked["updates"], chunk=max(1, asked["updates"] // 10)),
        key=key,
        held_out=lambda key, index: delayed_xor(key, steps, (HELD_OUT,), delay=delay),
        measure=lambda network, batch: {"accuracy": accuracy(logits(cell, network, batch), batch)},
        mesh=mesh,
    )

    @jax.jit
    @jax.vmap
    def exponents(network: Network) -> Array:
        xs = inputs(jax.random.fold_in(key, 1), 4)
        return finite_time_exponents(cell, network.rnn, xs, k=asked["exponents"]).mean(0)

    trained = jax.tree.map(lambda leaf: (leaf[:seeds], leaf[seeds:]), fitted.state.params)
    parts = [start, flossed.state.params] + [
        jax.tree.map(lambda pair, i=i: pair[i], trained, is_leaf=lambda leaf: type(leaf) is tuple) for i in range(2)
    ]
    reached = fitted.history["held_out_accuracy"].reshape(-1, 2, seeds)
    values = {
        name: {
            "accuracy": reached[-1, i].tolist(),
            "failed": [f is not None for f in fitted.faults][i * seeds :][:seeds],
        }
        for i, name in enumerate(("plain", "flossed"))
    }
    values["floss_loss"] = flossed.history["loss"][-1].tolist()
    arrays = {
        "exponents": np.stack([np.asarray(exponents(part)) for part in parts]),
        "updates": fitted.history["step"],
        "accuracy": reached,
    }
    return values, arrays

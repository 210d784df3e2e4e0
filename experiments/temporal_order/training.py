"""Many seeds of one setting, trained in one program, and tested on fresh sequences."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.temporal_order import network
from rnnjax import tasks
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many

METHODS = ("SGD", "SGD, clipped", "SGD, clipped, Ω")
LOOK_EVERY = 500  # updates from one look at held-out sequences to the next
HELD_OUT, ENOUGH = 2000, 0.995
TEST, TEST_AT_ONCE, SOLVED = 10_000, 1000, 0.99

Asked = dict[str, Any]
Line = dict[str, Any]


def train(
    asked: Asked, report: Callable[[Line], None] | None = None, mesh: Mesh | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One row: every seed of the methods of one program.

    Args:
      asked: initialisation, steps (T), omega (whether the methods are the two without Ω or the one with), seeds, seed,
        hidden_size, updates, batch, rate, max_norm, omega_weight.
    Returns:
      Values: for each method of `methods_of(asked)` lists over seeds. Arrays: "updates" `[lines]`, and "accuracy",
      "loss", "gradient_norm" `[lines, methods, seeds]`, and with Ω "omega".
    """
    cell = network.cell_of(asked["initialisation"], asked["hidden_size"])
    methods, seeds, steps = methods_of(asked), asked["seeds"], asked["steps"]
    limits = [jnp.inf if method == "SGD" else asked["max_norm"] for method in methods]
    key = jax.random.fold_in(jax.random.key(asked["seed"]), steps)
    own_keys = jax.random.split(key, seeds)
    settings = {
        "max_norm": jnp.repeat(jnp.array(limits), seeds),
        "key": jnp.concatenate([own_keys] * len(methods)),  # a seed starts and reads alike in every method
    }
    draw = functools.partial(network.draw, asked["initialisation"], asked["hidden_size"])
    fitted = fit_many(
        functools.partial(network.total_loss, cell, asked["omega_weight"] if asked["omega"] else 0.0),
        lambda key, setting: draw(key),
        lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.sgd(asked["rate"])),
        lambda key, step: tasks.temporal_order(key, steps, (asked["batch"],)),
        settings,
        FitOptions(steps=asked["updates"], chunk=min(LOOK_EVERY, asked["updates"])),
        key=key,
        held_out=lambda key, index: tasks.temporal_order(key, steps, (HELD_OUT,)),
        measure=lambda params, batch: {"accuracy": network.accuracy(cell, params, batch)},
        until=lambda metrics: metrics["accuracy"] >= ENOUGH,
        report=report,
        mesh=mesh,
    )
    right = _tested(cell, fitted.state.params, steps, asked["seed"])
    shape = len(methods), seeds
    accuracy, updates = right.reshape(shape), np.asarray(fitted.state.step).reshape(shape)
    diverged = np.array([fault is not None for fault in fitted.faults]).reshape(shape)
    values = {
        method: {
            "solved": ((accuracy[i] > SOLVED) & ~diverged[i]).tolist(),
            "test_accuracy": accuracy[i].tolist(),
            "updates": updates[i].tolist(),
            "diverged": diverged[i].tolist(),
        }
        for i, method in enumerate(methods)
    }
    names = {"accuracy": "held_out_accuracy", "loss": "loss", "gradient_norm": "gradient_norm", "omega": "omega"}
    history = {k: fitted.history[name].reshape(-1, *shape) for k, name in names.items() if name in fitted.history}
    return values, {"updates": fitted.history["step"], **history}


def methods_of(asked: Asked) -> tuple[str, ...]:
    return METHODS[2:] if asked["omega"] else METHODS[:2]


def _tested(cell: Any, params: Any, steps: int, seed: int) -> np.ndarray:
    """The share of 10,000 sequences that no run has seen, answered right; the same for all. `[runs]`."""
    key = jax.random.fold_in(jax.random.key(seed), 10**6 + steps)

    @jax.jit
    def score(params: Any, key: Any):
        batch = tasks.temporal_order(key, steps, (TEST_AT_ONCE,))
        return jax.vmap(lambda p: network.accuracy(cell, p, batch))(params)

    return np.mean([score(params, each) for each in jax.random.split(key, TEST // TEST_AT_ONCE)], axis=0)

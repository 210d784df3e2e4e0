"""What the same networks learn: all settings and seeds of a cell, a task and a length in one program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import rnnjax
from experiments.collapse.networks import CELLS, SETTINGS, TASKS, draw, logits
from rnnjax.tasks import accuracy, cross_entropy
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many

HELD_OUT = 1000


def train(asked: dict[str, Any], mesh: Mesh | None = None) -> dict[str, Any]:
    """Held-out accuracy of every setting and seed after the budget of updates.

    Args:
      asked: cell, task, steps (T), hidden_size, seeds, seed, updates, batch, rate.
    Returns:
      "accuracy": lists over settings of lists over seeds; "failed": how many runs met NaN or inf.
    """
    cell, task = CELLS[asked["cell"]](asked["hidden_size"]), TASKS[asked["task"]]
    settings, seeds, steps = SETTINGS[asked["cell"]], asked["seeds"], asked["steps"]
    keys = jax.random.split(jax.random.key(asked["seed"]), seeds)

    def outputs(network: Any, batch: Any):
        return logits(rnnjax.unroll(cell, network.rnn, batch.xs)[1], network)

    fitted = fit_many(
        lambda network, batch: cross_entropy(outputs(network, batch), batch),
        lambda key, setting: draw(cell, task, key, setting["gain"], setting["bias"]),
        optax.chain(clip_by_global_norm(1.0), optax.adam(asked["rate"])),
        lambda key, step: task.draw(key, steps, (asked["batch"],)),
        {
            "gain": jnp.repeat(jnp.array([s.gain for s in settings]), seeds),
            "bias": jnp.repeat(jnp.array([s.bias for s in settings]), seeds),
            "key": jnp.concatenate([keys] * len(settings)),
        },
        FitOptions(steps=asked["updates"], chunk=asked["updates"]),
        key=jax.random.key(asked["seed"]),
        held_out=lambda key, index: task.draw(key, steps, (HELD_OUT,)),
        measure=lambda network, batch: {"accuracy": accuracy(outputs(network, batch), batch)},
        mesh=mesh,
    )
    found = np.asarray(fitted.history["held_out_accuracy"][-1], float).reshape(len(settings), seeds)
    return {"accuracy": found.tolist(), "failed": sum(fault is not None for fault in fitted.faults)}

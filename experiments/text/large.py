"""The one larger network: trained with checkpoints, scored on the whole test play, saved to be loaded and run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.text.dropping import with_dropped
from experiments.text.grid import MEASURE, Asked, Texts
from experiments.text.paired import by_stretch, standard_error
from experiments.text.parallel import cut_over
from experiments.text.score import bits, bits_compiled, cell_named, language_model, truncated_loss
from experiments.text.stream import stream
from rnnjax.training import Checkpoints, FitOptions, clip_by_global_norm, fit, init_state, save_model

WARM_UP, LAST_RATE = 0.02, 0.02  # share of the updates, and of the rate, that the schedule begins and ends with
LOOKS = 40  # at the validation text, and lines of the learning curve


def train(
    texts: Texts,
    asked: Asked,
    steps_folder: Path,
    model_folder: Path,
    info: dict[str, Any],
    report: Callable[[dict[str, Any]], None] | None = None,
    mesh: Mesh | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains, or goes on from the newest checkpoint; then scores and saves the model.

    Args:
      asked: cell, hidden_size, updates, batch, steps, rate, max_norm, dropped, restarted, seed.
      steps_folder: of the checkpoints.
      model_folder: where the model goes.
      info: what is saved with it.
      report: called with each line of metrics.
      mesh: devices that the rows of the batch are cut over; with several processes there are no checkpoints.
    Returns:
      Values: bits per character of the test play, with the standard error over 50 stretches of it; of training and
      validation. Arrays, one entry a look: "updates", "loss" (nats), "held_out_bits_per_character", "gradient_norm";
      and "by_stretch", the bits of 50 stretches of the test play.
    """
    model = language_model(cell_named(asked["cell"], asked["hidden_size"], texts.alphabet_size), texts.alphabet_size)
    data, period = stream(texts.train, texts.alphabet_size, asked["steps"], asked["batch"], asked["restarted"])
    loss, initial = truncated_loss(model, asked["steps"])
    loss = with_dropped(loss, asked["dropped"])
    key = jax.random.key(asked["seed"])
    params = model.init(jax.random.fold_in(key, 0), texts.alphabet_size)
    rule = optax.chain(clip_by_global_norm(asked["max_norm"]), optax.adam(_schedule(asked["rate"], asked["updates"])))
    first = initial(model.initial_carry(params, (asked["batch"],)), jax.eval_shape(data, key, jnp.int32(0)))
    look = jnp.asarray(texts.look)
    every = max(1, asked["updates"] // LOOKS)
    alone = jax.process_count() == 1
    fitted = fit(
        loss,
        init_state(params, rule, jax.random.fold_in(key, 1), first),
        rule,
        data,
        FitOptions(steps=asked["updates"], chunk=every, data_period=period),
        held_out=lambda key, index: look,
        measure=lambda params, tokens: {MEASURE: bits(model, params, tokens).mean()},
        gradient=None if mesh is None else cut_over(loss, mesh, asked["batch"]),
        report=report,
        log=steps_folder.with_suffix(".jsonl") if alone else None,
        checkpoints=Checkpoints(folder=steps_folder, every=every, keep=2, config=asked) if alone else None,
    )
    params = fitted.state.params
    tested = np.asarray(bits_compiled(model, params, jnp.asarray(texts.test)), np.float64)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    values = {
        f"test_{MEASURE}": float(tested.mean()),
        f"test_{MEASURE}_standard_error": standard_error(by_stretch(tested)),
        f"held_out_{MEASURE}": fitted.history[-1][f"held_out_{MEASURE}"],
        f"train_{MEASURE}": fitted.history[-1]["loss"] / float(np.log(2)),
        "parameters_count": size,
        "passes_over_the_text": asked["updates"] / period,
    }
    if jax.process_index() == 0:
        info = {**info, **values, "asked": asked}
        save_model(model_folder, model, params, info, input_size=texts.alphabet_size)
    names = {"updates": "step", **{name: name for name in ("loss", "gradient_norm", f"held_out_{MEASURE}")}}
    curves = {name: np.array([line[key] for line in fitted.history], float) for name, key in names.items()}
    return values, {**curves, "by_stretch": by_stretch(tested)}


def _schedule(rate: float, updates: int) -> optax.Schedule:
    """Up to the rate in a straight line, then down by a cosine."""
    return optax.warmup_cosine_decay_schedule(
        0.0, rate, max(1, round(WARM_UP * updates)), max(2, updates), LAST_RATE * rate
    )

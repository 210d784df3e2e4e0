"""All networks of one cell, clipped and not, of every fold and seed, in one program; and what they forecast."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rnnjax
from experiments.stocks.walk import CURVE_DAYS, Folds, Panel, load, walk_forward
from rnnjax.tasks import Batch, squared_error
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many, save_model

CELLS: dict[str, Callable[[int], rnnjax.Cell]] = {"elman": rnnjax.Elman, "lstm": rnnjax.LSTM, "gru": rnnjax.GRU}

INPUT_SIZE = 1  # the return of the day, standardised
POINTS = 20  # of a learning curve


def train(asked: Sequence[dict[str, Any]], mesh: Any = None, models: Path | None = None) -> list[dict[str, Any]]:
    """Networks of one cell on one input, each once per fold. Clipped or not, a seed starts from the same weights.

    Args:
      asked: `network` (its index) and `max_norm` (None: not clipped) of each; the same for all `input`, `cell`, `seed`,
        `folds`, `days`, `steps` (T), `hidden_size`, `updates`, `batch`, `rate`.
      mesh: devices over which the networks are split.
      models: where the networks of the last fold are saved.
    Returns:
      For each row `failed` folds; `forecast` `[F, days, C]` log returns, NaN where a company is not served; `updates`
      `[points]`; `loss`, `held_out_loss`, `gradient_norm`, `gradient_norm_max`, `clipped` (share of updates)
      `[points, F]`, losses in units of the past's variance.
    """
    first, count = asked[0], asked[0]["folds"]
    panel = load(first["input"], first["seed"])
    folds = walk_forward(panel, count, first["days"], first["steps"])
    model = rnnjax.Readout(CELLS[first["cell"]](first["hidden_size"]), output_size=1)
    series = jnp.asarray(np.nan_to_num(panel.values), jnp.float32)  # days before a company's first are never read
    rate = optax.cosine_decay_schedule(first["rate"], first["updates"])
    key = jax.random.key(first["seed"])

    def loss(params: rnnjax.ReadoutParams, batch: Batch) -> Array:
        return squared_error(rnnjax.unroll(model, params, batch.xs)[1], batch)

    def held_out(key: Array, index: Array, setting: dict[str, Array]) -> Batch:
        return windows_before(series, setting, setting["cut"], CURVE_DAYS, first["steps"])

    def forecast(run: tuple[rnnjax.ReadoutParams, dict[str, Array]]) -> Array:
        params, setting = run
        batch = windows_before(series, setting, setting["first"], first["days"], first["steps"])
        said = rnnjax.unroll(model, params, batch.xs)[1][-1].reshape(first["days"], -1)
        return jnp.where(setting["served"], said * setting["std"] + setting["mean"], jnp.nan)

    limits = [np.inf if each["max_norm"] is None else each["max_norm"] for each in asked]
    numbers = [each["network"] * count + fold for each in asked for fold in range(count)]
    settings = {
        "max_norm": jnp.asarray(np.repeat(limits, count), jnp.float32),
        "key": jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.asarray(numbers, jnp.uint32)),
        **jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(asked)), known(folds)),
    }
    fitted = fit_many(
        loss,
        lambda key, setting: model.init(key, INPUT_SIZE),
        lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.adam(rate)),
        functools.partial(training_windows, series, panel.starts, first["steps"], first["batch"]),
        settings,
        FitOptions(steps=first["updates"], chunk=max(1, first["updates"] // POINTS)),
        key=key,
        held_out=held_out,
        mesh=mesh,
    )
    if models is not None:
        save(models, asked, panel, folds, model, fitted.state.params)
    said = jax.jit(functools.partial(jax.lax.map, forecast))((fitted.state.params, settings))
    names = ("loss", "held_out_loss", "gradient_norm", "gradient_norm_max", "clipped")
    return [
        {
            "failed": sum(fault is not None for fault in fitted.faults[own]),
            "forecast": said[own],
            "updates": fitted.history["step"],
            **{name: fitted.history[name][:, own] for name in names},
        }
        for own in (slice(i * count, (i + 1) * count) for i in range(len(asked)))  # a network in all folds
    ]


def known(folds: Folds) -> dict[str, Array]:
    """What a network is told of its fold, `[F, ...]`."""
    numbers = {name: jnp.asarray(getattr(folds, name), jnp.float32) for name in ("mean", "std")}
    days = {name: jnp.asarray(getattr(folds, name), jnp.int32) for name in ("cut", "first")}
    return {**days, **numbers, "served": jnp.asarray(folds.served)}


def training_windows(
    series: Array, starts: np.ndarray, steps: int, rows: int, key: Array, step: Array, setting: dict[str, Array]
) -> Batch:
    """Windows of T returns and the T that follow each of them, evenly drawn from all that end before the fold's cut."""
    key_company, key_day = jax.random.split(key)
    begin = jnp.asarray(starts, jnp.int32)
    windows = jnp.where(setting["served"], setting["cut"] - begin - steps, 0)  # T returns and a last target
    company = jax.random.choice(key_company, len(starts), (rows,), p=windows / windows.sum())
    offset = jnp.floor(jax.random.uniform(key_day, (rows,)) * windows[company]).astype(jnp.int32)
    days = begin[company] + jnp.minimum(offset, windows[company] - 1) + jnp.arange(steps + 1, dtype=jnp.int32)[:, None]
    scaled = (series[days, company] - setting["mean"][company]) / setting["std"][company]
    lengths = jnp.full((rows,), steps, jnp.int32)
    return Batch(scaled[:-1, :, None], scaled[1:, :, None], jnp.ones((steps, rows), scaled.dtype), lengths)


def windows_before(series: Array, setting: dict[str, Array], first: Array, days: int, steps: int) -> Batch:
    """For each of `days` days from `first` on, and each company, the T returns before it; the day itself is the target.

    Rows are days times companies; only the last step is scored, and a company that is not served weighs nothing.
    """
    companies = series.shape[1]
    day = first + jnp.arange(days, dtype=jnp.int32)
    at = day + jnp.arange(-steps, 1, dtype=jnp.int32)[:, None]
    scaled = (series[at] - setting["mean"]) / setting["std"]
    scaled = jnp.where(setting["served"], scaled, 0).reshape(steps + 1, days * companies, 1)
    served = jnp.broadcast_to(setting["served"], (days, companies)).reshape(-1)
    weights = jnp.zeros((steps, days * companies), scaled.dtype).at[-1].set(served.astype(scaled.dtype))
    return Batch(scaled[:-1], scaled[1:], weights, jnp.full((days * companies,), steps, jnp.int32))


def save(folder: Path, asked: Sequence[dict[str, Any]], panel: Panel, folds: Folds, model: Any, params: Any) -> None:
    """Saves the networks of the last fold, with what they take and give."""
    by_company = zip(panel.names, folds.served[-1], folds.mean[-1].tolist(), folds.std[-1].tolist(), strict=True)
    info = {
        "task": "the next daily log return, standardised",
        "standardised_by": {name: {"mean": mean, "std": std} for name, served, mean, std in by_company if served},
        "fitted_before": str(panel.dates[folds.cut[-1]]),
    }
    for i, each in enumerate(asked):
        own = jax.tree.map(lambda leaf, i=i: leaf[(i + 1) * len(folds.first) - 1], params)
        place = folder / f"{each['cell']}-{'unclipped' if each['max_norm'] is None else 'clipped'}-{each['network']}"
        save_model(place, model, own, info | each, input_size=INPUT_SIZE)

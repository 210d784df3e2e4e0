"""All networks of one cell, clipped and not, of every fold and seed, in one program; and what they forecast."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

import rnnjax
from experiments.stocks.folds import CURVE_DAYS, Folds, walk_forward
from experiments.stocks.series import load
from rnnjax.tasks import Batch, squared_error
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many

CELLS: dict[str, Callable[[int], rnnjax.Cell]] = {"elman": rnnjax.Elman, "lstm": rnnjax.LSTM, "gru": rnnjax.GRU}

INPUT_SIZE = 1
"""The return of the day, standardised."""

LOOKS = 20
"""Points of a learning curve."""

Asked = dict[str, Any]


class Trained(NamedTuple):
    """What one program gives.

    Attributes:
      values: for the row.
      arrays: "forecast" `[clipped, seeds, N, C]` log returns, NaN where no fold asks; "updates" `[lines]`; "loss",
        "held_out_loss", "gradient_norm" `[lines, clipped, seeds, folds]`, in units of the past's variance;
        "held_out_persistence" `[folds]`, the loss of persistence on the days of "held_out_loss".
      model, params: the networks; leaves `[clipped, seeds, folds, ...]`.
    """

    values: dict[str, Any]
    arrays: dict[str, np.ndarray]
    model: rnnjax.Readout
    params: rnnjax.ReadoutParams


def train(asked: Asked, mesh: Mesh | None = None) -> Trained:
    """One cell on one input.

    Args:
      asked: input, cell, clipping (a list of booleans), seeds, seed, folds, days, steps (T), hidden_size, updates,
        batch, rate, max_norm.
      mesh: the networks are cut over its devices.
    """
    panel = load(asked["input"], asked["seed"])
    folds = walk_forward(panel, asked["folds"], asked["days"], asked["steps"])
    shape = len(asked["clipping"]), asked["seeds"], asked["folds"]
    model = rnnjax.Readout(CELLS[asked["cell"]](asked["hidden_size"]), output_size=1)
    series = jnp.asarray(np.nan_to_num(panel.values), jnp.float32)  # nobody reads before a company's first day
    rate = optax.cosine_decay_schedule(asked["rate"], asked["updates"])

    def loss(params: rnnjax.ReadoutParams, batch: Batch) -> Array:
        return squared_error(rnnjax.unroll(model, params, batch.xs)[1], batch)

    fitted = fit_many(
        loss,
        lambda key, setting: model.init(key, INPUT_SIZE),
        lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.adam(rate)),
        functools.partial(training_windows, series, panel.starts, asked["steps"], asked["batch"]),
        _settings(asked, folds, shape),
        FitOptions(steps=asked["updates"], chunk=max(1, asked["updates"] // LOOKS)),
        key=jax.random.key(asked["seed"]),
        held_out=lambda key, index, setting: windows_before(
            series, setting, setting["cut"], CURVE_DAYS, asked["steps"]
        ),
        mesh=mesh,
    )
    params = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), fitted.state.params)
    said = _forecasts(model, params, series, folds, asked)
    names = {"loss": "loss", "held_out_loss": "held_out_loss", "gradient_norm": "gradient_norm"}
    curves = {k: fitted.history[name].reshape(-1, *shape) for k, name in names.items()}
    clipped = fitted.history["clipped"].reshape(-1, *shape)
    values = {
        "failed": sum(fault is not None for fault in fitted.faults),
        "clipped_share": [
            float(np.nanmean(clipped[:, i])) if flag else None for i, flag in enumerate(asked["clipping"])
        ],
        "largest_gradient_norm": float(np.nanmax(fitted.history["gradient_norm_max"])),
    }
    arrays = {"forecast": said, "updates": fitted.history["step"], **curves}
    arrays["held_out_persistence"] = np.array(
        [
            np.nanmean((panel.values[cut : cut + CURVE_DAYS] / std)[:, served] ** 2)
            for cut, std, served in _by_fold(folds)
        ]
    )
    return Trained(values, arrays, model, params)


def _by_fold(folds: Folds) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    return zip(folds.cut, folds.std, folds.served, strict=True)


def _settings(asked: Asked, folds: Folds, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Each run's fold, clip and key, in the order clipping, seeds, folds. Clipped or not, a seed starts alike."""
    _, seed, fold = np.indices(shape).reshape(3, -1)
    limits = np.repeat([asked["max_norm"] if flag else np.inf for flag in asked["clipping"]], shape[1] * shape[2])
    key = jax.random.key(asked["seed"])
    numbers = jnp.asarray(seed * shape[2] + fold, jnp.uint32)
    return {
        "max_norm": jnp.asarray(limits, jnp.float32),
        "key": jax.vmap(functools.partial(jax.random.fold_in, key))(numbers),
        **{name: jnp.asarray(getattr(folds, name)[fold], jnp.int32) for name in ("cut", "first")},
        **{name: jnp.asarray(getattr(folds, name)[fold], jnp.float32) for name in ("mean", "std")},
        "served": jnp.asarray(folds.served[fold]),
    }


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

    Rows are days times companies; only the last step is asked, and a company that is not served weighs nothing.
    """
    companies = series.shape[1]
    day = first + jnp.arange(days, dtype=jnp.int32)
    at = day + jnp.arange(-steps, 1, dtype=jnp.int32)[:, None]
    scaled = (series[at] - setting["mean"]) / setting["std"]
    scaled = jnp.where(setting["served"], scaled, 0).reshape(steps + 1, days * companies, 1)
    served = jnp.broadcast_to(setting["served"], (days, companies)).reshape(-1)
    weights = jnp.zeros((steps, days * companies), scaled.dtype).at[-1].set(served.astype(scaled.dtype))
    return Batch(scaled[:-1], scaled[1:], weights, jnp.full((days * companies,), steps, jnp.int32))


def _forecasts(
    model: rnnjax.Readout, params: rnnjax.ReadoutParams, series: Array, folds: Folds, asked: Asked
) -> np.ndarray:
    """`[clipped, seeds, N, C]`: the return that each network expects of each day of its fold."""
    days, companies = asked["days"], series.shape[1]

    @jax.jit
    def of_a_fold(params: rnnjax.ReadoutParams, setting: dict[str, Array]) -> Array:
        batch = windows_before(series, setting, setting["first"], days, asked["steps"])
        said = jax.lax.map(lambda each: rnnjax.unroll(model, each, batch.xs)[1][-1, :, 0], params)
        return said.reshape(-1, days, companies) * setting["std"] + setting["mean"]

    runs = len(asked["clipping"]), asked["seeds"]
    said = np.full((*runs, *series.shape), np.nan, np.float32)
    for fold, first in enumerate(folds.first):
        own = jax.tree.map(lambda leaf, fold=fold: leaf[:, :, fold].reshape(-1, *leaf.shape[3:]), params)
        setting = {name: jnp.asarray(getattr(folds, name)[fold]) for name in ("mean", "std", "served", "first")}
        setting = {n: leaf.astype(jnp.float32) if n in ("mean", "std") else leaf for n, leaf in setting.items()}
        found = np.array(of_a_fold(own, setting))
        found[:, :, ~folds.served[fold]] = np.nan
        said[:, :, first : first + days] = found.reshape(*runs, days, companies)
    return said

"""Tasks that ask for memory: what remembers nothing gets, and two trained networks that others trained too."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rnnjax
from experiments.reproduce.row import Found, Row
from rnnjax import tasks, training

_SCHMIDHUBER = "npow/schmidhuber-problems (NumPy); initialisation and seeds are ours"
_CELLS: dict[str, Callable[[int], rnnjax.Cell]] = {"lstm": rnnjax.LSTM, "rnn": rnnjax.Elman}
_BATCH = 32


def _init(cell: rnnjax.Cell, inputs: int, outputs: int, key: Array) -> dict[str, Any]:
    key_cell, key_out = jax.random.split(key)
    size = cell.hidden_size  # pyright: ignore[reportAttributeAccessIssue]
    w_out = jax.random.normal(key_out, (size, outputs), jnp.float32) / jnp.sqrt(jnp.float32(size))
    return {
        "cell": cell.init(key_cell, inputs, jnp.float32),
        "w_out": w_out,
        "b_out": jnp.zeros(outputs, jnp.float32),
    }


def _outputs(cell: rnnjax.Cell, params: dict[str, Any], batch: tasks.Batch) -> Array:
    ys = rnnjax.unroll(cell, params["cell"], None, batch.xs)[1]
    return ys @ params["w_out"] + params["b_out"]


@functools.cache
def adding_errors(name: str, steps: int, updates: int, seeds: int) -> list[float]:
    """Mean squared error on 2,000 fresh sequences of U(-1, 1), H = 8, Adam 5e-3, clipped at 1, batches of 32."""
    cell = _CELLS[name](8)

    def data(key: Array, step: Array, count: int = _BATCH) -> tasks.Batch:
        return tasks.adding(key, steps, (count,), low=-1.0, high=1.0, dtype=jnp.float32)

    def loss(params: Any, batch: tasks.Batch) -> Array:
        return tasks.squared_error(_outputs(cell, params, batch), batch)

    fitted = training.fit_many(
        loss,
        lambda key, setting: _init(cell, 2, 1, key),
        optax.chain(training.clip_by_global_norm(1.0), optax.adam(5e-3)),
        data,
        {"key": jax.random.split(jax.random.key(0), seeds)},
        training.FitOptions(steps=updates, chunk=updates, nonfinite="skip"),
        key=jax.random.key(0),
        held_out=lambda key, index: data(key, index, 2000),
        measure=loss,
    )
    fresh = data(jax.random.key(12345), jnp.asarray(0), 2000)
    return np.asarray(jax.vmap(loss, in_axes=(0, None))(fitted.state.params, fresh)).tolist()


@functools.cache
def order_learned(name: str, steps: int, updates: int, seeds: int) -> list[float]:
    """Sequences seen until 99% of 1,000 held-out ones are right, H = 4, Adam 5e-3, clipped at 1; inf where never."""
    cell, look_every = _CELLS[name](4), 20

    def data(key: Array, step: Array, count: int = _BATCH) -> tasks.Batch:
        return tasks.temporal_order(key, steps, (count,), dtype=jnp.float32)

    def loss(params: Any, batch: tasks.Batch) -> Array:
        return tasks.cross_entropy(_outputs(cell, params, batch), batch)

    fitted = training.fit_many(
        loss,
        lambda key, setting: _init(cell, 6, 4, key),
        optax.chain(training.clip_by_global_norm(1.0), optax.adam(5e-3)),
        data,
        {"key": jax.random.split(jax.random.key(0), seeds)},
        training.FitOptions(steps=updates, chunk=look_every, nonfinite="skip"),
        key=jax.random.key(0),
        held_out=lambda key, index: data(key, index, 1000),
        measure=lambda params, batch: {"accuracy": tasks.accuracy(_outputs(cell, params, batch), batch)},
        until=lambda held: held["accuracy"] >= 0.99,
    )
    done, step = np.asarray(fitted.state.done), np.asarray(fitted.state.step)
    return [float(_BATCH * s) if d else float("inf") for d, s in zip(done, step, strict=True)]


def _adding(name: str) -> Callable[[bool], Found]:
    def measure(quick: bool) -> Found:
        errors = adding_errors(name, 100, 8000, 3)
        return Found(float(np.median(errors)), len(errors), float(np.std(errors, ddof=1)))

    return measure


def _order_solved(name: str) -> Callable[[bool], Found]:
    def measure(quick: bool) -> Found:
        seen = order_learned(name, 50, 3000, 5)
        return Found(float(np.isfinite(seen).sum()), len(seen))

    return measure


def _order_sequences(quick: bool) -> Found:
    seen = order_learned("lstm", 50, 3000, 5)
    return Found(float(np.median(seen)), len(seen))


_TCN = "Bai, Kolter and Koltun 2018 print 0.1767"

ROWS = (
    Row(
        name="adding-constant",
        what="adding, U(0, 1): best constant's squared error",
        published=1 / 6,
        tolerance=1e-12,
        source=f"variance of a sum; {_TCN}",
        exact=True,
        measure=lambda quick: Found(tasks.adding_baseline().loss),
    ),
    Row(
        name="adding-constant-centred",
        what="adding, U(-1, 1): best constant's squared error",
        published=2 / 3,
        tolerance=1e-12,
        source="variance of a sum",
        exact=True,
        measure=lambda quick: Found(tasks.adding_baseline(-1.0, 1.0).loss),
    ),
    Row(
        name="copy-floor",
        what="copy memory, T = 1000: cross-entropy of what remembers nothing",
        published=0.02039,
        tolerance=5.1e-6,
        unit="nats",
        source="10 ln 8/(T + 20); trained networks of Bai, Kolter and Koltun 2018 sit at "
        "it: LSTM .0204, RNN .0202, GRU .0197",
        exact=True,
        measure=lambda quick: Found(tasks.copy_memory_baseline(1000).loss),
    ),
    Row(
        name="adding-lstm",
        what="adding, T = 100, U(-1, 1), LSTM of 8 units: median squared error",
        published=0.0007,
        tolerance=0.002,
        source=_SCHMIDHUBER,
        measure=_adding("lstm"),
        full_only=True,
    ),
    Row(
        name="adding-rnn",
        what="adding, T = 100, U(-1, 1), tanh network of 8 units: median squared error",
        published=0.0706,
        tolerance=0.07,
        source=_SCHMIDHUBER,
        measure=_adding("rnn"),
        full_only=True,
    ),
    Row(
        name="order-lstm-solved",
        what="temporal order, T = 50, LSTM of 4 units: seeds of 5 that solve it",
        published=5.0,
        tolerance=0.0,
        source=_SCHMIDHUBER,
        measure=_order_solved("lstm"),
        unit="seeds",
        full_only=True,
    ),
    Row(
        name="order-lstm-sequences",
        what="temporal order, T = 50, LSTM of 4 units: median sequences until 99% right",
        published=6400.0,
        tolerance=6400.0,
        source=f"{_SCHMIDHUBER}; Adam 5e-3 and batches of 32 as for adding",
        unit="sequences",
        measure=_order_sequences,
        full_only=True,
    ),
    Row(
        name="order-rnn-solved",
        what="temporal order, T = 50, tanh network of 4 units: seeds of 5 that solve it",
        published=0.0,
        tolerance=0.0,
        source=_SCHMIDHUBER,
        measure=_order_solved("rnn"),
        unit="seeds",
        full_only=True,
    ),
)

NOT_RUN = (
    ("adding, T = 600: LSTM 0.164, GRU 5.3e-5, RNN 0.177", "Bai, Kolter and Koltun 2018", "hours on a CPU core"),
    ("copy memory, T = 1000: LSTM .0204, RNN .0202, GRU .0197", "the same", "hours; all three sit at the floor above"),
    (
        "temporal order, T = 100: LSTM, 31,390 sequences",
        "Hochreiter and Schmidhuber 1997",
        "another network and trainer",
    ),
    ("temporal order, T = 50 to 200: clipping and Ω", "Pascanu, Mikolov and Bengio 2013", "an experiment of its own"),
    ("cliff of figure 6", "Pascanu, Mikolov and Bengio 2013", "an experiment of its own"),
    ("continual Reber grammar needs forget gates", "Gers, Schmidhuber and Cummins 2000", "no number; not built"),
    ("gradient flossing, delayed XOR", "Engelken 2023", "an experiment of its own"),
)
"""What, source, and why it has no row."""

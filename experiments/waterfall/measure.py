"""The task, its training, and the log-adjoint before and after."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

import rnnjax
from experiments.gradient_decay.cells import redraw, rescale
from rnnjax import gradients
from rnnjax.sharding import spread

_MEASURED = 64  # sequences
_TESTED = 512  # sequences

INPUT_SIZE = 2  # noise and marker


class Model(NamedTuple):
    cell: Any
    w_out: Any  # [H, 1]
    b_out: Any  # [1]


class Measured(NamedTuple):
    """N networks (scale, seed; the seed fastest), lags 0..T.

    Attributes:
      before, after: `[N, T + 1]` nats, mean over sequences of log |dL/d(carry)| minus that at lag 0.
      error_before, error_after: `[N]` mean squared error on fresh sequences.
      training: `[N, updates]` loss of every batch.
    """

    before: Any
    after: Any
    error_before: Any
    error_after: Any
    training: Any


def sequences(key: Array, steps: int, count: int) -> tuple[Array, Array]:
    """Inputs `[T, count, 2]` (noise, marker) and targets `[count]`, the first noise."""
    noise = jax.random.normal(key, (steps, count), "float64")
    marker = jnp.zeros_like(noise).at[0].set(1)
    return jnp.stack([noise, marker], axis=-1), noise[0]


def measure_cell(
    cell: rnnjax.Cell, hidden_size: int, scales: tuple[float, ...], seeds: int, steps: int, updates: int, batch: int,
    learning_rate: float, seed: int, mesh: Mesh | None = None,
) -> Measured:  # fmt: skip
    """Trains and measures all networks of one cell."""
    key_draw, key_train, key_test = jax.random.split(jax.random.key(seed), 3)

    def draw(key: Array) -> Model:
        key_cell, key_recurrent, key_out = jax.random.split(key, 3)
        params = redraw(cell.init(key_cell, INPUT_SIZE, "float64"), key_recurrent, "orthogonal")
        w_out = jax.random.normal(key_out, (hidden_size, 1), "float64") / hidden_size**0.5
        return Model(params, w_out, jnp.zeros(1, "float64"))

    drawn = jax.vmap(draw)(jax.random.split(key_draw, seeds))  # LAPACK apart from the time loops
    models = [
        jax.tree.map(lambda leaf, i=i: leaf[i], drawn)._replace(
            cell=rescale(jax.tree.map(lambda leaf, i=i: leaf[i], drawn.cell), jnp.asarray(scale, "float64"))
        )
        for scale in scales
        for i in range(seeds)
    ]
    model = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    before, error_before = _look(cell, model, key_test, steps)
    trained, training = _train(cell, model, key_train, steps, updates, batch, learning_rate, mesh)
    after, error_after = _look(cell, trained, key_test, steps)
    return jax.tree.map(np.asarray, Measured(before, after, error_before, error_after, training))


def _loss(model: Model, ys: Array, targets: Array) -> Array:
    return (((ys[-1] @ model.w_out)[:, 0] + model.b_out - targets) ** 2).mean()


@functools.partial(jax.jit, static_argnums=(0, 3))
@functools.partial(jax.vmap, in_axes=(None, 0, None, None))
def _look(cell: rnnjax.Cell, model: Model, key: Array, steps: int) -> tuple[Array, Array]:
    xs, targets = sequences(key, steps, _TESTED)
    error = _loss(model, rnnjax.unroll(cell, model.cell, xs)[1], targets)
    xs, targets = xs[:, :_MEASURED], targets[:_MEASURED]
    found = gradients.adjoint(cell, model.cell, xs, lambda ys: _loss(model, ys, targets)).log_norm[::-1]
    return (found - found[0]).mean(axis=1), error


def _train(
    cell: rnnjax.Cell,
    models: Model,
    key: Array,
    steps: int,
    updates: int,
    batch: int,
    learning_rate: float,
    mesh: Mesh | None,
) -> tuple[Model, Array]:
    """The trained models, and `[N, updates]` losses; all models read the same batches."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))

    def train(model: Model) -> tuple[Model, Array]:
        def update(carry: tuple[Model, Any], key: Array) -> tuple[tuple[Model, Any], Array]:
            xs, targets = sequences(key, steps, batch)

            def loss(model: Model) -> Array:
                return _loss(model, rnnjax.unroll(cell, model.cell, xs)[1], targets)

            model, state = carry
            value, gradient = jax.value_and_grad(loss)(model)
            step, state = optimizer.update(gradient, state, model)
            return (optax.apply_updates(model, step), state), value  # pyright: ignore[reportReturnType]

        (model, _), losses = jax.lax.scan(update, (model, optimizer.init(model)), jax.random.split(key, updates))  # pyright: ignore[reportArgumentType]
        return model, losses

    return jax.tree.map(np.asarray, spread(train, mesh)(models))

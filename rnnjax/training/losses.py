"""What `fit` can use beside a plain loss: a gradient over a mesh, a loss of chunks, and the rate of the adjoint.

Over a mesh, XLA shards the computation and adds the collectives, none of them inside a time loop. The mesh may span
processes: a batch is a pure function of key and step, so every process draws the same batch and keeps its own rows.

Truncated backpropagation through time makes an update every k1 steps, with a gradient that reaches k2 steps back:

    carry_{t+1}, y_t = f(θ, carry_t, x_t)          the carry continues over all of time
    g_j = ∂/∂θ Σ_{t in chunk j} ℓ(y_t)             through the last k2 steps only; earlier carries are constants

Reference: Williams and Peng, An efficient gradient-based algorithm for on-line training of recurrent network
trajectories, Neural Computation 2 (1990), 490-501: BPTT(h; h'), h = k2 and h' = k1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from rnnjax.cell import Cell, PyTree, check_size
from rnnjax.gradients import adjoint
from rnnjax.sharding import check_rows, fully_sharded, place
from rnnjax.tasks import Batch
from rnnjax.training.optimizers import joined, trained


def data_parallel(
    loss: Callable[[PyTree, Any], Array], mesh: Mesh, *, batch_axes: Any = None, sharded: bool = False
) -> Callable[[PyTree, Any], tuple[Array, PyTree]]:
    """The `gradient` argument of `fit`: `(params, batch) -> (loss, gradient)`, as without a mesh up to rounding.

    Args:
      loss: `(params, batch) -> []`.
      mesh: from `rnnjax.sharding.make_mesh`. A ValueError says if the rows are no multiple of its devices.
      batch_axes: the axis of the rows, as a tree like the batch or a prefix of it; None for a `rnnjax.tasks.Batch`.
      sharded: for a state from `rnnjax.sharding.fully_sharded`, which stays sharded: parameters are gathered before the
        time loop, and the gradient is scattered after it. A `measure` of held-out batches does the same if it begins
        with `params = rnnjax.sharding.place(params, mesh)`.

    Example:

      >>> from rnnjax.sharding import make_mesh
      >>> from rnnjax.tasks import adding, squared_error
      >>> gradient = data_parallel(lambda w, batch: squared_error(batch.xs @ w, batch), make_mesh(jax.devices()[:1]))
      >>> value, g = jax.jit(gradient)(jax.numpy.ones((2, 1)), adding(jax.random.key(0), 10, (4,)))
      >>> g.shape
      (2, 1)
    """

    def cut(leaf: Array, axis: int) -> Array:
        check_rows(f"a batch array, {list(leaf.shape)},", leaf.shape[axis], mesh)
        return place(leaf, mesh, axis)

    def gradient(params: PyTree, batch: Any) -> tuple[Array, PyTree]:
        axes = Batch._make((1, 1, 1, 0)) if batch_axes is None else batch_axes
        batch = jax.tree.map(cut, batch, jax.tree.broadcast(axes, batch))
        params = place(params, mesh)  # before the time loop
        value, found = jax.value_and_grad(lambda seen: loss(joined(seen, params), batch))(trained(params))
        return place(value, mesh), fully_sharded(found, mesh) if sharded else place(found, mesh)

    return gradient


class Chunk(NamedTuple):
    """k consecutive steps of longer rows."""

    xs: Array  # [k, *batch, D]
    targets: Array  # [k, *batch, ...]
    weights: Array  # [k, *batch]
    mask: Array  # [k, *batch] bool, False after the end of a row, and before its start
    resets: Array  # [k, *batch] bool, True at the first step of a row, which starts from the initial carry


def chunks(data: Callable[..., Batch], steps: int, k1: int, k2: int | None = None) -> Callable[..., Chunk]:
    """Splits whole rows into a stream of chunks of k2 steps, which end with the k1 steps that are new and scored.

    At training step t it gives chunk j = t mod (T / k1) of a row, the steps from (j + 1) k1 - k2 on. Use it with
    `FitOptions(data_period=steps // k1)`, so that all chunks of a row come from one key.

    Args:
      data, steps: `(key, step) -> Batch` of rows with T = `steps`.
      k1: steps per update, which divide T.
      k2: steps that the gradient reaches back, at least k1; None: k1. With k2 = T it is the whole gradient.
    Raises:
      ValueError: k1 does not divide T, k2 < k1, or the rows have another length.
    """
    k2 = k1 if k2 is None else k2
    for name, size in (("steps", steps), ("k1", k1), ("k2", k2)):
        check_size(name, size)
    if steps % k1 or k2 < k1:
        raise ValueError(f"steps is {steps}, k1 {k1} and k2 {k2}; k1 divides steps and is at most k2.")

    def chunk(key: Array, step: Array) -> Chunk:
        row, piece = jnp.divmod(jnp.asarray(step), steps // k1)
        whole = whole_rows(data(key, row))
        if whole.xs.shape[0] != steps:
            raise ValueError(f"`data` gives rows of {whole.xs.shape[0]} steps, but steps is {steps}.")

        def cut(leaf: Array) -> Array:
            before = jnp.zeros((k2 - k1, *leaf.shape[1:]), leaf.dtype)
            return lax.dynamic_slice_in_dim(jnp.concatenate([before, leaf]), piece * k1, k2)

        chunk = jax.tree.map(cut, whole)
        return chunk._replace(weights=chunk.weights.at[: k2 - k1].set(0))

    return chunk


def tbptt(
    apply: Callable[..., tuple[PyTree, PyTree]], score: Callable[[PyTree, Chunk], Array], k1: int
) -> Callable[..., tuple[Array, PyTree]]:
    """The loss of a chunk, for `fit` with a carry: `(params, chunk, carry) -> (loss, carry of the next chunk)`.

    Args:
      apply: `(params, xs, *, carry, mask, resets) -> (carry, outputs)`, such as `partial(rnnjax.unroll, model)`.
      score: `(outputs, chunk) -> []`, such as `rnnjax.tasks.cross_entropy`.
      k1: as for `chunks`; the carry is passed on from k1 steps after the start of the chunk.

    Example: train on 5 new steps of rows of 20 at a time, with a gradient over 10.

      >>> import functools, optax, rnnjax
      >>> from rnnjax import tasks, training
      >>> model, key = rnnjax.Readout(rnnjax.Elman(4), output_size=2), jax.random.key(0)
      >>> params, rule = model.init(key, 1), optax.sgd(0.1)
      >>> state = training.init_state(params, rule, key, model.initial_carry(params, (8,)))
      >>> fitted = training.fit(
      ...     tbptt(functools.partial(rnnjax.unroll, model), tasks.cross_entropy, k1=5), state, rule,
      ...     chunks(lambda key, step: tasks.parity(key, 20, (8,)), steps=20, k1=5, k2=10),
      ...     training.FitOptions(steps=8, chunk=4, data_period=4),
      ... )
      >>> int(fitted.state.step), fitted.state.carry.shape
      (8, (8, 4))
    """
    check_size("k1", k1)

    def loss(params: PyTree, chunk: Chunk, carry: PyTree) -> tuple[Array, PyTree]:
        steps = chunk.xs.shape[0]
        if steps < k1:
            raise ValueError(f"this chunk has {steps} steps, but k1 is {k1}; use `chunks(data, steps, k1)`.")
        first, rest = jax.tree.map(lambda leaf: leaf[:k1], chunk), jax.tree.map(lambda leaf: leaf[k1:], chunk)
        carry, outputs = apply(params, first.xs, carry=carry, mask=first.mask, resets=first.resets)
        if steps > k1:
            _, more = apply(params, rest.xs, carry=carry, mask=rest.mask, resets=rest.resets)
            outputs = jax.tree.map(lambda *both: jnp.concatenate(both), outputs, more)
        return score(outputs, chunk), lax.stop_gradient(carry)

    return loss


def whole_rows(batch: Batch) -> Chunk:
    """Converts a task's batch to one chunk, with a mask for its lengths and a reset at the first step."""
    steps, batch_shape = batch.xs.shape[0], batch.lengths.shape
    at = jnp.arange(steps, dtype=batch.lengths.dtype).reshape(steps, *[1] * len(batch_shape))
    resets = jnp.zeros((steps, *batch_shape), bool).at[0].set(True)
    return Chunk(batch.xs, batch.targets, batch.weights, at < batch.lengths[None], resets)


def adjoint_health(
    cell: Cell, rnn: Callable[[PyTree], PyTree], loss: Callable[[PyTree, PyTree, Any], Array]
) -> Callable[..., dict[str, Array]]:
    """The slope of log ‖dL/d(carry_t)‖ against the lag T - t, for `fit(..., health=...)`.

    Args:
      cell: the cell, or a `Stack`. rnn: `params -> the cell's parameters`.
      loss: `(params, ys, batch) -> []`, the training loss as a function of the cell's outputs.
    Returns:
      `(params, batch) -> {"adjoint_rate": ...}`, nats per step back, below 0 if the gradient vanishes, for batches with
      `xs` and `lengths`: least squares over steps with a nonzero gradient, mean over rows with two; NaN if the
      trajectory of a row is not finite.

    Example:

      >>> import jax, rnnjax
      >>> cell, batch = rnnjax.Elman(1, "linear"), rnnjax.tasks.parity(jax.random.key(0), 50, (2,))
      >>> params = cell.init(jax.random.key(0), 1)._replace(w_h=jnp.array([[0.5]]))
      >>> measured = adjoint_health(cell, lambda p: p, lambda p, ys, batch: ys[-1].sum())(params, batch)
      >>> round(float(jnp.exp(measured["adjoint_rate"])), 4)
      0.5
    """

    def health(params: PyTree, batch: Any) -> dict[str, Array]:
        decay = adjoint(cell, rnn(params), batch.xs, lambda ys: loss(params, ys, batch), lengths=batch.lengths)
        log_norm = decay.log_norm.reshape(decay.log_norm.shape[0], -1)
        reached = jnp.isfinite(log_norm)
        over_steps = functools.partial(jnp.mean, axis=0, keepdims=True, where=reached)
        lag = jnp.broadcast_to(jnp.arange(len(log_norm), dtype=log_norm.dtype)[::-1, None], log_norm.shape)
        lag, level = lag - over_steps(lag), log_norm - over_steps(log_norm)
        rates = over_steps(lag * level) / over_steps(lag**2)  # 0 / 0 with fewer than two steps
        known = (reached | jnp.isneginf(log_norm)).all()
        return {"adjoint_rate": jnp.where(known, jnp.mean(rates, where=jnp.isfinite(rates)), jnp.nan)}

    return health

"""Data-parallel training: every batch is sharded over a mesh; parameters and optimizer are replicated.

    g = Σ_d c_d g_d / Σ_d c_d        g_d the gradient of the rows on device d, c_d their weight

Each update has one all-reduce, of loss, gradient and weights together. The mesh may span processes: the batch is a pure
function of key and step, so every process draws the same batch and keeps its own rows.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnjax.cell import PyTree
from rnnjax.sharding import AXIS
from rnnjax.tasks import Batch
from rnnjax.training.optimizers import joined, trained

BATCH_AXES = Batch._make((1, 1, 1, 0))
"""The axis of the rows in a task's batch."""


def data_parallel(
    loss: Callable[[PyTree, Any], Array],
    mesh: Mesh,
    *,
    batch_axes: Any = BATCH_AXES,
    count: Callable[[Any], Array] | None = None,
) -> Callable[[PyTree, Any], tuple[Array, PyTree]]:
    """The `gradient` argument of `fit` for data-parallel training.

    Args:
      loss: `(params, batch) -> []`, a mean with total weight `count`.
      mesh: from `rnnjax.sharding.make_mesh`.
      batch_axes: the axis of the rows, as a tree like the batch or a prefix of it.
      count: `batch -> []`, the total weight of the mean, by which the devices' means are averaged. If None, the sum of
        `batch.weights` for a task's `Batch`, or the number of rows.
    Returns:
      `(params, batch) -> (loss, gradient)`, replicated, and equal to rounding to the result without a mesh.
    Raises:
      ValueError: the number of rows is not a multiple of the number of devices.

    Example:

      >>> from rnnjax.sharding import make_mesh
      >>> from rnnjax.tasks import adding, squared_error
      >>> def loss(w, batch):
      ...     return squared_error(batch.xs @ w, batch)
      >>> gradient = data_parallel(loss, make_mesh(jax.devices()[:1]))
      >>> value, g = jax.jit(gradient)(jnp.ones((2, 1)), adding(jax.random.key(0), 10, (4,)))
      >>> g.shape
      (2, 1)
    """

    def gradient(params: PyTree, batch: Any) -> tuple[Array, PyTree]:
        axes = jax.tree.broadcast(batch_axes, batch)  # one axis per leaf
        for axis, leaf in zip(jax.tree.leaves(axes), jax.tree.leaves(batch), strict=True):
            if leaf.shape[axis] % mesh.size:
                raise ValueError(
                    f"a batch array {list(leaf.shape)} has {leaf.shape[axis]} rows for {mesh.size} devices; make the "
                    f"batch a multiple of {mesh.size}, or the mesh of fewer devices: make_mesh(jax.devices()[:n])."
                )
        specs = jax.tree.map(lambda axis: P(*[None] * axis, AXIS), axes)

        @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), specs), out_specs=P(), check_vma=False)
        def rows(params: PyTree, batch: Any) -> tuple[Array, PyTree]:
            value, grads = jax.value_and_grad(lambda seen: loss(joined(seen, params), batch))(trained(params))
            own = _count(batch, count).astype(value.dtype)
            total, *sums = lax.psum([own, *(own.astype(g.dtype) * g for g in (value, *jax.tree.leaves(grads)))], AXIS)
            safe = jnp.where(total > 0, total, 1)
            value, *leaves = [leaf / safe.astype(leaf.dtype) for leaf in sums]
            return value, jax.tree.unflatten(jax.tree.structure(grads), leaves)

        return rows(params, batch)

    return gradient


def _count(batch: Any, count: Callable[[Any], Array] | None) -> Array:
    if count is not None:
        return count(batch)
    return jnp.sum(batch.weights) if isinstance(batch, Batch) else jnp.ones((), jnp.float32)

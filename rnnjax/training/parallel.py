"""Data parallel training: the rows of every batch cut over a mesh, parameters and optimizer on every device alike.

    g = Σ_d c_d g_d / Σ_d c_d        g_d the gradient of device d's own rows, c_d what these rows count

One all-reduce an update, of the loss, the gradient and the counts together. The mesh may span processes: the batch is a
pure function of key and step, so every process draws the same one and keeps its own rows.
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
"""Where the rows of a task's batch lie."""


def data_parallel(
    loss: Callable[[PyTree, Any], Array],
    mesh: Mesh,
    *,
    batch_axes: Any = BATCH_AXES,
    count: Callable[[Any], Array] | None = None,
) -> Callable[[PyTree, Any], tuple[Array, PyTree]]:
    """`gradient` for `fit`: that of `loss`, with the batch cut over the mesh.

    Args:
      loss: `(params, batch) -> []`, a mean over what `count` counts.
      mesh: from `rnnjax.sharding.make_mesh`.
      batch_axes: a tree like the batch, or a prefix of it, of the axis that rows lie on.
      count: `batch -> []`, what the mean runs over, so that the means of unequal devices are weighed right; the sum of
        `batch.weights` for a task's `Batch`, and the number of rows if None for any other.
    Returns:
      `(params, batch) -> (loss, gradient)`, the same on every device and, to rounding, as without a mesh.
    Raises:
      ValueError: the rows are no multiple of the devices.

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
        axes = jax.tree.broadcast(batch_axes, batch)  # one axis a leaf
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

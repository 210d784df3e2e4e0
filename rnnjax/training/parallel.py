"""Data-parallel training: the rows of every batch are sharded over a mesh; parameters and optimizer are replicated, or
sharded too.

XLA shards the computation and adds the collectives, none of them inside a time loop. The mesh may span processes: the
batch is a pure function of key and step, so every process draws the same batch and keeps its own rows.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from rnnjax.cell import PyTree
from rnnjax.sharding import check_rows, fully_sharded, place
from rnnjax.tasks import Batch
from rnnjax.training.optimizers import joined, trained

BATCH_AXES = Batch._make((1, 1, 1, 0))
"""The axis of the rows in a task's batch."""


def data_parallel(
    loss: Callable[[PyTree, Any], Array], mesh: Mesh, *, batch_axes: Any = BATCH_AXES, sharded: bool = False
) -> Callable[[PyTree, Any], tuple[Array, PyTree]]:
    """The `gradient` argument of `fit`: `(params, batch) -> (loss, gradient)`, as without a mesh up to rounding.

    Args:
      loss: `(params, batch) -> []`.
      mesh: from `rnnjax.sharding.make_mesh`. A ValueError says if the rows are no multiple of its devices.
      batch_axes: the axis of the rows, as a tree like the batch or a prefix of it.
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
        batch = jax.tree.map(cut, batch, jax.tree.broadcast(batch_axes, batch))
        params = place(params, mesh)  # before the time loop
        value, found = jax.value_and_grad(lambda seen: loss(joined(seen, params), batch))(trained(params))
        return place(value, mesh), fully_sharded(found, mesh) if sharded else place(found, mesh)

    return gradient


def as_before(new: PyTree, old: PyTree) -> PyTree:
    """`new`, cut as `old` was if several devices hold it; XLA may cut the results of a program otherwise."""

    def put(leaf: Any, was: Any) -> Any:
        spread = isinstance(was, Array) and len(was.sharding.device_set) > 1
        return jax.device_put(leaf, was.sharding) if spread and leaf.sharding != was.sharding else leaf

    return jax.tree.map(put, new, old)

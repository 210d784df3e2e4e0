"""Truncated backpropagation with the rows of a batch cut over devices, which may be those of several processes.

    g = mean_d g_d          g_d the gradient of device d's own rows, of which each device has as many

Every device holds the whole carry, [B, H], and works on its own rows of it: one all-reduce of the gradient and one
gather of the carry an update.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experiments.harness.errors import UsageError
from rnnjax.sharding import AXIS
from rnnjax.training import Chunk, Window

_CUT: Any = Window._make((P(AXIS), P(None, AXIS), P(None, AXIS), P(None, AXIS)))  # carry, xs, mask, resets


def cut_over(loss: Callable[..., tuple[Array, Window]], mesh: Mesh, batch: int) -> Callable[..., Any]:
    """`gradient` for `fit`: that of a truncated loss, `(params, chunk, carry, key) -> ((loss, carry), gradient)`.

    Raises:
      UsageError: the rows are no multiple of the devices.
    """
    if batch % mesh.size:
        raise UsageError(f"{batch} rows over {mesh.size} devices; make --large-batch a multiple of {mesh.size}.")

    rows = jax.shard_map(
        functools.partial(own_rows, loss),
        mesh=mesh,
        in_specs=(P(), P(None, AXIS), _CUT, P()),
        out_specs=((P(), P()), P()),
        check_vma=False,
    )

    def gradient(params: Any, chunk: Chunk, carry: Window, key: Array) -> Any:
        return rows(params, chunk, carry, key)

    return gradient


def own_rows(
    loss: Callable[..., tuple[Array, Window]], params: Any, chunk: Chunk, window: Window, key: Array
) -> tuple[tuple[Array, Window], Any]:
    """One device's part, within the axis `rnnjax.sharding.AXIS`; what it gives is the same on all."""
    (value, window), gradient = jax.value_and_grad(loss, has_aux=True)(params, chunk, window, key)

    def whole(axis: int) -> Callable[[Array], Array]:
        return lambda leaf: lax.all_gather(leaf, AXIS, axis=axis, tiled=True)

    carry = jax.tree.map(whole(0), window.carry)
    window = Window(carry, *(whole(1)(leaf) for leaf in window[1:]))
    value, gradient = lax.pmean((value, gradient), AXIS)
    return (value, window), gradient

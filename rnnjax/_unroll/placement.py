"""Meshes whose axes are part of an array's type: explicit ones, and those of a `shard_map` around the call.

A loop over time needs a carry that keeps its type, and there a type says more than shape and dtype: along which axes
of the mesh an array is cut (`jax.make_mesh`'s default, "explicit"), and along which it differs from device to device
(inside `jax.shard_map`). A carry of zeros says neither, so it is given the type that a step gives it back in.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnjax.cell import PyTree

_MOST_TURNS = 4
"""One for each mesh axis that may spread from the input to the carry, or from one leaf to another, and one to see."""


def typed_mesh(tree: PyTree) -> Any:
    """The mesh that the arrays' types speak of, or None."""
    for leaf in jax.tree.leaves(tree):
        mesh = jax.typeof(leaf).sharding.mesh
        if not mesh.empty:
            return mesh
    return None


def rows_like(xs: Any, carry: PyTree, first: int) -> PyTree:
    """The carry `[*batch, ...]`, its batch axes cut over an explicit mesh as those of the input are.

    Args:
      xs: `[T, *batch, D]`, or one step of it.
      first: which axis of `xs` is the first of the batch, 1 or 0.
    """
    sharding, batch_shape = jax.typeof(xs).sharding, xs.shape[first:-1]
    batch = tuple(sharding.spec[first:-1])
    if not any(batch):
        return carry

    def cut(leaf: Any) -> Any:
        own = jax.typeof(leaf)
        if own.shape[: len(batch)] != batch_shape or any(own.sharding.spec):
            return leaf
        return jax.sharding.reshard(leaf, NamedSharding(sharding.mesh, P(*batch, *[None] * (own.ndim - len(batch)))))

    return jax.tree.map(cut, carry)


def settled(step: Callable[[PyTree], tuple[PyTree, PyTree]], carry: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """The carry in the type that `step` gives it back in, and the types of all that `step` gives.

    Raises:
      TypeError: there is none; each step gives back another type.
    """
    for _ in range(_MOST_TURNS):
        closed, shapes = jax.make_jaxpr(step, return_shape=True)(carry)
        types = jax.tree.structure(shapes).unflatten(closed.out_avals)
        again = jax.tree.map(_in_type_of, carry, types[0])
        if all([a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(carry), strict=True)]):
            return carry, types
        carry = again
    raise TypeError(
        "the carry is cut over the mesh otherwise after every step; give the cell parameters that are cut alike, or "
        "constrain its carry in the step with `jax.sharding.reshard`."
    )


def _in_type_of(leaf: Any, like: Any) -> Any:
    """`leaf`, cut and varying over the mesh as `like` is; the same object where it is so already."""
    own = jax.typeof(leaf)
    if own.sharding.spec != like.sharding.spec and not like.sharding.mesh.empty:
        leaf = jax.sharding.reshard(leaf, like.sharding)
    return _varying(leaf, like.manual_axis_type.varying)


def varying_alike(tree: PyTree) -> PyTree:
    """Every leaf varying over the axes of a `shard_map` over which any of them does.

    JAX does so at each operation. Ahead of a time loop it is done once, and the sum over devices, which is its
    transpose, once too, not at every step.
    """
    axes = frozenset().union(*[jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)])
    return jax.tree.map(lambda leaf: _varying(leaf, axes), tree) if axes else tree


def _varying(leaf: Any, axes: frozenset[str]) -> Any:
    missing = tuple(sorted(axes - jax.typeof(leaf).manual_axis_type.varying))
    return lax.pcast(leaf, missing, to="varying") if missing else leaf


def explicit_axes(mesh: Mesh) -> tuple[str, ...]:
    """The names of the axes along which a type says that an array is cut."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple([name for name, kind in kinds if kind == AxisType.Explicit])


def over_time(aval: Any) -> NamedSharding:
    """How the outputs of all steps are cut, where one step's are of this type."""
    return NamedSharding(aval.sharding.mesh, P(None, *aval.sharding.spec))

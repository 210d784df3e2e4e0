"""Converts a training state to named arrays and back, and checks that a checkpoint fits a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cell import PyTree
from rnnjax.training.faults import leaf_names


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read, or used for this run.

    Attributes:
      state: the `TrainState`, if it has progress that is not on disk; else None.
      history: the metrics so far.
    """

    state: Any = None
    history: Any = ()


def flatten(state: PyTree) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """`({name: NumPy array}, {name: [shape, dtype, PRNG implementation or ""]})`; a key's array is its data.

    Arrays sharded over several processes, and shapes without values, are returned as they are.

    Raises:
      ValueError: two leaves have the same name, so one would be lost.
    """
    names, leaves = leaf_names(state), jax.tree.leaves(state)
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"two leaves are named {', '.join(double)}, and only one of them could be saved: give them keys whose "
            "`repr` differs."
        )
    impls = [str(jax.random.key_impl(leaf)) if _is_key(leaf) else "" for leaf in leaves]
    arrays = dict(zip(names, map(_data, leaves), strict=True))
    both = zip(arrays.items(), impls, strict=True)
    return arrays, {name: [list(array.shape), array.dtype.name, impl] for (name, array), impl in both}


def unflatten(template: PyTree, arrays: dict[str, Any]) -> PyTree:
    """Puts the arrays into the structure of `template`, on the devices to which its leaves are committed."""
    names = iter(leaf_names(template))
    return jax.tree.map(lambda leaf: _like(leaf, arrays[next(names)], getattr(leaf, "committed", False)), template)


def local(state: PyTree) -> PyTree:
    """Moves arrays that several devices hold whole, as after data-parallel training, to this process's default device,
    uncommitted; sharded arrays stay."""

    def whole(leaf: Any) -> bool:
        return len(leaf.sharding.device_set) > 1 and leaf.is_fully_replicated

    return jax.tree.map(lambda leaf: _like(leaf, _data(leaf)) if whole(leaf) else leaf, state)


def is_shared(leaf: Any) -> bool:
    """Whether no process holds the whole array."""
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def check_fit(saved: dict[str, list[Any]], wanted: dict[str, list[Any]], where: str) -> None:
    """Raises a CheckpointError, with both shapes, unless a checkpoint has the leaves of this run."""

    def told(entry: list[Any] | None) -> str:
        return "absent" if entry is None else f"{entry[0]} {f'{entry[2]} key' if entry[2] else entry[1]}"

    names = sorted(saved.keys() | wanted.keys(), key=lambda name: (not name.startswith("params"), name))
    both = [(name, saved.get(name), wanted.get(name)) for name in names]
    lines = [f"{name}: {told(a)} in the checkpoint, {told(b)} in this run" for name, a, b in both if a != b]
    if lines:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise CheckpointError(
            f"{where} has another architecture: {'; '.join(lines[:5])}{more}. Use the model and the optimizer it "
            "was saved with, or another folder."
        )


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) or is_shared(leaf) else np.asarray(leaf)


def _like(leaf: Any, array: Any, committed: bool = False) -> jax.Array:
    array = jax.device_put(array, leaf.sharding) if committed else jnp.asarray(array)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else array

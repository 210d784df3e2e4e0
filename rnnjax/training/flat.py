"""Training states as named arrays and back, and whether a checkpoint fits a run."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cell import PyTree
from rnnjax.training.faults import leaf_names

StrPath = str | os.PathLike[str]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read, or used for this run.

    Attributes:
      state, history: the `TrainState` and the metrics so far, if they have progress that is not on disk.
    """

    state: Any = None
    history: Any = ()


def flatten(state: PyTree) -> tuple[dict[str, Any], dict[str, str]]:
    """`({name: NumPy array}, {name: "[shape] dtype"})`. Of keys, the data; shapes and sharded arrays stay as they are.

    Raises:
      ValueError: two leaves have the same name, so one would be lost.
    """
    arrays, kinds = {}, {}
    for name, leaf in zip(leaf_names(state), jax.tree.leaves(state), strict=True):
        if name in arrays:
            raise ValueError(f"two leaves are named {name}, and only one of them could be saved: rename one.")
        arrays[name] = array = _data(leaf)
        kinds[name] = f"{list(array.shape)} {leaf.dtype if _is_key(leaf) else array.dtype}"
    return arrays, kinds


def unflatten(template: PyTree, arrays: Mapping[str, Any]) -> PyTree:
    """Puts the arrays into the structure of `template`, on the devices to which its leaves are committed."""
    names = iter(leaf_names(template))
    return jax.tree.map(lambda leaf: _like(leaf, arrays[next(names)], getattr(leaf, "committed", False)), template)


def local(state: PyTree) -> PyTree:
    """Moves arrays that several devices hold whole to this process's default device, uncommitted."""

    def moved(leaf: Any) -> Any:
        whole = len(leaf.sharding.device_set) > 1 and leaf.is_fully_replicated
        return _like(leaf, _data(leaf)) if whole else leaf

    return jax.tree.map(moved, state)


def is_shared(leaf: Any) -> bool:
    """Whether no process holds the whole array."""
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def check_fit(saved: Mapping[str, Any], here: Mapping[str, Any], told: str) -> None:
    """Raises a CheckpointError that names the entries that differ, unless all are equal."""
    names = sorted(saved.keys() | here.keys(), key=lambda name: (not name.startswith("params"), name))
    both = [(name, saved.get(name, "absent"), here.get(name, "absent")) for name in names]
    if lines := [f"{name}: {a} in the checkpoint, {b} in this run" for name, a, b in both if a != b]:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise CheckpointError(f"{told}: {'; '.join(lines[:5])}{more}. Use what it was saved with, or another folder.")


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) or is_shared(leaf) else np.asarray(leaf)


def _like(leaf: Any, array: Any, committed: bool = False) -> jax.Array:
    array = jax.device_put(array, leaf.sharding) if committed else jnp.asarray(array)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else array

"""Converts a training state to named NumPy arrays and back, and checks that a checkpoint fits a run."""

import collections
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


def flatten(state: PyTree) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`({name: array}, {name: implementation of a PRNG key})`; a key's array is its data.

    Raises:
      ValueError: two leaves have the same name, so one would be lost.
    """
    names, leaves = leaf_names(state), jax.tree.leaves(state)
    double = [name for name, times in collections.Counter(names).items() if times > 1]
    if double:
        raise ValueError(
            f"two leaves are named {', '.join(double)}, and only one of them could be saved: give them keys whose "
            "`repr` differs."
        )
    keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in zip(names, leaves, strict=True) if _is_key(leaf)}
    return dict(zip(names, map(_as_numpy, leaves), strict=True)), keys


def unflatten(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    """Puts the arrays into the structure of `template`, bit for bit."""
    leaves, tree = jax.tree.flatten(template)
    names = leaf_names(template)
    return tree.unflatten([_placed(arrays[name], leaf) for name, leaf in zip(names, leaves, strict=True)])


def local(state: PyTree) -> PyTree:
    """Moves a state from several devices to this process's default device, as uncommitted arrays.

    Every array must be fully replicated, as after data-parallel training.
    """
    if all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(state)):
        return state
    return jax.tree.map(lambda leaf: _placed(_as_numpy(leaf), leaf), state)


def describe(arrays: dict[str, np.ndarray], keys: dict[str, str]) -> dict[str, list[Any]]:
    """`{name: [shape, dtype, PRNG implementation or ""]}`, as JSON."""
    return {name: [list(a.shape), a.dtype.name, keys.get(name, "")] for name, a in arrays.items()}


def check_fit(saved: dict[str, list[Any]], wanted: dict[str, list[Any]], where: str) -> None:
    """Checks that a checkpoint has the architecture and optimizer of this run.

    Raises:
      CheckpointError: leaves differ; the message gives both shapes.
    """
    lines = []
    for name in sorted(saved.keys() | wanted.keys(), key=lambda name: (not name.startswith("params"), name)):
        has, wants = saved.get(name), wanted.get(name)
        if has != wants:
            lines.append(f"{name}: {_told(has)} in the checkpoint, {_told(wants)} in this run")
    if lines:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise CheckpointError(
            f"{where} has another architecture: {'; '.join(lines[:5])}{more}. Use the model and the optimizer it "
            "was saved with, or another folder."
        )


def _told(entry: list[Any] | None) -> str:
    if entry is None:
        return "absent"
    shape, dtype, key = entry
    return f"{shape} {f'{key} key' if key else dtype}"


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _placed(array: np.ndarray, like: Any) -> jax.Array:
    placed = jnp.asarray(array)
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like)) if _is_key(like) else placed

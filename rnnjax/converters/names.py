"""The arrays of a tree of any library by name."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cell import PyTree
from rnnjax.converters.state_dict import as_numpy


def leaves_of(tree: PyTree, separator: str = ".") -> dict[str, np.ndarray]:
    """NumPy arrays by name; the keys of dictionaries, attributes and positions are joined.

    Raises:
      TypeError: a leaf is no array.

    Example:

      >>> leaves_of({"lstm": {"w": np.zeros(2)}, "more": [np.zeros(1)]})
      {'lstm.w': array([0., 0.]), 'more.0': array([0.])}
    """
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        boxed = bool(path) and getattr(path[-1], "name", None) == "value"  # in a variable or box of Flax
        name = name_of(path[:-1] if boxed else path, separator)
        if hasattr(leaf, "dtype") and not hasattr(leaf, "detach") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        if callable(leaf) and not hasattr(leaf, "shape"):
            continue  # a function that a module holds, such as an activation
        if not hasattr(leaf, "shape") and not np.isscalar(leaf):
            raise TypeError(f"{name!r} is a {type(leaf).__name__}; expected arrays.")
        found[name] = as_numpy(leaf)
    return found


def name_of(path: tuple[Any, ...], separator: str = ".") -> str:
    """The keys of a path of `jax.tree_util`, joined."""
    return separator.join([str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path])


def held(tree: PyTree) -> dict[str, Any]:
    """All nodes of a tree by name: what holds each array, and what holds that."""
    found = {"": tree}
    for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        node = tree
        for depth, key in enumerate(path[:-1], 1):
            node = (
                getattr(node, key.name)
                if hasattr(key, "name")
                else node[getattr(key, "key", getattr(key, "idx", None))]
            )
            found[name_of(path[:depth])] = node
    return found


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """A tree of dictionaries from arrays by name, such as those of a file.

    Example:

      >>> nested({"cell.ii.kernel": 1, "cell/ii/bias": 2})
      {'cell': {'ii': {'kernel': 1, 'bias': 2}}}
    """
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *path, last = re.split(r"[./]", name)
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def numpy_tree(params: PyTree) -> PyTree:
    return jax.tree.map(np.asarray, params)

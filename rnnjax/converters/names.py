"""The arrays of a tree of any library by name."""

import re
from typing import Any

import jax
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
        keys = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
        name = separator.join(keys)
        if callable(leaf) and not hasattr(leaf, "shape"):
            continue  # a function that a module holds, such as an activation
        if not hasattr(leaf, "shape") and not np.isscalar(leaf):
            raise TypeError(f"{name!r} is a {type(leaf).__name__}; expected arrays.")
        found[name] = as_numpy(leaf)
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

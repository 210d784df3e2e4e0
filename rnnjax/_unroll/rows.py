"""A carry as rows of numbers: all leaves of a row, concatenated in the tree's order (for an LSTM h, then c)."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.cell import PyTree


def flat(tree: PyTree, lead: int) -> Array:
    """Concatenates leaves `[*lead, ...]` with so many leading axes to `[*lead, S]`."""
    leaves = [leaf.reshape(*leaf.shape[:lead], -1) for leaf in jax.tree.leaves(tree)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)


def unflat(rows: Array, like: PyTree, batch_ndim: int) -> PyTree:
    """Splits `[*lead, S]` into a tree like `like` (with `batch_ndim` batch axes), with leaves `[*lead, ...]`."""
    leaves, tree = jax.tree.flatten(like)
    parts, start = [], 0
    for leaf in leaves:
        own = leaf.shape[batch_ndim:]
        end = start + math.prod(own)
        parts.append(rows[..., start:end].reshape(*rows.shape[:-1], *own))
        start = end
    return tree.unflatten(parts)

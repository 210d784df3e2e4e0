"""Trees as real vectors: the state of a row as `[S]`, and each parameter as an array of real numbers.

Complex leaves count as pairs of real numbers. Leaves that are not floating point, such as counters, have no derivative
and are left out.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree


def reals(tree: PyTree) -> list[Array]:
    """The floating leaves; complex ones as `[..., 2]`, real and imaginary part."""
    return [_as_real(leaf) for leaf in jax.tree.leaves(tree) if floats(leaf)]


def merged(parts: list[Any], tree: PyTree) -> PyTree:
    """The inverse of `reals`; leaves without a derivative are those of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    given = iter(parts)
    return structure.unflatten([_back(next(given), leaf) if floats(leaf) else leaf for leaf in leaves])


def gradient_like(parts: list[Array], params: PyTree) -> PyTree:
    """A gradient from its real parts, with JAX's convention for complex parameters: da - i db at a + i b.

    It is zero for leaves without a derivative.
    """
    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.tree.map(lambda leaf: leaf.conj() if jnp.iscomplexobj(leaf) else leaf, merged(parts, zeros))


def flat(tree: PyTree, batch_ndim: int) -> Array:
    """Concatenates the real parts of leaves `[*batch, ...]` to `[*batch, S]`."""
    leaves = [leaf.reshape(*leaf.shape[:batch_ndim], -1) for leaf in reals(tree)]
    if len(leaves) == 1:
        return leaves[0]
    dtype = max([leaf.dtype for leaf in leaves], key=lambda dtype: dtype.itemsize)
    return jnp.concatenate([leaf.astype(dtype) for leaf in leaves], axis=-1)


def unflat(vector: Array, like: PyTree, batch_ndim: int) -> PyTree:
    """The inverse of `flat`; leaves without a derivative are those of `like`."""
    parts, start = [], 0
    for leaf in jax.tree.leaves(like):
        if floats(leaf):
            shape = (*leaf.shape, 2) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else leaf.shape
            end = start + math.prod(shape[batch_ndim:])
            parts.append(vector[..., start:end].reshape(shape))
            start = end
    return merged(parts, like)


def floats(leaf: Any) -> bool:
    """Whether it has a derivative."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _as_real(leaf: Array) -> Array:
    return jnp.stack([leaf.real, leaf.imag], axis=-1) if jnp.iscomplexobj(leaf) else leaf


def _back(part: Array, like: Array) -> Array:
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        return lax.complex(*[part[..., i].astype(jnp.finfo(like.dtype).dtype) for i in (0, 1)])
    return part.astype(like.dtype)

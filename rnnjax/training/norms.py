"""Norms that neither overflow nor underflow, and equal plain norms bit for bit where those are valid.

‖g‖ = s sqrt(Σ (g_i / s)²)        s = a power of two near max |g_i|, so that scaling by it is exact
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree


def is_inexact(leaf: Any) -> bool:
    """Whether the leaf has a real or complex floating dtype."""
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.inexact)


def norm(tree: PyTree) -> Array:
    """‖tree‖ over all leaves but integers; 0 without leaves, inf only if it overflows itself, NaN for NaN or inf."""
    scale, _, size = scaled_norm(tree)
    return scale * size


def scaled_norm(tree: PyTree) -> tuple[Array, Array, Array]:
    """`(s, 1 / s, ‖tree / s‖)`, finite even where the norm is not, in the widest dtype, at least float32."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    parts = [part for leaf in leaves for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))]
    dtype = jnp.float64 if any(part.dtype == jnp.float64 for part in parts) else jnp.float32
    parts, zero, info = [part.astype(dtype) for part in parts], jnp.zeros((), dtype), jnp.finfo(dtype)
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(part), initial=0) for part in parts], zero)
    bound = 2.0 ** (info.maxexp - 8)
    # rounds to a power of two, and keeps XLA from merging this division with a later one, which could overflow
    unscale = lax.reduce_precision(1 / jnp.clip(largest, 1 / bound, bound), info.nexp, 0)
    size = jnp.sqrt(sum((jnp.sum(jnp.square(part * unscale)) for part in parts), zero))
    return 1 / unscale, unscale, jnp.where(jnp.isfinite(largest), size, jnp.nan)

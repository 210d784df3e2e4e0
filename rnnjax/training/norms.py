"""Norms that neither overflow nor underflow, and equal plain norms bit for bit where those are valid.

    ‖g‖ = s sqrt(Σ (g_i / s)²)        s = the largest power of two that is not above max |g_i|

Scaling by a power of two is exact, so both sums round in the same way unless a plain square overflows or underflows.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree


def is_inexact(leaf: Any) -> bool:
    """Whether the leaf has a real or complex floating dtype."""
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.inexact)


def parts(tree: PyTree) -> list[Array]:
    """The real floating leaves of a tree: complex leaves are split into two, integers and keys are left out."""
    found = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    pairs = [(leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,) for leaf in found]
    return [part for pair in pairs for part in pair]


def accumulator(tree: PyTree) -> jnp.dtype:
    """The widest floating dtype among the leaves, at least float32."""
    wide = any(part.dtype == jnp.float64 for part in parts(tree))
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


class ScaledNorm(NamedTuple):
    """A norm as `scale * size`; both are finite if the tree is.

    Attributes:
      scale: a power of two near the largest entry; 1 for a zero tree.
      unscale: 1 / scale, exactly.
      size: the norm of the tree times `unscale`, between about 1 and the square root of the number of entries; 0 for a
        zero tree, NaN if there is NaN or inf.
    """

    scale: Array
    unscale: Array
    size: Array


def scaled_norm(tree: PyTree) -> ScaledNorm:
    """The norm over all leaves together. It is zero without leaves, includes both complex parts, and ignores integers.

    Example: the square of 1e30 overflows in float32.

      >>> scale, _, size = scaled_norm(jnp.full(4, 1e30, jnp.float32))
      >>> bool(jnp.isinf(jnp.linalg.norm(jnp.full(4, 1e30, jnp.float32)))), round(float(scale * size) / 1e30, 5)
      (True, 2.0)
    """
    dtype = accumulator(tree)
    leaves = [part.astype(dtype) for part in parts(tree)]
    if not leaves:
        return ScaledNorm(jnp.ones((), dtype), jnp.ones((), dtype), jnp.zeros((), dtype))
    tops = [jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]
    largest = functools.reduce(jnp.maximum, tops)
    plain = (largest < jnp.finfo(dtype).tiny) | ~jnp.isfinite(largest)  # XLA flushes subnormals
    scale, unscale = _power_of_two(jnp.where(plain, 1, largest))
    squares = [jnp.sum(jnp.square(leaf * unscale)) for leaf in leaves]
    size = jnp.sqrt(functools.reduce(jnp.add, squares))
    return ScaledNorm(scale, unscale, jnp.where(jnp.isfinite(largest), size, jnp.nan))


def norm(tree: PyTree) -> Array:
    """‖tree‖ over all leaves together; inf only if the norm itself overflows, NaN if there is NaN or inf."""
    scale, _, size = scaled_norm(tree)
    return scale * size


def _power_of_two(x: Array) -> tuple[Array, Array]:
    """The largest power of two not above x > 0, except the last four, and its reciprocal; both exact and normal.

    It uses bit operations because XLA may merge divisions, or replace one by a product with a reciprocal that it
    flushes to zero.
    """
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    info = jnp.finfo(x.dtype)
    mantissa = (1 << info.nmant) - 1
    most = lax.bitcast_convert_type(jnp.asarray(2.0 ** (info.maxexp - 4), x.dtype), unsigned)
    one = lax.bitcast_convert_type(jnp.asarray(1.0, x.dtype), unsigned)
    bits = lax.bitcast_convert_type(x, unsigned)
    power = jnp.minimum(bits & ~jnp.asarray(mantissa, unsigned), most)
    return lax.bitcast_convert_type(power, x.dtype), lax.bitcast_convert_type(one + one - power, x.dtype)

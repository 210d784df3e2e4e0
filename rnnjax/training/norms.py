"""Norms that neither overflow nor underflow, and equal the plain ones to the last bit where those are right.

    ‖g‖ = s sqrt(Σ (g_i / s)²)        s = the largest power of two that is not above max |g_i|

A power of two scales without rounding, so as long as no square of the plain sum leaves the range of floating point,
both sums round alike.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree


def is_inexact(leaf: Any) -> bool:
    """Whether the leaf holds floating numbers, real or complex."""
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.inexact)


def parts(tree: PyTree) -> list[Array]:
    """The floating numbers of a tree: a complex leaf is its two parts, one of integers or keys is none."""
    found = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    pairs = [(leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,) for leaf in found]
    return [part for pair in pairs for part in pair]


def accumulator(tree: PyTree) -> jnp.dtype:
    """The widest floating dtype among the leaves, and float32 at least."""
    wide = any(part.dtype == jnp.float64 for part in parts(tree))
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


class ScaledNorm(NamedTuple):
    """A norm as `scale * size`, which are both finite wherever the tree is.

    Attributes:
      scale: a power of two near the largest entry; 1 for zero.
      unscale: 1 / scale, exactly.
      size: the norm of the tree times `unscale`, from 1 to the square root of the number of entries, about; 0 for zero,
        NaN if there is NaN or inf.
    """

    scale: Array
    unscale: Array
    size: Array


def scaled_norm(tree: PyTree, axis: int | tuple[int, ...] | None = None) -> ScaledNorm:
    """The norm over all leaves together: zero for no leaves, of both parts for complex ones, without those of integers.

    Args:
      tree: array leaves.
      axis: for a single array: the axes that one norm runs over, kept as 1; None: over everything.

    Example: 1e30 squared is beyond float32.

      >>> scale, _, size = scaled_norm(jnp.full(4, 1e30, jnp.float32))
      >>> bool(jnp.isinf(jnp.linalg.norm(jnp.full(4, 1e30, jnp.float32)))), round(float(scale * size) / 1e30, 5)
      (True, 2.0)
    """
    dtype = accumulator(tree)
    keep = axis is not None
    leaves = [part.astype(dtype) for part in parts(tree)]
    if not leaves:
        return ScaledNorm(jnp.ones((), dtype), jnp.ones((), dtype), jnp.zeros((), dtype))
    tops = [jnp.max(jnp.abs(leaf), axis=axis, keepdims=keep, initial=0) for leaf in leaves]
    largest = functools.reduce(jnp.maximum, tops)
    plain = (largest < jnp.finfo(dtype).tiny) | ~jnp.isfinite(largest)  # XLA flushes subnormals
    scale, unscale = _power_of_two(jnp.where(plain, 1, largest))
    squares = [jnp.sum(jnp.square(leaf * unscale), axis=axis, keepdims=keep) for leaf in leaves]
    size = jnp.sqrt(functools.reduce(jnp.add, squares))
    return ScaledNorm(scale, unscale, jnp.where(jnp.isfinite(largest), size, jnp.nan))


def norm(tree: PyTree) -> Array:
    """‖tree‖ over all leaves together; inf only where the norm itself is out of range, NaN for NaN or inf inside."""
    scale, _, size = scaled_norm(tree)
    return scale * size


def all_finite(tree: PyTree) -> Array:
    """Whether no leaf holds NaN or inf."""
    return functools.reduce(jnp.logical_and, [jnp.isfinite(part).all() for part in parts(tree)], jnp.array(True))


def _power_of_two(x: Array) -> tuple[Array, Array]:
    """The largest power of two not above x > 0, short of the last four, and its reciprocal; both exact and normal.

    By their bits: XLA may merge one division with the next, or turn it into a product with a reciprocal that it flushes
    to zero. It cannot see through these.
    """
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    info = jnp.finfo(x.dtype)
    mantissa = (1 << info.nmant) - 1
    most = lax.bitcast_convert_type(jnp.asarray(2.0 ** (info.maxexp - 4), x.dtype), unsigned)
    one = lax.bitcast_convert_type(jnp.asarray(1.0, x.dtype), unsigned)
    bits = lax.bitcast_convert_type(x, unsigned)
    power = jnp.minimum(bits & ~jnp.asarray(mantissa, unsigned), most)
    return lax.bitcast_convert_type(power, x.dtype), lax.bitcast_convert_type(one + one - power, x.dtype)

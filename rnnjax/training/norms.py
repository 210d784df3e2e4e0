"""Norms that neither overflow nor underflow, and equal the plain ones to the last bit where those are right.

    ‖g‖ = s sqrt(Σ (g_i / s)²)        s = the largest power of two that is not above max |g_i|

A power of two scales without rounding, so as long as no square of the plain sum leaves the range of floating point,
both sums round alike.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree


def accumulator(tree: PyTree) -> jnp.dtype:
    """The widest floating dtype among the leaves, and float32 at least."""
    wide = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def scaled_norm(tree: PyTree, axis: int | tuple[int, ...] | None = None) -> tuple[Array, Array]:
    """`(s, m)` with ‖tree‖ = s m, m in [1, ...), both finite wherever the tree is; `(1, 0)` for zero.

    Args:
      tree: floating leaves, with at least one.
      axis: for a single array: the axes that one norm runs over, kept as 1; None: over everything.
    Returns:
      s, a power of two, and m. With NaN or inf in the tree m is NaN.

    Example: 1e30 squared is beyond float32.

      >>> s, m = scaled_norm(jnp.full(4, 1e30, jnp.float32))
      >>> bool(jnp.isinf(jnp.linalg.norm(jnp.full(4, 1e30, jnp.float32)))), round(float(s * m) / 1e30, 5)
      (True, 2.0)
    """
    dtype = accumulator(tree)
    keep = axis is not None
    leaves = [leaf.astype(dtype) for leaf in jax.tree.leaves(tree)]
    tops = [jnp.max(jnp.abs(leaf), axis=axis, keepdims=keep, initial=0) for leaf in leaves]
    largest = functools.reduce(jnp.maximum, tops)
    zero = largest < jnp.finfo(dtype).tiny  # XLA flushes subnormals; NaN is not zero
    scale = jnp.where(zero | ~jnp.isfinite(largest), 1, _power_of_two(largest))
    # rows of a single array may be of very different sizes, so the scale goes along
    squares = sum(jnp.sum(jnp.square(leaf / scale), axis=axis, keepdims=keep) for leaf in leaves)
    norm = jnp.sqrt(jnp.asarray(squares))
    return scale, jnp.where(jnp.isfinite(largest), norm, jnp.nan)


def norm(tree: PyTree) -> Array:
    """‖tree‖ over all leaves together; inf only where the norm itself is out of range, NaN for NaN or inf inside."""
    scale, scaled = scaled_norm(tree)
    return scale * scaled


def all_finite(tree: PyTree) -> Array:
    """Whether no leaf holds NaN or inf."""
    return functools.reduce(
        jnp.logical_and, [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)], jnp.array(True)
    )


def _power_of_two(x: Array) -> Array:
    """The largest power of two not above x > 0, at most an eighth of the largest number.

    XLA may divide by multiplying with the reciprocal, and that of a larger one would be flushed to zero.
    """
    bits = 8 * x.dtype.itemsize
    unsigned = jnp.dtype(f"uint{bits}")
    exponent = jnp.asarray(jnp.inf, x.dtype)
    mask = lax.bitcast_convert_type(exponent, unsigned)  # inf is all ones in the exponent and none in the mantissa
    power = lax.bitcast_convert_type(lax.bitcast_convert_type(x, unsigned) & mask, x.dtype)
    return jnp.minimum(power, jnp.asarray(2.0 ** (jnp.finfo(x.dtype).maxexp - 4), x.dtype))

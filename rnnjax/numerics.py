"""Vectors beyond the range of floating point, represented as a unit vector and the log of the norm.

A norm squares its entries, so in float32 entries below 2^-63 give 0 and entries above 2^64 give inf. Here the largest
entry is divided out first, and sums of such vectors stay in log form, so nothing underflows or overflows.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.cell import PyTree


def normalise(tree: PyTree, batch_ndim: int) -> tuple[PyTree, Array]:
    """Splits each row's vector v into v / ‖v‖ and log ‖v‖ (Euclidean, over all leaves together).

    Args:
      tree: leaves `[*batch, ...]`.
      batch_ndim: the number of leading batch axes.
    Returns:
      `(unit, log_norm)`: the same tree, and `[*batch]`. A zero vector gives a zero "unit" and a log norm of -inf. A
      vector with NaN gives NaN; one with an infinite entry gives +inf and a NaN direction.

    Example:

      >>> unit, log_norm = normalise(jnp.array([3e-30, 4e-30]), 0)
      >>> [round(float(u), 6) for u in unit], round(float(jnp.exp(log_norm + 30 * jnp.log(10.0))), 4)
      ([0.6, 0.8], 5.0)
    """
    largest = functools.reduce(jnp.maximum, [_over_row(jnp.max, jnp.abs(leaf), batch_ndim) for leaf in _leaves(tree)])
    zero = largest < jnp.finfo(largest.dtype).tiny  # XLA flushes subnormals; NaN is not zero
    # XLA divides by multiplying with the reciprocal, which is flushed to zero for the very largest numbers.
    scale = jnp.where(zero, 1, jnp.minimum(largest, jnp.finfo(largest.dtype).max / 8))
    tree = jax.tree.map(lambda leaf: leaf / _expand(scale, leaf), tree)
    squares = sum(_over_row(jnp.sum, leaf * leaf, batch_ndim) for leaf in _leaves(tree))
    norm = jnp.sqrt(jnp.where(zero, 1, squares))
    unit = jax.tree.map(lambda leaf: leaf / _expand(norm, leaf), tree)
    return unit, jnp.where(zero, -jnp.inf, jnp.log(norm) + jnp.log(scale))


def add_scaled(terms: list[tuple[PyTree, Array]], batch_ndim: int) -> tuple[PyTree, Array]:
    """Adds vectors given as (unit, log norm), in the same form: Σ exp(log_norm_i) unit_i.

    Example: e^1000 (1, 0) + e^1000 (0, 1).

      >>> one, two = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
      >>> unit, log_norm = add_scaled([(one, jnp.array(1000.0)), (two, jnp.array(1000.0))], 0)
      >>> round(float(log_norm) - 1000.0, 4)
      0.3466
    """
    if len(terms) == 1:
        return terms[0]
    largest = functools.reduce(jnp.maximum, [log_norm for _, log_norm in terms])
    reference = jnp.where(largest == -jnp.inf, 0, largest)

    def add(*leaves: Array) -> Array:
        weights = [jnp.exp(log_norm - reference) for _, log_norm in terms]
        return sum(
            (_expand(weight, leaf) * leaf for weight, leaf in zip(weights, leaves, strict=True)), start=0 * leaves[0]
        )

    unit, log_norm = normalise(jax.tree.map(add, *(tree for tree, _ in terms)), batch_ndim)
    return unit, log_norm + reference


def _leaves(tree: PyTree) -> list[Array]:
    return jax.tree.leaves(tree)


def _over_row(reduce, leaf: Array, batch_ndim: int) -> Array:
    return reduce(leaf, axis=tuple(range(batch_ndim, leaf.ndim)))


def _expand(row: Array, leaf: Array) -> Array:
    return row.reshape(row.shape + (1,) * (leaf.ndim - row.ndim))

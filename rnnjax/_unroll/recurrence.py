"""Linear recurrences with matrices, d_t = A_t d_{t-1} + b_t from d_0 = 0, solved by a parallel scan over time.

The solution is linear in b, and its transpose is the recurrence with A transposed that runs backwards in time. Declared
so (`jax.lax.custom_linear_solve`), no product of matrices is stored for a backward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Push = Callable[[Array], Array]
"""A product with all Jacobians: `[T, *batch, S]` to the same."""


def matrices_of(push: Push, like: Array) -> Array:
    """The Jacobians `[T, *batch, S, S]`, by S products with them."""
    units = jnp.eye(like.shape[-1], dtype=like.dtype)
    return jax.vmap(lambda unit: push(jnp.broadcast_to(unit, like.shape)), out_axes=-1)(units)


def diagonals_of(push: Push, like: Array) -> Array:
    """Their diagonals `[T, *batch, S]`, by S products one after another, without the matrices in memory."""

    def entry(i: Array) -> Array:
        unit = jnp.arange(like.shape[-1]) == i
        return push(jnp.broadcast_to(unit.astype(like.dtype), like.shape))[..., i]

    return jnp.moveaxis(lax.map(entry, jnp.arange(like.shape[-1])), 0, -1)


def solve_recurrence(a: Array, b: Array, cuts: Array | None = None) -> Array:
    """All d_t of d_t = A_t d_{t-1} + b_t, with d_0 = 0.

    Args:
      a: `[T, *batch, S, S]`, or `[T, *batch, S]` for diagonal matrices.
      b: `[T, *batch, S]`.
      cuts: `[T, *batch]` booleans, True where A_t is zero; products before are then left out, even if not finite.
    """

    def left_side(d: Array) -> Array:
        return d - apply(a, jnp.concatenate([jnp.zeros_like(d[:1]), d[:-1]]))

    def forwards(_: Any, b: Array) -> Array:
        return _scan(a, b, cuts, reverse=False)

    def backwards(_: Any, b: Array) -> Array:
        """The transpose: d_t = A_{t+1}^T d_{t+1} + b_t."""
        turned = a if a.ndim == b.ndim else jnp.swapaxes(a, -1, -2)
        later = lambda x: jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])  # noqa: E731
        return _scan(later(turned), b, None if cuts is None else later(cuts), reverse=True)

    return lax.custom_linear_solve(left_side, b, forwards, backwards)


def apply(a: Array, d: Array) -> Array:
    """A d, for matrices or diagonals."""
    return a * d if a.ndim == d.ndim else jnp.matmul(a, d[..., None])[..., 0]


def _scan(a: Array, b: Array, cuts: Array | None, reverse: bool) -> Array:
    wide = a.ndim != b.ndim

    def combine(earlier: Any, later: Any) -> Any:
        (a_1, b_1, cut_1), (a_2, b_2, cut_2) = earlier, later
        a, b = (jnp.matmul(a_2, a_1) if wide else a_2 * a_1), apply(a_2, b_1) + b_2
        if cut_2 is None:
            return a, b, None
        cut = cut_2[..., None]
        return jnp.where(cut[..., None] if wide else cut, a_2, a), jnp.where(cut, b_2, b), cut_1 | cut_2

    return lax.associative_scan(combine, (a, b, cuts), reverse=reverse)[1]

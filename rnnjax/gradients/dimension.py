"""The dimension and the entropy rate of an attractor, from its Lyapunov spectrum."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def kaplan_yorke_dimension(exponents: ArrayLike, size: int | None = None) -> Array:
    """The Kaplan-Yorke dimension, at which volumes neither grow nor shrink.

        D_KY = j + (λ_1 + ... + λ_j)/|λ_{j+1}|,   j the last with λ_1 + ... + λ_j >= 0

    Args:
      exponents: `[..., k]`, in any order; -inf for annihilated directions.
      size: n, the number of all exponents; k by default.
    Returns:
      `[...]`: 0 where λ_1 < 0; n where volumes never shrink; NaN where fewer than n exponents are given and their sum
      is not negative, so that the dimension is only known to be at least k.

    Example: the Hénon map.

      >>> round(float(kaplan_yorke_dimension(jnp.array([0.4192, -1.6232]))), 4)
      1.2583

    Reference: Kaplan and Yorke, Chaotic behavior of multidimensional difference equations, Lecture Notes in
    Mathematics 730 (1979), 204.
    """
    exponents = -jnp.sort(-jnp.asarray(exponents), axis=-1)
    k = exponents.shape[-1]
    size = k if size is None else size
    sums = jnp.cumsum(exponents, axis=-1)
    whole = (sums >= 0).sum(-1)  # exponents are sorted, so the sums stay negative once they are
    edge = jnp.minimum(whole, k - 1)[..., None]
    next_one = jnp.take_along_axis(exponents, edge, axis=-1)[..., 0]
    before = jnp.take_along_axis(sums, jnp.maximum(whole - 1, 0)[..., None], axis=-1)[..., 0]
    part = jnp.where(next_one == -jnp.inf, 0, before / jnp.where(next_one < 0, -next_one, 1))
    dimension = jnp.where(whole == 0, 0, whole.astype(part.dtype) + part)
    dimension = jnp.where(whole == k, size if k == size else jnp.nan, dimension)
    return jnp.where(jnp.isnan(exponents).any(-1), jnp.nan, dimension)


def entropy_rate(exponents: ArrayLike, size: int | None = None) -> Array:
    """The sum of the positive exponents: Pesin's formula, an upper bound of the entropy rate (Ruelle).

    Args:
      As for `kaplan_yorke_dimension`.
    Returns:
      `[...]` nats per step; NaN where fewer than n exponents are given and all are positive.

    Example:

      >>> round(float(entropy_rate(jnp.array([0.5, 0.25, -1.0, -jnp.inf]))), 2)
      0.75
    """
    exponents = jnp.asarray(exponents)
    k = exponents.shape[-1]
    total = jnp.where(exponents > 0, exponents, 0).sum(-1)
    missing = jnp.isnan(exponents).any(-1)
    if size is not None and k < size:
        missing = missing | (exponents > 0).all(-1)
    return jnp.where(missing, jnp.nan, total)

"""Parity: whether the number of ones so far is odd, after every bit."""

# pyright: reportUnknownMemberType=false

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import check_size, float_dtype
from rnnjax.tasks.batch import Baseline, Batch, check_steps


def parity(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    shortest: int | None = None,
    last_only: bool = False,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Fair bits; the class at step t is the sum so far, modulo 2.

        target_t = (Σ_{s <= t} x_s) mod 2

    One wrong bit flips all later targets, so a short memory earns nothing.

    Args:
      key: PRNG key.
      steps: T.
      batch_shape: `*batch`.
      shortest: draw the length of each row from shortest..T; if None, all rows have length T.
      last_only: score only the last step of each row.
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, 1]` of 0 and 1, and `targets` `[T, *batch]` of 0 and 1.
    Raises:
      ValueError: a size is not a positive integer, or `shortest` is above `steps`.

    Example:

      >>> batch = parity(jax.random.key(0), 5)
      >>> bool((batch.targets == (jnp.cumsum(batch.xs[:, 0]) % 2).astype(jnp.int32)).all())
      True
    """
    check_steps(steps, 1, "a row needs at least one step")
    shortest = steps if shortest is None else shortest
    check_size("shortest", shortest)
    if shortest > steps:
        raise ValueError(f"shortest is {shortest}, but rows have at most steps = {steps}.")
    dtype = float_dtype(dtype)
    key_bits, key_lengths = jax.random.split(key)
    bits = jax.random.bernoulli(key_bits, 0.5, (steps, *batch_shape)).astype(jnp.int32)
    lengths = jax.random.randint(key_lengths, batch_shape, shortest, steps + 1, jnp.int32)
    at = jnp.arange(steps, dtype=jnp.int32).reshape(steps, *[1] * len(batch_shape))
    scored = at == lengths[None] - 1 if last_only else at < lengths[None]
    targets = jnp.cumsum(bits, axis=0, dtype=jnp.int32) % 2
    return Batch(bits.astype(dtype)[..., None], targets, scored.astype(dtype), lengths)


def parity_baseline() -> Baseline:
    """Guessing a fair bit: log 2 nats, accuracy 1/2, the best that is possible without the whole row."""
    return Baseline(math.log(2), 0.5)

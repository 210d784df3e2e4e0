"""Delayed XOR: at every step of a stream of bits, the exclusive or of two past bits."""

# pyright: reportUnknownMemberType=false

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import check_size, float_dtype
from rnnjax.tasks.batch import Baseline, Batch, check_steps, whole_rows


def delayed_xor(
    key: Array, steps: int, batch_shape: tuple[int, ...] = (), *, delay: int = 10, dtype: DTypeLike | None = None
) -> Batch:
    """Fair bits; the class at step t is x_{t-d} xor x_{t-d/2}, scored from t = d on.

        target_t = | x_{t-d} - x_{t-d/2} |        d = delay, d/2 rounded down

    Args:
      key: PRNG key.
      steps: T, above `delay`.
      batch_shape: `*batch`.
      delay: d, at least 2 steps.
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, 1]` of 0 and 1, and `targets` `[T, *batch]` of 0 and 1.
    Raises:
      ValueError: `delay` is below 2, or not below `steps`.

    Example:

      >>> batch = delayed_xor(jax.random.key(0), 6, delay=4)
      >>> bits = batch.xs[:, 0]
      >>> float(abs(bits[0] - bits[2])) == float(batch.targets[4]), batch.weights.tolist()
      (True, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0])

    Reference: Engelken, Gradient flossing: improving gradient descent through dynamic control of Jacobians, NeurIPS
    2023, the delayed temporal XOR task. The author's code (GradientFlossing_XOR.jl) uses the shorter lag as the delay:
    its x_{t-d} xor x_{t-2d} is `delay=2 * d` here.
    """
    check_size("delay", delay)
    if delay < 2:
        raise ValueError(f"delay is {delay}; it must be at least 2, so that half of it is a step.")
    check_steps(steps, delay + 1, f"the first answer comes after delay = {delay} steps")
    dtype = float_dtype(dtype)
    bits = jax.random.bernoulli(key, 0.5, (steps, *batch_shape))
    half = delay // 2
    answers = bits[: steps - delay] ^ bits[delay - half : steps - half]
    targets = jnp.zeros((steps, *batch_shape), jnp.int32).at[delay:].set(answers.astype(jnp.int32))
    weights = jnp.zeros((steps, *batch_shape), dtype).at[delay:].set(1)
    return Batch(bits.astype(dtype)[..., None], targets, weights, whole_rows(steps, batch_shape))


def delayed_xor_baseline() -> Baseline:
    """Guessing a fair bit: log 2 nats, accuracy 1/2. (Predicting 1/2 has a squared error of 1/4.)"""
    return Baseline(math.log(2), 0.5)

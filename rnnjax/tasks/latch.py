"""The latch: the first steps show one of two classes, noise follows, and the target at the end is the class."""

# pyright: reportUnknownMemberType=false

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import check_size, float_dtype
from rnnjax.tasks.batch import Baseline, Batch, check_noise, check_steps, last_step, whole_rows


def latch(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    signal_steps: int = 1,
    noise: float = 0.2,
    dtype: DTypeLike | None = None,
) -> Batch:
    """A sign to remember for the whole sequence, under noise at every step.

        x_t = s [t < signal_steps] + noise ε_t        s = -1 for class 0 and +1 for class 1, ε_t ~ N(0, 1)

    Args:
      key: PRNG key.
      steps: T, above `signal_steps`.
      batch_shape: `*batch`.
      signal_steps: the number of steps with the sign.
      noise: standard deviation of the noise; 0 for none.
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, 1]` and `targets` `[T, *batch]` of 0 and 1; only the last step is scored.
    Raises:
      ValueError: there is no step after the signal, or `noise` is negative or not finite.

    Example:

      >>> batch = latch(jax.random.key(0), 50, (6,), noise=0.0)
      >>> bool(((batch.xs[0, :, 0] > 0) == (batch.targets[-1] == 1)).all())
      True

    Reference: Bengio, Simard and Frasconi, Learning long-term dependencies with gradient descent is difficult, IEEE
    Trans. Neural Networks 5 (1994), section 3, where the signal is learned; here it is given.
    """
    check_size("signal_steps", signal_steps)
    check_steps(steps, signal_steps + 1, f"at least one step must follow the {signal_steps} signal steps")
    check_noise(noise)
    dtype = float_dtype(dtype)
    key_class, key_noise = jax.random.split(key)
    classes = jax.random.bernoulli(key_class, 0.5, batch_shape).astype(jnp.int32)
    sign = (2 * classes - 1).astype(dtype)
    xs = noise * jax.random.normal(key_noise, (steps, *batch_shape), dtype)
    xs = xs.at[:signal_steps].add(sign)
    targets = jnp.zeros((steps, *batch_shape), jnp.int32).at[-1].set(classes)
    return Batch(xs[..., None], targets, last_step(steps, batch_shape, dtype), whole_rows(steps, batch_shape))


def latch_baseline() -> Baseline:
    """Guessing a fair bit: log 2 nats, accuracy 1/2."""
    return Baseline(math.log(2), 0.5)

"""Tasks of systems neuroscience: decisions about noisy evidence, with and without context, and short-term memory."""

# pyright: reportUnknownMemberType=false

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import check_size, float_dtype
from rnnjax.tasks.batch import Baseline, Batch, check_noise, check_steps, last_step, whole_rows


def flip_flop(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    bits: int = 3,
    probability: float = 0.1,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Bits that pulses set to -1 or +1, to be reported at every step.

        x_t[k] = ±1 with the given probability, else 0;   target_t[k] = the last pulse of bit k, 0 before the first

    Args:
      key: PRNG key.
      steps: T.
      batch_shape: `*batch`.
      bits: K, features of input and target.
      probability: of a pulse, per bit and step.
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` and `targets` `[T, *batch, K]`; every step is scored.
    Raises:
      ValueError: a size is not positive, or the probability is not in (0, 1].

    Example:

      >>> batch = flip_flop(jax.random.key(0), 40, (5,))
      >>> bool((batch.targets[1:] == jnp.where(batch.xs[1:] != 0, batch.xs[1:], batch.targets[:-1])).all())
      True

    Reference: Sussillo and Barak, Opening the black box, Neural Computation 25 (2013), 626-649, section 3.3.
    """
    for name, size in (("steps", steps), ("bits", bits)):
        check_size(name, size)
    if not 0 < probability <= 1:
        raise ValueError(f"probability is {probability}; it must be more than 0 and at most 1.")
    dtype = float_dtype(dtype)
    key_when, key_sign = jax.random.split(key)
    shape = (steps, *batch_shape, bits)
    pulses = jax.random.bernoulli(key_when, probability, shape)
    xs = jnp.where(pulses, jax.random.rademacher(key_sign, shape, dtype), jnp.zeros(shape, dtype))
    time = jnp.arange(1, steps + 1).reshape(-1, *(1 for _ in shape[1:]))
    last = jax.lax.cummax(jnp.where(pulses, time, jnp.zeros_like(time)), axis=0)
    targets = jnp.take_along_axis(jnp.concatenate([jnp.zeros_like(xs[:1]), xs]), last, axis=0)
    return Batch(xs, targets, jnp.ones((steps, *batch_shape), dtype), whole_rows(steps, batch_shape))


def flip_flop_baseline(*, steps: int, probability: float = 0.1) -> Baseline:
    """Always 0: the mean squared error is how often a bit has been set, the mean of 1 - (1 - p)^t over t = 1..T.

    Example:

      >>> round(flip_flop_baseline(steps=1, probability=0.25).loss, 6)
      0.25
    """
    return Baseline(sum(1 - (1 - probability) ** t for t in range(1, steps + 1)) / steps)


def perceptual_decision(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    coherence: float = 0.2,
    noise: float = 1.0,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Which of two signs the noisy evidence has, decided at the end.

        x_t = s coherence + noise ε_t        s = -1 for class 0 and +1 for class 1, ε_t ~ N(0, 1)

    An ideal observer sums all evidence: its accuracy is Φ(coherence sqrt(T) / noise).

    Args:
      key: PRNG key.
      steps: T.
      batch_shape: `*batch`.
      coherence: the mean of the evidence.
      noise: its standard deviation.
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, 1]` and `targets` `[T, *batch]` of 0 and 1; only the last step is scored.
    Raises:
      ValueError: `steps` is not positive, or `noise` is negative or not finite.

    Example:

      >>> batch = perceptual_decision(jax.random.key(0), 400, (200,), coherence=0.2)
      >>> float(((batch.xs.sum(0)[:, 0] > 0) == (batch.targets[-1] == 1)).mean()) > 0.98
      True

    Reference: Britten, Shadlen, Newsome and Movshon, The analysis of visual motion, J. Neuroscience 12 (1992),
    4745-4765; for networks: Song, Yang and Wang, PLOS Computational Biology 12 (2016), e1004792.
    """
    check_size("steps", steps)
    check_noise(noise)
    dtype = float_dtype(dtype)
    key_class, key_noise = jax.random.split(key)
    classes = jax.random.bernoulli(key_class, 0.5, batch_shape).astype(jnp.int32)
    shape = (steps, *batch_shape)
    sign = jnp.broadcast_to((2 * classes - 1).astype(dtype), shape)
    xs = coherence * sign + noise * jax.random.normal(key_noise, shape, dtype)
    targets = jnp.zeros((steps, *batch_shape), jnp.int32).at[-1].set(classes)
    return Batch(xs[..., None], targets, last_step(steps, batch_shape, dtype), whole_rows(steps, batch_shape))


def perceptual_decision_baseline() -> Baseline:
    """Guessing a fair bit: log 2 nats, accuracy 1/2."""
    return Baseline(math.log(2), 0.5)


def context_integration(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    coherence: float = 0.2,
    noise: float = 1.0,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Two streams of noisy evidence, and a context that says which of them to decide about.

        x_t = (s_1 coherence + noise ε_1, s_2 coherence + noise ε_2, [context 1], [context 2])

    Args: as for `perceptual_decision`.
    Returns:
      A `Batch` with `xs` `[T, *batch, 4]` and `targets` `[T, *batch]`: the class of the stream in context, 0 or 1; only
      the last step is scored.
    Raises:
      ValueError: as for `perceptual_decision`.

    Example:

      >>> batch = context_integration(jax.random.key(0), 400, (100,))
      >>> evidence = (batch.xs[..., :2] * batch.xs[..., 2:]).sum((0, -1))
      >>> float(((evidence > 0) == (batch.targets[-1] == 1)).mean()) > 0.98
      True

    Reference: Mante, Sussillo, Shenoy and Newsome, Context-dependent computation by recurrent dynamics in prefrontal
    cortex, Nature 503 (2013), 78-84.
    """
    key_one, key_two, key_context = jax.random.split(key, 3)
    streams = [
        perceptual_decision(k, steps, batch_shape, coherence=coherence, noise=noise, dtype=dtype)
        for k in (key_one, key_two)
    ]
    second = jax.random.bernoulli(key_context, 0.5, batch_shape)
    context = jnp.stack([~second, second], axis=-1).astype(streams[0].xs.dtype)
    shown = jnp.broadcast_to(context, (steps, *context.shape))
    xs = jnp.concatenate([streams[0].xs, streams[1].xs, shown], axis=-1)
    chosen = jnp.broadcast_to(second, (steps, *second.shape))
    return streams[0]._replace(xs=xs, targets=jnp.where(chosen, streams[1].targets, streams[0].targets))


def context_integration_baseline() -> Baseline:
    """Guessing a fair bit: log 2 nats, accuracy 1/2."""
    return Baseline(math.log(2), 0.5)


def delayed_match(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    stimuli: int = 4,
    noise: float = 0.1,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Whether the stimulus at the end is the one at the start.

        x_1 = one-hot sample, x_T = one-hot test, which equals the sample in half of the rows; noise at all steps

    Args:
      key: PRNG key.
      steps: T, of which T - 2 are the delay.
      batch_shape: `*batch`.
      stimuli: K, features of the input.
      noise: standard deviation of the noise at every step.
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, K]` and `targets` `[T, *batch]`: 1 for a match; only the last step is scored.
    Raises:
      ValueError: there are fewer than two steps or stimuli, or `noise` is negative or not finite.

    Example:

      >>> batch = delayed_match(jax.random.key(0), 9, (50,), noise=0.0)
      >>> same = (batch.xs[0] * batch.xs[-1]).sum(-1) > 0.5
      >>> bool((same == (batch.targets[-1] == 1)).all())
      True

    Reference: Fuster and Alexander, Neuron activity related to short-term memory, Science 173 (1971), 652-654; for
    networks: Yang, Joglekar, Song, Newsome and Wang, Nature Neuroscience 22 (2019), 297-306.
    """
    check_steps(steps, 2, "the sample and the test are two of them")
    if isinstance(stimuli, bool) or stimuli < 2:
        raise ValueError(f"stimuli is {stimuli}; there must be at least 2.")
    check_noise(noise)
    dtype = float_dtype(dtype)
    key_sample, key_other, key_match, key_noise = jax.random.split(key, 4)
    sample = jax.random.randint(key_sample, batch_shape, 0, stimuli, jnp.int32)
    other = (sample + jax.random.randint(key_other, batch_shape, 1, stimuli, jnp.int32)) % stimuli
    match = jax.random.bernoulli(key_match, 0.5, batch_shape)
    xs = noise * jax.random.normal(key_noise, (steps, *batch_shape, stimuli), dtype)
    xs = xs.at[0].add(jax.nn.one_hot(sample, stimuli, dtype=dtype))
    xs = xs.at[-1].add(jax.nn.one_hot(jnp.where(match, sample, other), stimuli, dtype=dtype))
    targets = jnp.zeros((steps, *batch_shape), jnp.int32).at[-1].set(match.astype(jnp.int32))
    return Batch(xs, targets, last_step(steps, batch_shape, dtype), whole_rows(steps, batch_shape))


def delayed_match_baseline() -> Baseline:
    """Guessing a fair bit: log 2 nats, accuracy 1/2."""
    return Baseline(math.log(2), 0.5)

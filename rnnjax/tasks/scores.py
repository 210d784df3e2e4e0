"""Losses over the scored steps of a task: one for all regressions, one for all classifications.

    L = Σ_{t,b} w_{t,b} ℓ(y_{t,b}, target_{t,b}) / Σ_{t,b} w_{t,b}

A step with weight zero contributes exactly nothing to the loss and its gradient, whatever the output. The loss of a
batch without scored steps (such as a chunk from the middle of a row) is 0.
"""

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.tasks.batch import Batch


def squared_error(predictions: Array, batch: Batch) -> Array:
    """The mean squared error over scored steps: ℓ = mean_k (y_k - target_k)².

    Args:
      predictions: `[T, *batch, K]`, like `batch.targets`.
    Returns:
      `[]`.
    Raises:
      ValueError: the shapes differ. (A missing axis of 1 would otherwise broadcast silently.)

    Example:

      >>> from rnnjax.tasks import adding
      >>> batch = adding(jax.random.key(0), 10, (1000,))
      >>> round(float(squared_error(jnp.ones_like(batch.targets), batch)), 1)      # the constant predictor: 1/6
      0.2
    """
    _check_predictions(predictions, batch)
    scored = batch.weights > 0
    error = jnp.where(scored[..., None], predictions - batch.targets, 0)
    return _mean(jnp.mean(error**2, axis=-1), batch)


def cross_entropy(logits: Array, batch: Batch) -> Array:
    """The cross-entropy in nats over scored steps: ℓ = log Σ_k exp(y_k) - y_target.

    Args:
      logits: `[T, *batch, K]`, K classes; `batch.targets` is `[T, *batch]` of integers in 0..K-1.
    Returns:
      `[]`.
    Raises:
      ValueError: the shapes do not fit.
      TypeError: the targets are not class indices.

    Example: equal logits have loss log K.

      >>> from rnnjax.tasks import temporal_order
      >>> batch = temporal_order(jax.random.key(0), 50, (3,))
      >>> round(float(cross_entropy(jnp.zeros((50, 3, 4)), batch) / jnp.log(4.0)), 4)
      1.0
    """
    _check_logits(logits, batch)
    safe = jnp.where((batch.weights > 0)[..., None], logits, 0)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(safe, axis=-1), batch.targets[..., None], axis=-1)[..., 0]
    return _mean(-chosen, batch)


def accuracy(logits: Array, batch: Batch) -> Array:
    """The share of scored steps (by weight) whose largest logit is the target's. `[T, *batch, K]` to `[]`.

    A row of logits with NaN counts as wrong.

    Example:

      >>> from rnnjax.tasks import parity
      >>> batch = parity(jax.random.key(0), 8, (4,))
      >>> float(accuracy(jax.nn.one_hot(batch.targets, 2), batch))
      1.0
    """
    _check_logits(logits, batch)
    best = jnp.argmax(logits, axis=-1).astype(batch.targets.dtype)
    right = (best == batch.targets) & ~jnp.isnan(logits).any(axis=-1)
    return _mean(right.astype(batch.weights.dtype), batch)


def set_accuracy(predictions: Array, batch: Batch) -> Array:
    """The share of scored steps (by weight) whose predictions are above 1/2 at exactly the targets that are 1.

    Args:
      predictions: `[T, *batch, K]`, usually in (0, 1); `batch.targets` is `[T, *batch, K]` of 0 and 1.
    Returns:
      `[]`.
    Raises:
      ValueError: the shapes differ.

    Example: the Reber grammar, whose next symbol is usually one of two.

      >>> from rnnjax.tasks import reber
      >>> batch = reber(jax.random.key(0), 8, (4,))
      >>> float(set_accuracy(0.9 * batch.targets, batch)), float(set_accuracy(jnp.zeros((8, 4, 7)), batch))
      (1.0, 0.0)
    """
    _check_predictions(predictions, batch)
    right = (predictions > 0.5) == (batch.targets > 0.5)
    return _mean(right.all(axis=-1).astype(batch.weights.dtype), batch)


def _mean(values: Array, batch: Batch) -> Array:
    weights = batch.weights.astype(values.dtype)
    total = jnp.sum(weights)
    return jnp.sum(jnp.where(weights > 0, values * weights, 0)) / jnp.where(total > 0, total, 1)


def _check_predictions(predictions: Array, batch: Batch) -> None:
    if predictions.shape != batch.targets.shape:
        raise ValueError(
            f"`predictions` is {list(predictions.shape)} and `batch.targets` {list(batch.targets.shape)}; "
            "pass one number for each target: [T, *batch, K]."
        )


def _check_logits(logits: Array, batch: Batch) -> None:
    if not jnp.issubdtype(batch.targets.dtype, jnp.integer):
        raise TypeError(f"`batch.targets` is {batch.targets.dtype}; class indices are integers (or use squared_error).")
    if logits.shape[:-1] != batch.targets.shape:
        raise ValueError(
            f"`logits` is {list(logits.shape)} and `batch.targets` {list(batch.targets.shape)}; "
            "pass one row of logits for each target: [T, *batch, classes]."
        )

"""Images read pixel by pixel, in order or permuted: the class at the end."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import check_size, float_dtype
from rnnjax.tasks.batch import Baseline, Batch, last_step, whole_rows


def pixels(
    key: Array,
    images: Any,
    labels: Any,
    batch_shape: tuple[int, ...] = (),
    *,
    permutation_key: Array | None = None,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Images drawn uniformly, with replacement, one pixel per step, row by row; the target at the end is the label.

        x_t = image[π(t)],  t = 1..T            π is the identity, or one random permutation

    Args:
      key: PRNG key, for the choice of images.
      images: `[N, T]`, `[N, rows, columns]` or `[N, rows, columns, channels]`, where T = rows * columns. uint8 is
        divided by 255; floating point is left as it is. Pass them as arguments to a jitted function, not as constants.
      labels: `[N]` integers.
      batch_shape: `*batch`.
      permutation_key: draws the order of the pixels. Pass the same key for all batches of training and test.
      dtype: of `xs` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` `[T, *batch, channels]` and `targets` `[T, *batch]`; only the last step is scored.
    Raises:
      TypeError: images are neither uint8 nor floating point, or labels are not integers.
      ValueError: a shape does not fit.

    Example:

      >>> images, labels = jnp.arange(2 * 4 * 4.0).reshape(2, 4, 4), jnp.array([7, 3])
      >>> batch = pixels(jax.random.key(0), images, labels, (5,), permutation_key=jax.random.key(1))
      >>> batch.xs.shape, bool(((batch.xs[0, :, 0] < 16) == (batch.targets[-1] == 7)).all())
      ((16, 5, 1), True)

    Reference: Le, Jaitly and Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015
    (arXiv:1504.00941), section 4.2: sequential MNIST, and permuted MNIST.
    """
    images, labels = (a if isinstance(a, jax.Array) else np.asarray(a) for a in (images, labels))
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"`images` is {images.dtype}; pass uint8 in 0..255, or floating point.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` is {labels.dtype}; class indices are integers.")
    if images.ndim not in (2, 3, 4) or 0 in images.shape:
        expected = "[N, T], [N, rows, columns] or [N, rows, columns, channels]"
        raise ValueError(f"`images` is {list(images.shape)}; it must be {expected}, and not empty.")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"`images` is {list(images.shape)} and `labels` {list(labels.shape)}; pass one label per image."
        )
    dtype, channels = float_dtype(dtype), images.shape[3] if images.ndim == 4 else 1
    chosen = jax.random.randint(key, batch_shape, 0, len(images), jnp.int32)
    rows = jnp.asarray(images)[chosen].astype(dtype).reshape(*batch_shape, -1, channels)
    xs = jnp.moveaxis(rows / 255 if images.dtype == np.uint8 else rows, -2, 0)
    if permutation_key is not None:
        xs = xs[jax.random.permutation(permutation_key, xs.shape[0])]
    targets = jnp.zeros(xs.shape[:-1], jnp.int32).at[-1].set(jnp.asarray(labels)[chosen].astype(jnp.int32))
    return Batch(xs, targets, last_step(xs.shape[0], batch_shape, dtype), whole_rows(xs.shape[0], batch_shape))


def pixels_baseline(classes: int = 10) -> Baseline:
    """Guessing one of K classes that are equally frequent: log K nats, accuracy 1/K.

    Example:

      >>> pixels_baseline().accuracy
      0.1
    """
    check_size("classes", classes)
    return Baseline(math.log(classes), 1 / classes)

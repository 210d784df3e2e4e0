"""Gradient clipping by the global norm, safe for overflowing and non-finite gradients, and counts for any clip.

    clip_by_global_norm     g ← g min(1, c / ‖g‖)           ‖g‖ over all leaves together
    counted                 Optax's own clips, such as `optax.clip` and `optax.adaptive_grad_clip`

Put them before an optimizer with `optax.chain`. Otherwise equal to Optax's to rounding, they differ in this:

* The global norm neither overflows nor underflows: a float32 gradient of 1e30 is scaled down, whereas Optax gives an
  all-zero update.
* A gradient with NaN or inf has no direction, so *every* leaf becomes NaN. Optax mixes NaN with zeros, or clips an inf
  like a number. `fit` catches such a step before it is applied.
* Integer leaves have no norm and are not changed; a complex number keeps its phase.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

from rnnjax.cell import PyTree
from rnnjax.training.norms import accumulator, is_inexact, norm, scaled_norm


class ClipState(NamedTuple):
    """Counts and norms of a clip.

    Attributes:
      steps: `[]` int32, updates so far.
      clipped: `[]` int32, updates that were changed.
      nonfinite: `[]` int32, updates with NaN or inf.
      norm_before: `[]` global norm of the last gradient; NaN if not finite.
      norm_after: `[]` global norm after clipping.
    """

    steps: Array
    clipped: Array
    nonfinite: Array
    norm_before: Array
    norm_after: Array


def clip_by_global_norm(max_norm: ArrayLike) -> optax.GradientTransformation:
    """Scales the whole gradient down to a norm of at most `max_norm`, and keeps its direction.

        g ← g min(1, c / ‖g‖)        c = max_norm, ‖g‖ the Euclidean norm over all leaves

    Args:
      max_norm: c > 0; inf never clips. If traced, as in a sweep, zero gives zero updates and an invalid value gives
        NaN.
    Returns:
      An `optax.GradientTransformation` with a `ClipState`.
    Raises:
      ValueError: `max_norm` is zero, negative or NaN.

    Example:

      >>> clip = clip_by_global_norm(1.0)
      >>> gradient = {"w": jnp.array([3e30, 4e30], jnp.float32)}
      >>> update, state = clip.update(gradient, clip.init(gradient))
      >>> [round(float(u), 6) for u in update["w"]], int(state.clipped)
      ([0.6, 0.8], 1)

    Reference: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013,
    algorithm 1.
    """
    number = math.inf if isinstance(max_norm, Tracer) else float(np.asarray(max_norm))
    if math.isnan(number) or number <= 0:
        meaning = "an update of zero" if number == 0 else "no bound"
        raise ValueError(
            f"max_norm is {number}, which is {meaning}; pass a positive number. To train without clipping leave it "
            "out, to freeze parameters use optax.set_to_zero()."
        )

    def clip(updates: PyTree, params: PyTree) -> tuple[PyTree, Array]:
        scale, unscale, size = scaled_norm(updates)
        bound = jnp.asarray(max_norm, size.dtype)
        bound = jnp.where(bound >= 0, bound, jnp.nan)  # a negative traced bound is invalid
        within = (scale * size < bound) | (bound == jnp.inf)
        divisor = jnp.where(size == 0, 1, size)

        def short(part: Array) -> Array:
            # this order rounds like (g / ‖g‖) c, since scaling by a power of two is exact
            return (part.astype(size.dtype) * unscale / divisor * bound).astype(part.dtype)

        def shorten(leaf: Array) -> Array:
            if not is_inexact(leaf):
                return leaf
            whole = lax.complex(short(leaf.real), short(leaf.imag)) if jnp.iscomplexobj(leaf) else short(leaf)
            return jnp.where(within, leaf, whole)

        return jax.tree.map(shorten, updates), scale * size > bound

    return _counting(clip)


def counted(clip: optax.GradientTransformation) -> optax.GradientTransformation:
    """Counts how often a clip without a state changes the gradient, and keeps the norms, in a `ClipState`.

    Example:

      >>> clip = counted(optax.clip(1.0))
      >>> update, state = clip.update(jnp.array([0.5, -3.0]), clip.init(jnp.zeros(2)))
      >>> update.tolist(), int(state.clipped)
      ([0.5, -1.0], 1)
    """

    def by_optax(updates: PyTree, params: PyTree) -> tuple[PyTree, Array]:
        made = clip.update(updates, optax.EmptyState(), params)[0]
        changed = [(new != old).any() for new, old in zip(*map(jax.tree.leaves, (made, updates)), strict=True)]
        return made, jnp.array(changed).any()

    return _counting(by_optax)


def clip_states(opt_state: PyTree) -> list[ClipState]:
    """All `ClipState`s in the state of an optimizer, in order."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ClipState))
    return [node for node in nodes if isinstance(node, ClipState)]


def _counting(clip: Callable[[PyTree, PyTree], tuple[PyTree, Array]]) -> optax.GradientTransformation:
    def init(params: PyTree) -> ClipState:
        dtype = accumulator(params)
        return ClipState(*(jnp.zeros((), of) for of in (jnp.int32, jnp.int32, jnp.int32, dtype, dtype)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ClipState]:
        before = norm(updates)
        finite = ~jnp.isnan(before)
        clipped, was = clip(updates, params)
        poisoned = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan) if is_inexact(leaf) else leaf, clipped)
        state = ClipState(
            steps=state.steps + 1,
            clipped=state.clipped + (was & finite).astype(jnp.int32),
            nonfinite=state.nonfinite + (~finite).astype(jnp.int32),
            norm_before=before,
            norm_after=norm(poisoned),
        )
        return poisoned, state

    return optax.GradientTransformation(init, update)

"""Gradient clipping that is safe for overflowing and non-finite gradients; otherwise it equals Optax's, to rounding.

    clip_by_global_norm     g ← g min(1, c / ‖g‖)           ‖g‖ over all leaves together
    clip_by_norm            g_i ← g_i min(1, c / ‖g_i‖)     each leaf separately
    clip_by_value           g ← max(-c, min(g, c))          each entry
    clip_adaptive           g_u ← g_u min(1, c max(‖w_u‖, ε) / ‖g_u‖)     each unit, relative to its weights

These are Optax transformations; put them before an optimizer with `optax.chain`. They differ from Optax's in three
ways:

* No norm overflows or underflows: a float32 gradient of 1e30 is scaled down, whereas Optax gives an all-zero update.
* A gradient with NaN or inf has no direction, so *every* leaf becomes NaN. Optax mixes NaN with zeros, or clips an inf
  like a number. `fit` and `skip_nonfinite` catch such a step before it is applied.
* A complex number is clipped by its modulus and keeps its phase. Integer leaves have no norm and are not changed.

A tree without leaves, which `optax.multi_transform` makes for an empty group, has norm zero and is not clipped.

Each transformation has a `ClipState` with the number of clipped steps and the global norm before and after.
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
    """Counts and norms of a clipping transformation.

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
    _check_bound("max_norm", max_norm)

    def clip(updates: PyTree, params: PyTree) -> tuple[PyTree, Array]:
        return _to_norm(updates, max_norm)

    return _transformation(clip)


def clip_by_norm(max_norm: ArrayLike) -> optax.GradientTransformation:
    """Scales each leaf down separately to a norm of at most `max_norm`.

        g_i ← g_i min(1, c / ‖g_i‖)        for every leaf i

    Args:
      max_norm: c > 0, as in `clip_by_global_norm`.
    Returns:
      An `optax.GradientTransformation` with a `ClipState`; a step counts as clipped if any leaf is.
    Raises:
      ValueError: `max_norm` is zero, negative or NaN.

    Example:

      >>> clip = clip_by_norm(1.0)
      >>> gradient = {"b": jnp.array([0.5]), "w": jnp.array([3.0, 4.0])}
      >>> update, _ = clip.update(gradient, clip.init(gradient))
      >>> update["b"].tolist(), [round(float(u), 6) for u in update["w"]]
      ([0.5], [0.6, 0.8])
    """
    _check_bound("max_norm", max_norm)

    def clip(updates: PyTree, params: PyTree) -> tuple[PyTree, Array]:
        leaves, tree = jax.tree.flatten(updates)
        pairs = [_to_norm(leaf, max_norm) for leaf in leaves]
        clipped = jnp.stack([was for _, was in pairs]).any() if pairs else jnp.array(False)
        return tree.unflatten([leaf for leaf, _ in pairs]), clipped

    return _transformation(clip)


def clip_by_value(max_delta: ArrayLike) -> optax.GradientTransformation:
    """Clips each entry: g ← max(-c, min(g, c)), or g min(1, c / |g|) if complex. The direction changes.

    Args:
      max_delta: c > 0, as in `clip_by_global_norm`.
    Returns:
      An `optax.GradientTransformation` with a `ClipState`.
    Raises:
      ValueError: `max_delta` is zero, negative or NaN.

    Example:

      >>> clip = clip_by_value(1.0)
      >>> update, _ = clip.update(jnp.array([0.5, -3.0]), clip.init(jnp.zeros(2)))
      >>> update.tolist()
      [0.5, -1.0]
    """
    _check_bound("max_delta", max_delta)

    def clip(updates: PyTree, params: PyTree) -> tuple[PyTree, Array]:
        def bound(leaf: Array) -> Array:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return _to_norm(leaf, max_delta, axis=())[0]  # by the modulus of each entry; integers are unchanged
            most = jnp.asarray(max_delta, leaf.dtype)
            most = jnp.where(most >= 0, most, jnp.nan)  # a negative traced bound is invalid
            inside = jnp.abs(leaf) <= most  # unchanged, because jnp.clip would flush subnormal numbers
            return jnp.where(inside, leaf, jnp.clip(leaf, -most, most))

        bounded = jax.tree.map(bound, updates)
        changed = [(new != old).any() for new, old in zip(*map(jax.tree.leaves, (bounded, updates)), strict=True)]
        return bounded, jnp.stack(changed).any() if changed else jnp.array(False)

    return _transformation(clip)


def clip_adaptive(clipping: ArrayLike, eps: float = 1e-3) -> optax.GradientTransformation:
    """Clips the gradient of each unit relative to the norm of the unit's weights.

        g_u ← g_u min(1, c max(‖w_u‖, ε) / ‖g_u‖)        u a column of a matrix, or a whole vector

    Args:
      clipping: c > 0, as `max_norm` in `clip_by_global_norm`.
      eps: ε > 0, so that weights can leave zero.
    Returns:
      An `optax.GradientTransformation` with a `ClipState`; its `update` needs `params`.
    Raises:
      ValueError: a bound is zero, negative or NaN, or `update` is called without `params`.

    Example:

      >>> clip = clip_adaptive(0.1)
      >>> w = jnp.array([[1.0, 10.0]])
      >>> update, _ = clip.update(jnp.array([[0.5, 0.5]]), clip.init(w), w)
      >>> [round(float(u), 6) for u in update[0]]
      [0.1, 0.5]

    Reference: Brock, De, Smith and Simonyan, High-performance large-scale image recognition without normalization,
    ICML 2021, eq. 3 (c = 0.01 and ε = 1e-3 there).
    """
    _check_bound("clipping", clipping)
    _check_bound("eps", eps)

    def clip(updates: PyTree, params: PyTree) -> tuple[PyTree, Array]:
        if params is None:
            raise ValueError("clip_adaptive needs the weights: call update(gradient, state, params).")

        def bound(leaf: Array | None, weights: Array) -> tuple[Array | None, Array]:
            if leaf is None or not is_inexact(leaf):
                return leaf, jnp.array(False)
            axis = tuple(range(leaf.ndim)) if leaf.ndim <= 1 else tuple(range(leaf.ndim - 1)) if leaf.ndim > 3 else 0
            scale, _, size = scaled_norm(weights, axis=axis)
            return _to_norm(leaf, clipping * jnp.maximum(scale * size, eps), axis=axis)

        leaves, tree = jax.tree.flatten(updates, is_leaf=lambda leaf: leaf is None)
        pairs = [bound(leaf, weights) for leaf, weights in zip(leaves, tree.flatten_up_to(params), strict=True)]
        clipped = jnp.stack([was for _, was in pairs]).any() if pairs else jnp.array(False)
        return tree.unflatten([leaf for leaf, _ in pairs]), clipped

    return _transformation(clip)


def clip_states(opt_state: PyTree) -> list[ClipState]:
    """All `ClipState`s in the state of an optimizer, in order."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ClipState))
    return [node for node in nodes if isinstance(node, ClipState)]


def _to_norm(tree: PyTree, max_norm: ArrayLike, axis: int | tuple[int, ...] | None = None) -> tuple[PyTree, Array]:
    """Scales the tree (or each unit of a leaf, with `axis`) down to `max_norm`; also returns whether it changed."""
    scale, unscale, size = scaled_norm(tree, axis)
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

    return jax.tree.map(shorten, tree), jnp.any(scale * size > bound)


def _transformation(
    clip: Callable[[PyTree, PyTree], tuple[PyTree, Array]],
) -> optax.GradientTransformation:
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


def _check_bound(name: str, value: ArrayLike) -> None:
    if isinstance(value, Tracer):
        return
    number = float(np.asarray(value))
    if math.isnan(number) or number <= 0:
        meaning = "an update of zero" if number == 0 else "no bound"
        raise ValueError(
            f"{name} is {number}, which is {meaning}; pass a positive number. To train without clipping leave it out, "
            "to freeze parameters use optax.set_to_zero()."
        )

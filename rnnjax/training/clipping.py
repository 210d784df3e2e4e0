"""Gradient clipping by the global norm, as Optax's up to rounding, and counts for it and for Optax's own clips.

But the norm neither overflows nor underflows (Optax turns a float32 gradient of 1e30 into zero), and NaN or inf, which
have no direction, make *every* leaf NaN, so that `fit` does not apply it. Integer leaves are not changed.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.core import Tracer

from rnnjax.cell import PyTree


class ClipState(NamedTuple):
    """Counts and norms of a clip."""

    steps: Array  # [] int32, updates so far
    clipped: Array  # [] int32, updates that were changed
    nonfinite: Array  # [] int32, updates with NaN or inf
    norm_before: Array  # [], of the last gradient; NaN if not finite
    norm_after: Array  # [], after clipping


def clip_by_global_norm(max_norm: float | Array) -> optax.GradientTransformation:
    """Scales the whole gradient down to a norm of at most c: g ← g min(1, c / ‖g‖). Its state is a `ClipState`.

    Args:
      max_norm: c > 0; inf never clips. If traced, as in a sweep, zero gives zero updates and an invalid one NaN.
    Raises:
      ValueError: `max_norm` is zero, negative or NaN.

    Example:

      >>> clip = clip_by_global_norm(1.0)
      >>> gradient = {"w": jnp.array([3e30, 4e30], jnp.float32)}
      >>> update, state = clip.update(gradient, clip.init(gradient))
      >>> [round(float(u), 6) for u in update["w"]], int(state.clipped)
      ([0.6, 0.8], 1)

    Reference: Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013, algorithm 1.
    """
    if not isinstance(max_norm, Tracer) and not max_norm > 0:
        raise ValueError(f"max_norm is {float(max_norm)}; pass a positive number, or freeze by optax.set_to_zero().")

    def clip(updates: PyTree, params: PyTree) -> PyTree:
        scale, unscale, size = _scaled_norm(updates)
        bound = jnp.asarray(max_norm, size.dtype)
        bound = jnp.where(bound < 0, jnp.nan, bound)
        divisor = jnp.where(size == 0, 1, size)

        def short(part: Array) -> Array:  # rounds like (g / ‖g‖) c, since scaling by a power of two is exact
            return (part.astype(size.dtype) * unscale / divisor * bound).astype(part.dtype)

        def of(leaf: Array) -> Array:
            clipped = lax.complex(short(leaf.real), short(leaf.imag)) if jnp.iscomplexobj(leaf) else short(leaf)
            return jnp.where(scale * size <= bound, leaf, clipped)

        return jax.tree.map(lambda leaf: of(leaf) if is_inexact(leaf) else leaf, updates)

    return counted(optax.stateless(clip))


def counted(clip: optax.GradientTransformation) -> optax.GradientTransformation:
    """Counts how often a clip without a state changes the gradient, and keeps the norms, in a `ClipState`.

    Example:

      >>> clip = counted(optax.clip(1.0))
      >>> update, state = clip.update(jnp.array([0.5, -3.0]), clip.init(jnp.zeros(2)))
      >>> update.tolist(), int(state.clipped)
      ([0.5, -1.0], 1)
    """

    def init(params: PyTree) -> ClipState:
        dtype = jax.eval_shape(norm, params).dtype
        return ClipState(*(jnp.zeros((), of) for of in (jnp.int32, jnp.int32, jnp.int32, dtype, dtype)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ClipState]:
        before = norm(updates)
        bad = jnp.isnan(before)
        made = clip.update(updates, optax.EmptyState(), params)[0]
        changed = jax.tree.leaves(jax.tree.map(lambda new, old: (new != old).any(), made, updates))
        made = jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf) if is_inexact(leaf) else leaf, made)
        flags = True, jnp.array(changed).any() & ~bad, bad
        counts = [count + jnp.int32(flag) for count, flag in zip(state[:3], flags, strict=True)]
        return made, ClipState(*counts, norm_before=before, norm_after=norm(made))

    return optax.GradientTransformation(init, update)


def clip_states(opt_state: PyTree) -> list[ClipState]:
    """All `ClipState`s in the state of an optimizer, in order."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ClipState))
    return [node for node in nodes if isinstance(node, ClipState)]


def is_inexact(leaf: Any) -> bool:
    """Whether the leaf has a real or complex floating dtype."""
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.inexact)


def norm(tree: PyTree) -> Array:
    """‖tree‖ over all leaves but integers; 0 without leaves, inf only if it overflows itself, NaN for NaN or inf."""
    scale, _, size = _scaled_norm(tree)
    return scale * size


def _scaled_norm(tree: PyTree) -> tuple[Array, Array, Array]:
    """`(s, 1 / s, ‖tree / s‖)`, finite even where the norm is not, in the widest dtype, at least float32.

    s is a power of two near the largest entry, so scaling by it is exact, and no square overflows or underflows.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    parts = [part for leaf in leaves for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))]
    dtype = jnp.float64 if any(part.dtype == jnp.float64 for part in parts) else jnp.float32
    parts, zero, info = [part.astype(dtype) for part in parts], jnp.zeros((), dtype), jnp.finfo(dtype)
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(part), initial=0) for part in parts], zero)
    bound = 2.0 ** (info.maxexp - 8)
    # rounds to a power of two, and keeps XLA from merging this division with a later one, which could overflow
    unscale = lax.reduce_precision(1 / jnp.clip(largest, 1 / bound, bound), info.nexp, 0)
    size = jnp.sqrt(sum((jnp.sum(jnp.square(part * unscale)) for part in parts), zero))
    return 1 / unscale, unscale, jnp.where(jnp.isfinite(largest), size, jnp.nan)

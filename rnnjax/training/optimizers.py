"""Calls any Optax optimizer with the arguments and conventions that Optax expects from a training loop, and clips.

    g        = ∂L/∂θ                                       as `jax.grad` gives it
    u, state = update(g*, state, θ, value=L, grad=g, value_fn=L(·), obj_fn=L(·), grad_fn=g*(·))
    θ        ← θ + u

g* is the complex conjugate: for z = x + iy `jax.grad` gives ∂L/∂x - i ∂L/∂y, and L decreases fastest along minus its
conjugate. Leaves of θ that are not floating point have no gradient, and stay unchanged, as with `optax.masked`.

Our clip by the global norm is Optax's, but the norm does not overflow (Optax turns a float32 gradient of 1e30 into
zero), and NaN or inf, which have no direction, make *every* leaf NaN, so that `fit` does not apply it.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.core import Tracer

from rnnjax.cell import PyTree


def transformation(optimizer: Any, setting: PyTree = None) -> optax.GradientTransformationExtraArgs:
    """Makes the `update` of a transformation, or of a function's result for a setting, accept extra arguments."""
    if isinstance(optimizer, optax.GradientTransformation):
        return optax.with_extra_args_support(optimizer)
    methods: list[Any] = [getattr(optimizer, name, None) for name in ("init", "update")]
    if not isinstance(optimizer, type) and all(map(callable, methods)):
        return optax.GradientTransformationExtraArgs(*methods)  # such as optax.MultiSteps
    if setting is not None:
        return transformation(optimizer(setting))
    raise TypeError(
        f"`optimizer` is {optimizer!r}, which has no `init` and `update`; pass an Optax transformation, such as "
        "`optax.adam(1e-3)` (called, with its learning rate)."
    )


def trained(params: PyTree, tree: PyTree = None) -> PyTree:
    """The leaves of `params` (or of a `tree` of the same structure) that have a gradient; others are masked."""
    tree = params if tree is None else tree
    return jax.tree.map(lambda param, leaf: leaf if is_inexact(param) else optax.MaskedNode(), params, tree)


def joined(seen: PyTree, params: PyTree) -> PyTree:
    """`params` with its trained leaves replaced by those of `seen`."""
    return jax.tree.map(lambda new, old: old if _is_masked(new) else new, seen, params, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def update(
    optimizer: Any, gradient: PyTree, state: PyTree, params: PyTree, value: Any, value_fn: Callable, grad_fn: Callable
) -> tuple[PyTree, PyTree]:
    """`(params, state)` after one update, from the gradient of `trained(params)`, the loss, and both as functions."""

    def value_at(seen: PyTree, *, obj_fn: Any = None, grad_fn: Any = None) -> Any:
        # a line search passes on the arguments that it does not know, if they are named here
        return value_fn(joined(seen, params))

    def gradient_at(seen: PyTree, step: Any = None) -> PyTree:
        whole = optax.tree.conj(grad_fn(joined(seen, params)))
        return jax.tree.map(lambda node, leaf: node if _is_masked(node) else leaf, seen, whole, is_leaf=_is_masked)

    seen = trained(params)
    # Not all accept all of these (`optax.contrib.sam` takes only `grad_fn`), and the signature of a chain does not show
    # what its transformations accept.
    extra = {"value": value, "grad": gradient, "value_fn": value_at, "obj_fn": value_at, "grad_fn": gradient_at}
    with as_optax_computes():
        while True:
            try:
                change, new = optimizer.update(optax.tree.conj(gradient), state, seen, **extra)
                break
            except TypeError as error:
                refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                if refused is None or extra.pop(refused[1], None) is None:
                    raise
        for what, now, before in (("updates", change, seen), ("state", new, state)):
            if _form(now) != _form(before):  # updates would broadcast silently
                raise TypeError(
                    f"the optimizer's {what} had the form {_form(before)} before `update`, and {_form(now)} after it; "
                    "let `init` make what `update` does. Optimizers of per-example gradients, such as "
                    "`optax.contrib.dpsgd`, are not supported: they get the gradient of the loss."
                )
        return joined(optax.apply_updates(seen, change), params), cast(new, state)


def _form(tree: PyTree) -> tuple[Any, list[tuple[int, ...]]]:
    return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def averaged(params: PyTree, average: PyTree, decay: float, step: Any) -> PyTree:
    """a ← d a + (1 - d) θ, with d = min(decay, (1 + t) / (10 + t)), so that the start is soon forgotten."""
    with as_optax_computes():
        share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
        moved = optax.incremental_update(trained(params), trained(params, average), share)  # pyright: ignore
    return joined(cast(moved, trained(params)), params)


@contextlib.contextmanager
def as_optax_computes() -> Iterator[None]:
    """Allows dtype promotion: Adam, for example, multiplies its integer count with floats."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def cast(new: PyTree, old: PyTree) -> PyTree:
    """`new` in the dtypes of `old`, as a compiled loop requires."""
    return jax.tree.map(lambda leaf, was: jnp.astype(leaf, was.dtype) if leaf.dtype != was.dtype else leaf, new, old)


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

"""Calls any Optax optimizer with the arguments and conventions that Optax expects from a training loop.

    g        = ∂L/∂θ                                       as `jax.grad` gives it
    u, state = update(g*, state, θ, value=L, grad=g, value_fn=L(·), obj_fn=L(·), grad_fn=g*(·))
    θ        ← θ + u

g* is the complex conjugate: for z = x + iy `jax.grad` gives ∂L/∂x - i ∂L/∂y, and L decreases fastest along minus its
conjugate. Leaves of θ that are not floating point (integers, booleans, PRNG keys) have no gradient. They are hidden
from the optimizer, like by `optax.masked`, and stay unchanged.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rnnjax.cell import PyTree
from rnnjax.training.clipping import is_inexact


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


def init(optimizer: optax.GradientTransformationExtraArgs, params: PyTree) -> PyTree:
    """The optimizer's state before the first update."""
    with _as_optax_computes():
        return optimizer.init(trained(params))


def update(
    optimizer: optax.GradientTransformationExtraArgs,
    gradient: PyTree,
    state: PyTree,
    params: PyTree,
    value: Any,
    value_fn: Callable[[PyTree], Any],
    gradient_fn: Callable[[PyTree], PyTree],
) -> tuple[PyTree, PyTree]:
    """`(params, state)` after one update, from the gradient of `trained(params)`, the loss, and both as functions."""

    def value_at(seen: PyTree, *, obj_fn: Any = None, grad_fn: Any = None) -> Any:
        # a line search passes on the arguments that it does not know, if they are named here
        return value_fn(joined(seen, params))

    def gradient_at(seen: PyTree, step: Any = None) -> PyTree:
        whole = optax.tree.conj(gradient_fn(joined(seen, params)))
        return jax.tree.map(lambda node, leaf: node if _is_masked(node) else leaf, seen, whole, is_leaf=_is_masked)

    seen = trained(params)
    with _as_optax_computes():
        change, new = _call(optimizer, gradient, state, seen, value, value_at, gradient_at)
        shapes, expected = ([*map(jnp.shape, jax.tree.leaves(tree))] for tree in (change, seen))
        if shapes != expected:  # they would broadcast silently
            raise ValueError(
                f"the optimizer's updates have the shapes {shapes}, and the parameters {expected}; optimizers of "
                "per-example gradients, such as `optax.contrib.dpsgd`, are not supported: they get the loss's gradient."
            )
        moved = optax.apply_updates(seen, change)
    return joined(moved, params), _like(new, state)


def averaged(params: PyTree, average: PyTree, decay: float, step: Any) -> PyTree:
    """a ← d a + (1 - d) θ, with d = min(decay, (1 + t) / (10 + t)), so that the start is soon forgotten."""
    with _as_optax_computes():
        share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
        moved = optax.incremental_update(trained(params), trained(params, average), share)  # pyright: ignore
    return joined(cast(moved, trained(params)), params)


@contextlib.contextmanager
def _as_optax_computes() -> Iterator[None]:
    """Allows dtype promotion: Adam, for example, multiplies its integer count with floats."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _call(optimizer: Any, gradient: PyTree, state: PyTree, params: PyTree, value: Any, value_fn: Any, grad_fn: Any):
    """Calls `update` with the extra arguments that it accepts.

    Not all accept all of them (`optax.contrib.sam` takes only `grad_fn`), and the signature of a chain does not show
    what its transformations accept.
    """
    extra = {"value": value, "grad": gradient, "value_fn": value_fn, "obj_fn": value_fn, "grad_fn": grad_fn}
    while True:
        try:
            return optimizer.update(optax.tree.conj(gradient), state, params, **extra)
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or extra.pop(refused[1], None) is None:
                raise


def _like(new: PyTree, old: PyTree) -> PyTree:
    """Casts `new` to the dtypes of `old`, as a compiled loop requires."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        raise TypeError(
            f"the optimizer's state is {jax.tree.structure(new)} after `update`, and was {jax.tree.structure(old)} "
            "before; a compiled loop needs one structure: let `init` make what `update` does."
        )
    return cast(new, old)


def cast(new: PyTree, old: PyTree) -> PyTree:
    """`new` in the dtypes of `old`."""
    return jax.tree.map(lambda leaf, was: jnp.astype(leaf, was.dtype) if leaf.dtype != was.dtype else leaf, new, old)

"""Calls any Optax optimizer with the arguments and conventions that Optax expects from a training loop.

    g        = ∂L/∂θ                                       as `jax.grad` gives it
    u, state = update(g*, state, θ, value=L, grad=g, value_fn=L(·), obj_fn=L(·), grad_fn=g*(·))
    θ        ← θ + u

g* is the complex conjugate: for z = x + iy `jax.grad` gives ∂L/∂x - i ∂L/∂y, and L decreases fastest along minus its
conjugate. Optax's optimizers expect g*, and its line searches also g. For real parameters both are equal.

Leaves of θ that are not floating point (integers, booleans, PRNG keys) have no gradient. They are hidden from the
optimizer, like by `optax.masked`, and stay unchanged.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rnnjax.cell import PyTree
from rnnjax.training.norms import is_inexact


def transformation(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Makes the `update` of an Optax transformation, or a similar object, accept extra arguments.

    Raises:
      TypeError: `optimizer` has no `init` and `update`.
    """
    if isinstance(optimizer, optax.GradientTransformation):
        return optax.with_extra_args_support(optimizer)
    if not _looks_like_one(optimizer):
        raise TypeError(
            f"`optimizer` is {optimizer!r}, which has no `init` and `update`; pass an Optax transformation, such as "
            "`optax.adam(1e-3)` (called, with its learning rate)."
        )
    return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)  # such as optax.MultiSteps


def resolve(optimizer: Any, setting: PyTree) -> optax.GradientTransformationExtraArgs:
    """The optimizer itself, or the result of a function of the setting."""
    return transformation(optimizer if setting is None or _looks_like_one(optimizer) else optimizer(setting))


def _looks_like_one(optimizer: Any) -> bool:
    is_class = isinstance(optimizer, type)
    return not is_class and callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))


def trained(params: PyTree, tree: PyTree = None) -> PyTree:
    """The leaves of `params` (or of a `tree` of the same structure) that have a gradient; others are masked."""
    tree = params if tree is None else tree
    return jax.tree.map(lambda param, leaf: leaf if is_inexact(param) else optax.MaskedNode(), params, tree)


def joined(seen: PyTree, params: PyTree) -> PyTree:
    """`params` with its trained leaves replaced by those of `seen`."""
    return jax.tree.map(lambda new, old: old if _is_masked(new) else new, seen, params, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def conjugate(gradient: PyTree) -> PyTree:
    """g*, the direction in which the loss increases fastest."""
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf, gradient)


def init(optimizer: optax.GradientTransformationExtraArgs, params: PyTree) -> PyTree:
    """The optimizer's state before the first update, with the same leaves as after it."""
    seen = trained(params)
    with _as_optax_computes():
        state = optimizer.init(seen)
    nodes = jax.tree.leaves(state, is_leaf=_is_monitor)
    return _with_measurements(optimizer, state, seen) if any(map(_is_monitor, nodes)) else state


def update(
    optimizer: optax.GradientTransformationExtraArgs,
    gradient: PyTree,
    state: PyTree,
    params: PyTree,
    *,
    value: Any,
    value_fn: Callable[[PyTree], Any],
    gradient_fn: Callable[[PyTree], PyTree],
) -> tuple[PyTree, PyTree]:
    """`(params, state)` after one update.

    Args:
      optimizer: from `transformation`.
      gradient: of the loss with respect to `trained(params)`, from `jax.grad`.
      state: from `init` or the previous update; leaves keep their dtypes.
      params: all parameters.
      value: `[]`, the loss.
      value_fn: `params -> []`, the loss of this step at other parameters. gradient_fn: its gradient, as `gradient`.
    Raises:
      TypeError: the state's structure changes from one update to the next.
    """

    def value_at(seen: PyTree, *, obj_fn: Any = None, grad_fn: Any = None) -> Any:
        # a line search passes on extra arguments that it does not know
        return value_fn(joined(seen, params))

    def gradient_at(seen: PyTree, step: Any = None) -> PyTree:
        whole = conjugate(gradient_fn(joined(seen, params)))
        return jax.tree.map(lambda node, leaf: node if _is_masked(node) else leaf, seen, whole, is_leaf=_is_masked)

    extra = {"value": value, "grad": gradient, "value_fn": value_at, "obj_fn": value_at, "grad_fn": gradient_at}
    seen = trained(params)
    with _as_optax_computes():
        change, new = call(optimizer, conjugate(gradient), state, seen, extra)
        _check_shapes(seen, change)
        moved = optax.apply_updates(seen, change)
    return joined(moved, params), _like(new, state)


def averaged(params: PyTree, average: PyTree, decay: float, step: Any) -> PyTree:
    """a ← d a + (1 - d) θ, with d = min(decay, (1 + t) / (10 + t)), so that the start is soon forgotten."""
    with _as_optax_computes():
        share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
        moved = optax.incremental_update(trained(params), trained(params, average), share)  # pyright: ignore
    return joined(_like(moved, trained(params)), params)


@contextlib.contextmanager
def _as_optax_computes() -> Iterator[None]:
    """Allows dtype promotion: Adam, for example, multiplies its integer count with floats."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def call(
    optimizer: optax.GradientTransformationExtraArgs,
    gradient: PyTree,
    state: PyTree,
    params: PyTree,
    extra: Mapping[str, Any],
) -> tuple[PyTree, PyTree]:
    """Calls `update` with the extra arguments that it accepts.

    Optax requires every `update` to accept all of them, but not all do (`optax.contrib.sam` takes only `grad_fn`), and
    the signature of a chain does not show what its transformations accept.
    """
    while True:
        try:
            return optimizer.update(gradient, state, params, **extra)
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or refused[1] not in extra:
                raise
            extra = {name: given for name, given in extra.items() if name != refused[1]}


def _check_shapes(params: PyTree, change: PyTree) -> None:
    """Raises if an update has another shape than its parameter, which would broadcast silently."""
    paths, leaves = zip(*jax.tree.leaves_with_path(params), strict=True) if jax.tree.leaves(params) else ((), ())
    for path, leaf, step in zip(paths, leaves, jax.tree.leaves(change), strict=True):
        if jnp.shape(step) != leaf.shape:
            raise ValueError(
                f"the optimizer's update of params{jax.tree_util.keystr(path)} {list(leaf.shape)} is "
                f"{list(jnp.shape(step))}; optimizers that aggregate per-example gradients, such as "
                "`optax.contrib.dpsgd`, are not supported, since they are given the gradient of the loss."
            )


def _like(new: PyTree, old: PyTree) -> PyTree:
    """Casts `new` to the dtypes of `old`, as a compiled loop requires."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        before, after = ({jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(t)} for t in (old, new))
        raise TypeError(
            f"the optimizer's state has other leaves after `update` (new: {sorted(after - before)}, gone: "
            f"{sorted(before - after)}); a compiled loop needs one structure: let `init` make what `update` does."
        )

    def like(leaf: Any, was: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf if leaf.dtype == was.dtype else leaf.astype(was.dtype)

    return jax.tree.map(like, new, old)


def _is_monitor(node: Any) -> bool:
    return isinstance(node, optax.MonitorState)


def _with_measurements(optimizer: optax.GradientTransformationExtraArgs, state: PyTree, seen: PyTree) -> PyTree:
    """Starts the measurements of `optax.monitor` at zero; it has none before the first update."""

    def value_at(seen: PyTree, *, obj_fn: Any = None, grad_fn: Any = None) -> Any:
        return sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(seen))

    def after(state: PyTree, seen: PyTree) -> PyTree:
        value, gradient = jax.value_and_grad(value_at)(seen)
        extra = {"value": value, "grad": gradient, "value_fn": value_at, "obj_fn": value_at}
        return call(optimizer, gradient, state, seen, {**extra, "grad_fn": lambda seen, step=None: seen})[1]

    with _as_optax_computes():
        shapes = jax.eval_shape(after, state, seen)
    known = dict(jax.tree.leaves_with_path(state))
    return jax.tree.map_with_path(
        lambda path, shape: known[path] if path in known else jnp.zeros(shape.shape, shape.dtype), shapes
    )

"""Any Optax optimizer as `fit` calls it: one place for what Optax leaves to whoever writes the loop.

    g        = ∂L/∂θ                                       as `jax.grad` gives it
    u, state = update(g*, state, θ, value=L, grad=g, value_fn=L(·), obj_fn=L(·), grad_fn=g*(·))
    θ        ← θ + u

g* is the complex conjugate: for z = x + iy `jax.grad` gives ∂L/∂x - i ∂L/∂y, and L falls fastest along minus its
conjugate. Optax's optimizers expect g*, and its line searches g beside it. For real parameters the two are one.

Leaves of θ that are no floating numbers (integers, booleans, PRNG keys) have no gradient: the optimizer does not see
them, as if by `optax.masked`, and they stay as they are.
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
    """`optimizer` with an `update` that may be given extra arguments: an Optax transformation, or what looks like one.

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
    """The optimizer itself, or what a function of the setting makes."""
    return transformation(optimizer if setting is None or _looks_like_one(optimizer) else optimizer(setting))


def _looks_like_one(optimizer: Any) -> bool:
    is_class = isinstance(optimizer, type)
    return not is_class and callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))


def trained(params: PyTree, tree: PyTree = None) -> PyTree:
    """What an optimizer sees of `params` (or of a `tree` of their structure): the leaves that have a gradient."""
    tree = params if tree is None else tree
    return jax.tree.map(lambda param, leaf: leaf if is_inexact(param) else optax.MaskedNode(), params, tree)


def joined(seen: PyTree, params: PyTree) -> PyTree:
    """`params` with those leaves that an optimizer sees taken from `seen`."""
    return jax.tree.map(lambda new, old: old if _is_masked(new) else new, seen, params, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def conjugate(gradient: PyTree) -> PyTree:
    """g*, the direction in which the loss rises fastest."""
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf, gradient)


def init(optimizer: optax.GradientTransformationExtraArgs, params: PyTree) -> PyTree:
    """The optimizer's state before the first update, with every leaf that it has after it."""
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
      gradient: of the loss by `trained(params)`, as `jax.grad` gives it.
      state: from `init`, or the update before; leaves keep their dtypes.
      params: the whole parameters.
      value: `[]`, the loss.
      value_fn: `params -> []`, the loss of this step at other parameters. gradient_fn: its gradient, as `gradient`.
    Raises:
      TypeError: the state's structure changes from one update to the next.
    """

    def value_at(seen: PyTree, *, obj_fn: Any = None, grad_fn: Any = None) -> Any:
        # a line search wants a function that takes all the extra arguments which it does not know
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


@contextlib.contextmanager
def _as_optax_computes() -> Iterator[None]:
    """Adam, among others, multiplies its count with floats."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def call(
    optimizer: optax.GradientTransformationExtraArgs,
    gradient: PyTree,
    state: PyTree,
    params: PyTree,
    extra: Mapping[str, Any],
) -> tuple[PyTree, PyTree]:
    """Calls `update` with those extra arguments that it takes.

    Optax asks every `update` to take all of them, but not all do (`optax.contrib.sam` takes `grad_fn` alone), and from
    outside a chain it cannot be seen what the transformations in it take.
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
    """An update of another shape would be broadcast over the parameters without a word."""
    paths, leaves = zip(*jax.tree.leaves_with_path(params), strict=True) if jax.tree.leaves(params) else ((), ())
    for path, leaf, step in zip(paths, leaves, jax.tree.leaves(change), strict=True):
        if jnp.shape(step) != leaf.shape:
            raise ValueError(
                f"the optimizer's update of params{jax.tree_util.keystr(path)} {list(leaf.shape)} is "
                f"{list(jnp.shape(step))}; one that aggregates the gradients of single examples, as "
                "`optax.contrib.dpsgd`, cannot train here, where it is given the gradient of the loss."
            )


def _like(new: PyTree, old: PyTree) -> PyTree:
    """`new` in the dtypes of `old`, as a compiled loop needs it."""
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
    """`optax.monitor` has no measurements before the first update: here they begin at zero."""

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

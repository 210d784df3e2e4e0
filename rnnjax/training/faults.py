"""The errors that end a run, and the detection of non-finite steps, which are never applied."""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rnnjax.cell import PyTree
from rnnjax.training.optimizers import ClipState, is_inexact


class Stopped(RuntimeError):
    """The end of a run: `state` is the `TrainState` from which it can continue, `history` the metrics so far."""

    state: Any = None
    history: Sequence[dict[str, Any]] = ()


class NonFiniteError(Stopped, FloatingPointError):
    """Update `step`, counted from 0, gave NaN or inf in `leaves`, as in "gradient of rnn/w_h"; `state` is before it."""

    def __init__(self, step: int, leaves: Sequence[str]) -> None:
        super().__init__(step, leaves)
        self.step, self.leaves = step, tuple(leaves)

    def __str__(self) -> str:
        return (
            f"step {self.step}: not finite: {', '.join(self.leaves)}. The state before that step is finite "
            "(error.state). Clip the gradient, lower the learning rate, or pass nonfinite='skip' to skip such steps."
        )


class DataError(Stopped):
    """The data ended, raised, or gave a batch of another shape; `state` is before that batch, as is the checkpoint."""


class CheckpointError(Stopped):
    """A checkpoint cannot be written, read, or used for this run; has the `state` if its progress is not on disk."""


def leaf_names(tree: PyTree) -> list[str]:
    """A name for each leaf, such as `rnn/w_h`, or its whole path, `['rnn']['w_h']`, if two names would be equal."""

    def told(path: Any, **style: Any) -> str:
        return jax.tree_util.keystr(path, **style).encode(errors="backslashreplace").decode()

    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    short = [told(path, simple=True, separator="/") or "params" for path in paths]
    times = collections.Counter(short)
    return [name if times[name] == 1 else told(path) for name, path in zip(short, paths, strict=True)]


def names(params: PyTree, opt_state: PyTree) -> list[str]:
    """The name of each entry of `finite_by_leaf`."""
    parts = {"gradient of {}": params, "{} after the update": params, "optimizer state {}": _memory(opt_state)}
    named = [(form, zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)) for form, tree in parts.items()]
    return ["loss", *(form.format(name) for form, leaves in named for name, leaf in leaves if is_inexact(leaf))]


def finite_by_leaf(value: Array, gradient: PyTree, new: tuple[PyTree, PyTree], old: tuple[PyTree, PyTree]) -> Array:
    """`[leaves]` booleans, in the order of `names`, for `(params, opt_state)` before and after the update.

    Entries that were inf before may stay inf, such as a clipping bound, or a best value before the first evaluation.
    """

    def inexact(tree: PyTree) -> list[Array]:
        return [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]

    def fine(new: Array, old: Array) -> Array:
        return ~((jnp.isnan(new) & ~jnp.isnan(old)) | (jnp.isinf(new) & jnp.isfinite(old))).any()

    first = [jnp.isfinite(leaf).all() for leaf in inexact((value, gradient))]
    after, before = (inexact((params, _memory(opt_state))) for params, opt_state in (new, old))
    return jnp.stack([*first, *map(fine, after, before)])


_REPORTS: dict[type, tuple[str, ...]] = {
    ClipState: ("norm_before", "norm_after"),
    optax.InjectHyperparamsState: ("hyperparams",),
    optax.InjectStatefulHyperparamsState: ("hyperparams", "hyperparams_states"),
    optax.MultiStepsState: ("skip_state",),
    optax.ScaleByBacktrackingLinesearchState: ("value", "grad", "info"),
    optax.ScaleByZoomLinesearchState: ("value", "grad", "info"),
    optax.SnapshotState: ("measurement",),
}  # fields with which optimizers are configured or report values, in which an infinity is allowed at any time


def _memory(opt_state: PyTree) -> PyTree:
    """The state of an optimizer without `_REPORTS`."""

    def of(node: Any) -> Any:
        left_out = dict.fromkeys(_REPORTS.get(type(node), ()))
        return type(node)(*map(_memory, node._replace(**left_out))) if left_out else node

    return jax.tree.map(of, opt_state, is_leaf=lambda node: type(node) in _REPORTS)

"""Detects non-finite steps, reports the step and leaf, and never applies them."""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rnnjax.cell import PyTree
from rnnjax.training.clipping import ClipState
from rnnjax.training.norms import is_inexact


class NonFiniteError(FloatingPointError):
    """Training found NaN or inf and stopped before applying the update.

    Attributes:
      step: the number of the update, counted from 0.
      leaves: names of what was not finite: "loss", "gradient of rnn/w_h", ...
      state: the finite `TrainState` before that update, from which training can continue.
      history: the metrics so far.
    """

    def __init__(self, step: int, leaves: Sequence[str], state: Any, history: Sequence[Any] = ()) -> None:
        super().__init__(
            f"step {step}: not finite: {', '.join(leaves)}. The state before that step is finite (error.state). "
            "Clip the gradient, lower the learning rate, or pass nonfinite='skip' to skip such steps."
        )
        self.step, self.leaves, self.state, self.history = step, tuple(leaves), state, list(history)

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets pickle and copy keep all attributes; `Exception` alone would keep only the message."""
        return type(self), (self.step, self.leaves, self.state, self.history), vars(self)


def leaf_names(tree: PyTree) -> list[str]:
    """A name for each leaf, such as `rnn/w_h`, or its whole path if two names would be equal.

    Example: two leaves share a name only if two keys of one node have the same `repr`.

      >>> leaf_names({"gru/w": 0.0, "gru": {"w": 0.0, "b": 0.0}})
      ['gru/b', "['gru']['w']", "['gru/w']"]
    """

    def told(path: Any, **style: Any) -> str:
        return jax.tree_util.keystr(path, **style).encode(errors="backslashreplace").decode()

    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    short = [told(path, simple=True, separator="/") or "params" for path in paths]
    times = collections.Counter(short)
    return [name if times[name] == 1 else told(path) for name, path in zip(short, paths, strict=True)]


def names(params: PyTree, opt_state: PyTree) -> tuple[str, ...]:
    """The name of each entry of `finite_by_leaf`."""

    def of(tree: PyTree) -> list[str]:
        both = zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
        return [name for name, leaf in both if is_inexact(leaf)]

    ours = of(params)
    after = [f"{name} after the update" for name in ours]
    optimizer = [f"optimizer state {name}" for name in of(_memory(opt_state))]
    return "loss", *(f"gradient of {name}" for name in ours), *after, *optimizer


def finite_by_leaf(value: Array, gradient: PyTree, new: tuple[PyTree, PyTree], old: tuple[PyTree, PyTree]) -> Array:
    """`[leaves]` booleans, in the order of `names`, for `(params, opt_state)` before and after the update.

    Entries that were inf before may stay inf, such as a clipping bound, or a best value before the first evaluation.
    """

    def fine(new: Array, old: Array) -> Array:
        return ~((jnp.isnan(new) & ~jnp.isnan(old)) | (jnp.isinf(new) & jnp.isfinite(old))).any()

    first = [jnp.isfinite(leaf).all() for leaf in (value, *_inexact(gradient))]
    after, before = (_inexact((params, _memory(opt_state))) for params, opt_state in (new, old))
    return jnp.stack([*first, *map(fine, after, before)])


def _inexact(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]


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

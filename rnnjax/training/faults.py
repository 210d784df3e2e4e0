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

    Two leaves share a name only if two keys of one node have the same `repr`.

    Example:

      >>> leaf_names({"gru/w": 0.0, "gru": {"w": 0.0, "b": 0.0}})
      ['gru/b', "['gru']['w']", "['gru/w']"]
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    short = [_utf8(jax.tree_util.keystr(path, simple=True, separator="/") or "params") for path in paths]
    times = collections.Counter(short)
    both = zip(short, paths, strict=True)
    return [name if times[name] == 1 else _utf8(jax.tree_util.keystr(path)) for name, path in both]


def _utf8(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def names(params: PyTree, opt_state: PyTree) -> tuple[str, ...]:
    """The name of each entry of `finite_by_leaf`."""

    def of(tree: PyTree) -> list[str]:
        both = zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
        return [name for name, leaf in both if is_inexact(leaf)]

    return (
        "loss",
        *(f"gradient of {name}" for name in of(params)),
        *(f"{name} after the update" for name in of(params)),
        *(f"optimizer state {name}" for name in of(memory(opt_state))),
    )


def finite_by_leaf(value: Array, gradient: PyTree, new: PyTree, old: PyTree) -> Array:
    """`[leaves]` booleans, in the order of `names`, for `(params, opt_state)` before and after the update.

    Entries that were inf before may stay inf, such as a clipping bound, or a best value before the first evaluation.
    """
    first = [jnp.isfinite(leaf).all() for leaf in (value, *_inexact(gradient))]
    after, before = ([*_inexact(params), *_inexact(memory(opt_state))] for params, opt_state in (new, old))
    return jnp.stack([*first, *map(_as_finite, after, before)])


def _as_finite(new: Array, old: Array) -> Array:
    """Whether no finite entry became inf, and no number became NaN."""
    worse = (jnp.isnan(new) & ~jnp.isnan(old)) | (jnp.isinf(new) & jnp.isfinite(old))
    return ~worse.any()


def _inexact(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]


REPORTS: dict[type, tuple[str, ...]] = {
    ClipState: ("norm_before", "norm_after"),
    optax.InjectHyperparamsState: ("hyperparams",),
    optax.InjectStatefulHyperparamsState: ("hyperparams", "hyperparams_states"),
    optax.MonitorState: ("measurements", "measure_states"),
    optax.MultiStepsState: ("skip_state",),
    optax.ScaleByBacktrackingLinesearchState: ("value", "grad", "info"),
    optax.ScaleByZoomLinesearchState: ("value", "grad", "info"),
    optax.SnapshotState: ("measurement",),
}
"""Fields with which optimizers are configured or report values, in which an infinity is allowed at any time."""


def memory(opt_state: PyTree) -> PyTree:
    """The state of an optimizer without `REPORTS`."""

    def of(node: Any) -> Any:
        if type(node) not in REPORTS:
            return node
        return type(node)(*map(memory, node._replace(**dict.fromkeys(REPORTS[type(node)]))))

    return jax.tree.map(of, opt_state, is_leaf=lambda node: type(node) in REPORTS)


def select(flag: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` if the flag is set, else `old`, leaf by leaf; NaN in the other one has no effect."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)

"""The cells by name, a user's own cell by import path, and W2 redrawn in any of them."""

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import rnnjax
from experiments.harness import UsageError
from rnnjax.initializers import Normal, Orthogonal, per_gate

BUILT_IN: dict[str, Callable[[int], rnnjax.Cell]] = {
    "linear": lambda hidden_size: rnnjax.Elman(hidden_size, activation="linear"),
    "tanh": lambda hidden_size: rnnjax.Elman(hidden_size, activation="tanh"),
    "relu": lambda hidden_size: rnnjax.Elman(hidden_size, activation="relu"),
    "lstm": lambda hidden_size: rnnjax.LSTM(hidden_size),
    "gru": lambda hidden_size: rnnjax.GRU(hidden_size),
}

_INITIALIZERS = {"orthogonal": Orthogonal(), "gain": Normal()}


def resolve(name: str, hidden_size: int) -> rnnjax.Cell:
    """A built-in cell by its name, or a user's own as `package.module:name`.

    Raises:
      UsageError: it cannot be imported, is not a cell, or has no recurrent weight `w_h` to scale.
    """
    if name in BUILT_IN:
        return BUILT_IN[name](hidden_size)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(f"--cell {name}: write package.module:name, such as my_cells:MyCell.")
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise UsageError(f"--cell {name}: cannot be imported ({error}); run where its module can be found.") from error
    if isinstance(found, type) or not hasattr(found, "step"):
        try:
            found = found(hidden_size=hidden_size)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--cell {name}: calling it with hidden_size={hidden_size} failed ({error}).") from error
    missing = [method for method in ("init", "initial_carry", "step") if not callable(getattr(found, method, None))]
    if missing:
        raise UsageError(f"--cell {name} gives {found!r}, which has no {', '.join(missing)}; see rnnjax.Cell.")
    _try_out(name, found)
    return found


def _try_out(name: str, cell: Any) -> None:
    """Two steps of the cell and of its gradient, in shapes alone, so that a fault shows before any work."""

    def two_steps(key: Array, xs: Array):
        params = cell.init(key, xs.shape[-1], xs.dtype)
        _, ys = rnnjax.unroll(cell, params, xs)
        if hasattr(ys, "shape"):
            rnnjax.gradients.adjoint(cell, params, xs, lambda ys: ys.sum())
        return params, ys

    try:
        hash(cell)
    except TypeError as error:
        raise UsageError(f"--cell {name} gives {cell!r}, which has no hash; make it a frozen dataclass.") from error
    try:
        with jax.enable_x64(True):
            params, ys = jax.eval_shape(two_steps, jax.random.key(0), jax.ShapeDtypeStruct((2, 3), "float64"))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--cell {name}: two steps of it in float64 fail: {error}") from error
    if len(getattr(ys, "shape", ())) != 2:
        raise UsageError(f"--cell {name}: its output y must be one vector, so that a loss can weigh it; it is {ys}.")
    weights = recurrent_weights(params)
    if not weights:
        raise UsageError(f"--cell {name}: none of its parameters is called `w_h`, so there is no W2 to scale.")
    for w_h in weights:
        if w_h.ndim != 2 or w_h.shape[1] % w_h.shape[0]:
            raise UsageError(
                f"--cell {name}: its `w_h` is {list(w_h.shape)}; it can be redrawn if it is [H, gates * H]."
            )


def recurrent_weights(params: Any) -> list[Any]:
    """The leaves called `w_h`, `[H, gates * H]` each, in the order of the tree."""
    return [leaf for path, leaf in jax.tree.leaves_with_path(params) if _is_recurrent(path)]


def redraw(params: Any, key: Array, kind: str) -> Any:
    """The same parameters with every `w_h` drawn anew at scale 1, one `[H, H]` block (gate) at a time."""
    layers = itertools.count()

    def one(path: Any, leaf: Array) -> Array:
        if not _is_recurrent(path):
            return leaf
        layer = next(layers)
        own_key = jax.random.fold_in(key, layer) if layer else key  # or all layers of a stack would be equal
        rows, columns = leaf.shape
        return per_gate(_INITIALIZERS[kind], own_key, (rows, rows), columns // rows, leaf.dtype)

    return jax.tree.map_with_path(one, params)


def rescale(params: Any, scale: Array) -> Any:
    """The same parameters with every `w_h` multiplied by `scale`."""
    return jax.tree.map_with_path(
        lambda path, leaf: leaf * jnp.asarray(scale, leaf.dtype) if _is_recurrent(path) else leaf, params
    )


def _is_recurrent(path: Any) -> bool:
    last = path[-1] if path else None
    return "w_h" in (getattr(last, "name", None), getattr(last, "key", None))

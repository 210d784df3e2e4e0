"""What `unroll` checks before it starts: shapes and dtypes alone, so that it also holds under `jit`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rnnjax.cell import Cell, PyTree


def checked_xs(xs: ArrayLike) -> Array:
    """`xs` as an array `[T, *batch, D]` with T >= 1; raises ValueError otherwise."""
    xs = jnp.asarray(xs)
    if xs.ndim < 2:
        raise ValueError(
            f"`xs` is {list(xs.shape)}; expected [T, *batch, D], time first and features last. "
            "For a single feature a step, pass `xs[..., None]`."
        )
    if xs.shape[0] == 0:
        raise ValueError(f"`xs` is {list(xs.shape)}: it has no time steps; T must be at least 1.")
    return xs


def check_cell(cell: Any) -> None:
    """Refuses what is no cell, the class of one among it; raises TypeError."""
    runs = hasattr(cell, "step") or hasattr(cell, "unroll_parts")
    if isinstance(cell, type) or not (runs and hasattr(cell, "initial_carry")):
        raise TypeError(f"`cell` is {cell!r}; expected a cell itself, such as LSTM(hidden_size=64): see `rnnjax.Cell`.")


def check_carry(cell: Cell, params: PyTree, carry: PyTree, xs: Array) -> None:
    """Refuses a carry that is not shaped like the initial one, and a step that does not give its carry back.

    Raises:
      ValueError: another tree, or another shape (a missing batch axis would otherwise broadcast in silence).
      TypeError: another dtype.
    """
    batch_shape = xs.shape[1:-1]
    expected = jax.eval_shape(lambda p: cell.initial_carry(p, batch_shape), params)
    fix = f"`cell.initial_carry(params, {batch_shape})` makes one that fits `xs` {list(xs.shape)}"
    _compare("`carry`", carry, expected, fix)
    if hasattr(cell, "project"):  # its complaints are then about the `xs` that the caller knows
        jax.eval_shape(cell.project, params, xs)
    new_carry, _ = jax.eval_shape(cell.step, params, carry, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype))
    fix = "a step must give back a carry of the same tree, shapes and dtypes as it was given"
    _compare(f"the carry that {type(cell).__name__}.step returns", new_carry, expected, fix)


def _compare(what: str, got: PyTree, expected: PyTree, fix: str) -> None:
    got_leaves, got_tree = jax.tree.flatten_with_path(got)
    expected_leaves, expected_tree = jax.tree.flatten_with_path(expected)
    if got_tree != expected_tree:
        raise ValueError(f"{what} is {got_tree}, expected {expected_tree}; {fix}.")
    for (path, leaf), (_, wanted) in zip(got_leaves, expected_leaves, strict=True):
        name = what + jax.tree_util.keystr(path)
        shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
        if shape != wanted.shape:
            raise ValueError(f"{name} is {list(shape)}, expected {list(wanted.shape)}; {fix}.")
        if dtype != wanted.dtype:
            raise TypeError(f"{name} is {dtype}, expected {wanted.dtype}; {fix}.")

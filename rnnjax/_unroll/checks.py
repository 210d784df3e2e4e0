"""What `unroll` checks before it starts: shapes and dtypes alone, so that it also holds under `jit`."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._unroll.equations import closes_over_arrays
from rnnjax.cell import Cell, PyTree


def checked_xs(xs: ArrayLike) -> Array:
    """`xs` as an array `[T, *batch, D]` with T >= 1; raises ValueError otherwise."""
    xs = as_array("xs", xs)
    if xs.ndim < 2:
        raise ValueError(
            f"`xs` is {list(xs.shape)}; expected [T, *batch, D], time first and features last. "
            "For a single feature a step, pass `xs[..., None]`."
        )
    if xs.shape[0] == 0:
        raise ValueError(f"`xs` is {list(xs.shape)}: it has no time steps; T must be at least 1.")
    return xs


def as_array(name: str, value: ArrayLike) -> Array:
    """`value` as an array, NaN and all: under `debug_nans` an operation on it would be refused.

    Raises:
      TypeError: it makes no array, as a list of rows of unequal length; names the argument.
    """
    if isinstance(value, Array):
        return value
    try:
        return jax.device_put(value) if isinstance(value, np.ndarray) else jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` is a {type(value).__name__} that makes no array ({error}); rows of unequal length are padded to "
            "one length, and `lengths` says how long each is."
        ) from None


def check_cell(cell: Any) -> None:
    """Raises TypeError unless `cell` is a cell with a step of its own, or cells put together."""
    runs = hasattr(cell, "step") or hasattr(cell, "unroll_parts")
    if isinstance(cell, type) or not (runs or hasattr(cell, "gate")) or not hasattr(cell, "initial_carry"):
        raise TypeError(f"`cell` is {cell!r}; expected a cell itself, such as LSTM(hidden_size=64): see `rnnjax.Cell`.")
    for held in held_cells(cell):
        _check_step(held)


def held_cells(cell: Any) -> Iterator[Any]:
    """A cell, and the cells in its fields, and so on."""
    if isinstance(cell, tuple | list):
        for each in cell:
            yield from held_cells(each)
    elif hasattr(cell, "initial_carry") and not isinstance(cell, type):
        yield cell
        if dataclasses.is_dataclass(cell):
            for field in dataclasses.fields(cell):
                yield from held_cells(getattr(cell, field.name, None))


def _check_step(cell: Any) -> None:
    """Refuses a class that says its step in the parts of former versions, which nothing reads any more."""
    owners = type(cell).__mro__
    owns = [next((i for i, owner in enumerate(owners) if name in vars(owner)), None) for name in ("step", *_PARTS)]
    step, *parts = owns
    for name, owner in zip(_PARTS, parts, strict=True):
        if owner is not None and (step is None or owner < step):
            raise TypeError(
                f"{owners[owner].__name__} has `{name}` but no `step` of its own, and a cell is its step: write "
                "`def step(self, params, carry, x): ...; return carry, y`, with the matmuls in it; what can leave the "
                "time loop is read from it."
            )


_PARTS = ("gate", "mix", "project")


class Checked(NamedTuple):
    """What one step of a cell gives."""

    y: PyTree  # its shape
    closes_over: bool  # whether the cell refers to arrays that are not among its arguments


def check_carry(cell: Cell, params: PyTree, carry: PyTree, xs: Array) -> Checked:
    """Refuses a carry that is not shaped like the initial one, and a step that does not give its carry back.

    Raises:
      ValueError: another tree, or another shape (a missing batch axis would otherwise broadcast in silence).
      TypeError: another dtype.
    """
    batch_shape = xs.shape[1:-1]
    start, expected = jax.make_jaxpr(lambda p: cell.initial_carry(p, batch_shape), return_shape=True)(params)
    fix = f"`cell.initial_carry(params, {batch_shape})` makes one that fits `xs` {list(xs.shape)}"
    check_alike("`carry`", carry, expected, fix)

    def first(params: PyTree, carry: PyTree, xs: Array) -> tuple[PyTree, PyTree]:
        return cell.step(params, carry, lax.index_in_dim(xs, 0, keepdims=False))

    try:
        step, (new_carry, y) = jax.make_jaxpr(first, return_shape=True)(params, carry, xs)
    except (TypeError, ValueError) as error:  # it speaks of the step's `x`; the caller knows `xs`
        message = str(error).replace(f"`x` is {list(xs.shape[1:])}", f"`xs` is {list(xs.shape)}")
        message = message.replace("`x` is", "`xs` is").replace("`x.", "`xs.")
        if message == str(error):
            raise
        raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from None
    fix = "a step must give back a carry of the same tree, shapes and dtypes as it was given"
    check_alike(f"the carry that {type(cell).__name__}.step returns", new_carry, expected, fix)
    return Checked(y, closes_over_arrays(start) or closes_over_arrays(step))


def check_alike(what: str, got: PyTree, expected: PyTree, fix: str) -> None:
    """Raises unless two trees agree in structure, shapes (ValueError) and dtypes (TypeError)."""
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

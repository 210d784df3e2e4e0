"""Any cell of Flax by its own step: as a cell of rnnjax where that can be, else by the loop that Flax has.

A cell of rnnjax is a pure function of parameters, carry and input, row by row. A Flax cell is one unless it keeps state
between steps, draws random numbers, or has a carry or an output that does not begin with the batch axes. Those go
through Flax's own RNN, with one warning that says why.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll.arguments import select
from rnnjax.cell import PyTree
from rnnjax.flax.cells import Started, StartingFrom
from rnnjax.flax.conventions import Call


class StepOfModule:
    """A module's step as a cell of rnnjax; `linen.py` and `nnx.py` each say how a module is called.

    Attributes:
      features: the shape of one row's input, which `rnnjax.unroll` has on one axis.
    """

    features: tuple[int, ...]

    def call(self, params: PyTree, carry: PyTree, inputs: Array) -> tuple[PyTree, PyTree]:
        """One step of the module, inputs `[*batch, *features]`."""
        raise NotImplementedError

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree:
        raise NotImplementedError("the module draws its own parameters")

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        raise NotImplementedError("the module makes its own carry")

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.call(params, carry, x if len(self.features) == 1 else x.reshape(*x.shape[:-1], *self.features))


def run_by_own_step(
    call: Call, step: StepOfModule, params: PyTree, carry: PyTree, start: PyTree | None, **options: Any
) -> tuple[PyTree, PyTree]:
    """`(carry, outputs)` by an engine of rnnjax.

    Args:
      carry: before the first step.
      start: what `resets` go back to; `None` where there are none.
    """
    carry = jax.tree.map(jnp.asarray, carry)
    start = carry if start is None else jax.tree.map(jnp.asarray, start)
    cell = StartingFrom(step, len(call.batch_shape))
    return call.unrolled(cell, Started(params, start), carry, call.inputs, **options)


def check_own_carry(call: Call, carry: PyTree, make: Callable[[], PyTree]) -> None:
    """Refuses an `initial_carry` that is not what the cell makes of these inputs.

    Args:
      make: the cell's `initialize_carry`; where that cannot be called, as Flax does not either, nothing is compared.
    Raises:
      ValueError: another tree, or another shape.
    """
    try:
        expected = jax.eval_shape(make)
    except Exception:
        return
    wanted, tree = jax.tree.flatten_with_path(expected)
    if jax.tree.structure(carry) != tree:
        raise ValueError(f"`initial_carry` is {jax.tree.structure(carry)}, but {call.cell} makes {tree}.")
    for (path, leaf), given in zip(wanted, jax.tree.leaves(carry), strict=True):
        if jnp.shape(given) != leaf.shape:
            raise ValueError(
                f"`initial_carry`{jax.tree_util.keystr(path)} is {list(jnp.shape(given))}, but {call.cell} makes "
                f"{list(leaf.shape)} of `inputs` {list(call.inputs.shape)}."
            )


def why_not_by_rows(call: Call, carry: PyTree, after: PyTree, y: PyTree) -> str | None:
    """The reason for which a step, from the shapes that it gives, is none of a cell of rnnjax; `None` if it is one.

    Args:
      carry, after: before and after one step.
    Raises:
      ValueError: the carry after a step has other shapes than before.
      TypeError: it has other dtypes.
    """
    before, tree = jax.tree.flatten_with_path(carry)
    if tree != jax.tree.structure(after):
        raise ValueError(
            f"the carry of {call.cell} is {tree} before a step and {jax.tree.structure(after)} after it; a step must "
            "give back what it was given."
        )
    for (path, leaf), new in zip(before, jax.tree.leaves(after), strict=True):
        place = f"the carry of {call.cell}{jax.tree_util.keystr(path)}"
        if jnp.shape(leaf) != new.shape:
            raise ValueError(
                f"{place} is {list(jnp.shape(leaf))} before a step and {list(new.shape)} after it, for `inputs` "
                f"{list(call.inputs.shape)}; a step must give back what it was given."
            )
        if jnp.result_type(leaf) != new.dtype:
            raise TypeError(
                f"{place} is {jnp.result_type(leaf)} before a step and {new.dtype} after it; give `initial_carry` in "
                f"{new.dtype}, or the cell a `param_dtype` and a `dtype` that agree."
            )
    batch_ndim = len(call.batch_shape)
    for what, tree in (("carry", after), ("output", y)):
        for leaf in jax.tree.leaves(tree):
            if leaf.shape[:batch_ndim] != call.batch_shape:
                batch = list(call.batch_shape)
                return f"a part of its {what} is {list(leaf.shape)}, which does not begin with the batch {batch}"
    return None


def run_by_flax(
    call: Call, run: Callable[..., Any], why: str, carry: PyTree, *, return_carry: bool, **how: Any
) -> tuple[PyTree, PyTree]:
    """`(carry, outputs)` by Flax's own RNN: padding and rows of length 0 are treated as rnnjax does.

    Args:
      run: Flax's RNN, called with inputs and options.
      why: the reason, for the warning.
      carry: before the first step.
      return_carry: whether the caller wants the last carry; else it is `None`.
      how: what else `run` is called with.
    Raises:
      TypeError: `mask` or `resets`, of which Flax's loop knows nothing.
      ValueError: the last carry of rows of different length with more than one batch axis, which Flax would mix up.
    """
    given = [name for name in ("mask", "resets") if getattr(call, name) is not None]
    if given:
        raise TypeError(
            f"`{given[0]}` is given, but {call.cell} can only be run by Flax's own loop, which does not have "
            f"it: {why}. Write the cell as a pure step of parameters, carry and input."
        )
    lengths = None if call.seq_lengths is None or not call.has_steps else call.seq_lengths.astype(int)  # as Flax counts
    if lengths is not None and return_carry and len(call.batch_shape) > 1:
        raise ValueError(
            f"`seq_lengths` is {list(lengths.shape)}, but {call.cell} can only be run by Flax's own loop, which finds "
            f"the last carry of rows with one batch axis only: {why}. Reshape `inputs` {list(call.inputs.shape)} to "
            f"{math.prod(call.batch_shape)} rows."
        )
    warnings.warn(
        f"rnnjax.flax runs {call.cell} by Flax's own loop, without `mask`, `resets`, `engine`, `checkpoint` and "
        f"`chunk`: {why}.",
        stacklevel=4,
    )
    result = run(
        call.without_padding(call.inputs),
        initial_carry=carry,
        seq_lengths=lengths,
        return_carry=return_carry,
        time_major=call.time_major,
        reverse=call.reverse,
        keep_order=call.keep_order,
        **how,
    )
    last, outputs = result if return_carry else (None, result)
    if lengths is not None and return_carry:
        last = jax.tree.map(lambda new, old: select(lengths > 0, new, old), last, carry)
    return last, call.without_padding(outputs)

"""Runs any Flax cell by its own step: as an rnnjax cell if possible, else in Flax's own loop.

The step of an rnnjax cell is a pure function of parameters, carry and input, and treats rows independently. A Flax cell
qualifies unless it keeps state between steps, draws random numbers, or has a carry or output that does not start with
the batch axes. Other cells run in Flax's own RNN, with one warning that says why.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll.arguments import select
from rnnjax.cell import Cell, PyTree
from rnnjax.flax.conventions import Call


class StepOfModule:
    """A module's step as an rnnjax cell; subclasses for linen and nnx define how the module is called.

    Attributes:
      features: the shape of one row's input, which `rnnjax.unroll` has flattened on one axis.
    """

    features: tuple[int, ...]

    def call(self, params: PyTree, carry: PyTree, inputs: Array) -> tuple[PyTree, PyTree]:
        """One step of the module, with inputs `[*batch, *features]`."""
        raise NotImplementedError

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree:
        raise NotImplementedError("the module draws its own parameters")

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        raise NotImplementedError("the module creates its own carry")

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.call(params, carry, x if len(self.features) == 1 else x.reshape(*x.shape[:-1], *self.features))


class Started(NamedTuple):
    """Parameters, and the carry to which resets return."""

    params: PyTree
    start: PyTree  # leaves [*batch, ...]


@dataclasses.dataclass(frozen=True)
class StartingFrom:
    """A cell whose initial carry is given as arrays for each row, since Flax's `carry_init` may be random.

    Attributes:
      batch_ndim: the number of batch axes of these arrays.
    """

    cell: Cell
    batch_ndim: int

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> Started:
        params = self.cell.init(key, input_size, dtype)
        return Started(params, self.cell.initial_carry(params))

    def initial_carry(self, params: Started, batch_shape: tuple[int, ...] = ()) -> PyTree:
        def shaped(leaf: Array) -> Array:
            rows = leaf.shape[: self.batch_ndim]
            if math.prod(batch_shape) != math.prod(rows):
                raise ValueError(f"the initial carry for resets is given for {list(rows)} rows, and cannot be reshaped")
            return leaf.reshape(*batch_shape, *leaf.shape[self.batch_ndim :])

        return jax.tree.map(shaped, params.start)

    def step(self, params: Started, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.cell.step(params.params, carry, x)


def run_by_own_step(
    call: Call, step: StepOfModule, params: PyTree, carry: PyTree, start: PyTree | None, **options: Any
) -> tuple[PyTree, PyTree]:
    """`(carry, outputs)`, computed by an engine of rnnjax.

    Args:
      carry: the carry before the first step.
      start: the carry to which `resets` return; `None` without resets.
    """
    carry = jax.tree.map(jnp.asarray, carry)
    start = carry if start is None else jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), start, carry)
    cell = StartingFrom(step, len(call.batch_shape))
    return call.unrolled(cell, Started(params, start), carry, call.inputs, **options)


def check_own_carry(call: Call, carry: PyTree, make: Callable[[], PyTree]) -> None:
    """Raises if `initial_carry` does not fit the cell and these inputs.

    Args:
      make: the cell's `initialize_carry`; if it cannot be called, there is no check, as in Flax.
    Raises:
      ValueError: the tree or a shape differs.
    """
    try:
        expected = jax.eval_shape(make)
    except Exception:
        return
    given, wanted = (jax.tree.map(lambda leaf: list(jnp.shape(leaf)), tree) for tree in (carry, expected))
    if jax.tree.flatten(given) != jax.tree.flatten(wanted):
        raise ValueError(
            f"`initial_carry` is {given}, but {call.cell} makes {wanted} of `inputs` {list(call.inputs.shape)}."
        )


def why_not_by_rows(call: Call, carry: PyTree, after: PyTree, y: PyTree) -> str | None:
    """The reason why a step cannot be that of an rnnjax cell, judged from its shapes; `None` if it can.

    Args:
      carry, after: the carry before and after one step.
    Raises:
      ValueError: a step changes the shapes of the carry.
      TypeError: a step changes the dtypes of the carry.
    """
    before, tree = jax.tree.flatten_with_path(carry)
    if tree != jax.tree.structure(after):
        raise ValueError(
            f"the carry of {call.cell} is {tree} before a step and {jax.tree.structure(after)} after it; a step must "
            "return a carry of the same structure."
        )
    for (path, leaf), new in zip(before, jax.tree.leaves(after), strict=True):
        place = f"the carry of {call.cell}{jax.tree_util.keystr(path)}"
        if jnp.shape(leaf) != new.shape:
            raise ValueError(
                f"{place} is {list(jnp.shape(leaf))} before a step and {list(new.shape)} after it, for `inputs` "
                f"{list(call.inputs.shape)}; a step must return a carry of the same shapes."
            )
        if jnp.result_type(leaf) != new.dtype:
            raise TypeError(
                f"{place} is {jnp.result_type(leaf)} before a step and {new.dtype} after it; give `initial_carry` in "
                f"{new.dtype}, or use the same `param_dtype` and `dtype` for the cell."
            )
    batch_ndim = len(call.batch_shape)
    for what, tree in (("carry", after), ("output", y)):
        for leaf in jax.tree.leaves(tree):
            if leaf.shape[:batch_ndim] != call.batch_shape:
                batch = list(call.batch_shape)
                return f"a part of its {what} is {list(leaf.shape)}, which does not start with the batch axes {batch}"
    return None


def run_by_flax(
    call: Call, run: Callable[..., Any], why: str, carry: PyTree, *, return_carry: bool, **how: Any
) -> tuple[PyTree, PyTree]:
    """`(carry, outputs)`, computed by Flax's own RNN, but with rnnjax's treatment of padding and rows of length 0.

    Args:
      run: Flax's RNN, called with inputs and options.
      why: the reason, for the warning.
      carry: the carry before the first step.
      return_carry: whether to return the last carry; if not, it is `None`.
      how: further arguments of `run`.
    Raises:
      TypeError: `mask` or `resets` is given, which Flax's loop does not support.
      ValueError: the last carry is needed for rows of different lengths with several batch axes, which Flax mixes up.
    """
    given = [name for name in ("mask", "resets") if getattr(call, name) is not None]
    if given:
        raise TypeError(
            f"`{given[0]}` is given, but {call.cell} can only run in Flax's own loop, which does not support "
            f"it: {why}. Write the cell as a pure step of parameters, carry and input."
        )
    lengths = (
        None if call.seq_lengths is None or not call.has_steps else call.seq_lengths.astype(int)
    )  # Flax's dtype for lengths
    if lengths is not None and return_carry and len(call.batch_shape) > 1:
        raise ValueError(
            f"`seq_lengths` is {list(lengths.shape)}, but {call.cell} can only run in Flax's own loop, which returns "
            f"the right last carry with one batch axis only: {why}. Reshape `inputs` {list(call.inputs.shape)} to "
            f"{math.prod(call.batch_shape)} rows."
        )
    warnings.warn(
        f"rnnjax.flax runs {call.cell} in Flax's own loop, without `mask`, `resets`, `engine`, `checkpoint` and "
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

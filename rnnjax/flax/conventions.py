"""Flax's call conventions in the words of `rnnjax.unroll`.

    Flax                                              rnnjax
    inputs [*batch, T, D], or time first              xs [T, *batch, D]
    seq_lengths [*batch]                              lengths
    carry (c, h)                                      LSTMCarry(h, c)
    reverse: outputs in the order of running,         outputs in the order of the input
      with keep_order in that of the input

`mask` and `resets`, which Flax has not, are laid out as the inputs are, without their features.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll import Checkpoint, Engine
from rnnjax._unroll import unroll as unroll_over_time
from rnnjax._unroll.masking import make_masks
from rnnjax.cell import Cell, PyTree
from rnnjax.cells import LSTMCarry
from rnnjax.flax.recurrence import Hyperparameters, Kind, recurrence


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an RNN, its arguments checked against each other in the caller's own layout.

    Attributes:
      inputs: `[*batch, T, D]`, or `[T, *batch, D]` with `time_major`.
      seq_lengths: `[*batch]` integers.
      mask, resets: booleans, laid out like `inputs` without features.
      reverse, keep_order, time_major: as Flax has them.
    """

    inputs: Array
    seq_lengths: Array | None
    mask: Array | None
    resets: Array | None
    time_major: bool
    reverse: bool = False
    keep_order: bool = False

    @classmethod
    def checked(
        cls,
        inputs: ArrayLike,
        seq_lengths: ArrayLike | None,
        mask: ArrayLike | None,
        resets: ArrayLike | None,
        time_major: bool,
        reverse: bool = False,
        keep_order: bool = False,
    ) -> "Call":
        """The call, if its arguments fit each other; what is refused is said in the caller's layout.

        Raises:
          ValueError: a shape that does not fit.
          TypeError: lengths that are not integers, flags that are not booleans.
        """
        inputs = jnp.asarray(inputs)
        wanted = "[T, *batch, D]" if time_major else "[*batch, T, D]"
        if inputs.ndim < 2:
            raise ValueError(f"`inputs` is {list(inputs.shape)}; expected {wanted} (time_major={time_major}).")
        batch_shape = inputs.shape[1:-1] if time_major else inputs.shape[:-2]
        if seq_lengths is not None:
            seq_lengths = jnp.asarray(seq_lengths)
            if not jnp.issubdtype(seq_lengths.dtype, jnp.integer):
                raise TypeError(f"`seq_lengths` is {seq_lengths.dtype}; it counts steps: pass integers.")
            if seq_lengths.shape != batch_shape:
                raise ValueError(
                    f"`seq_lengths` is {list(seq_lengths.shape)} but `inputs` is {list(inputs.shape)}, {wanted} with "
                    f"time_major={time_major}; pass one length a row, {list(batch_shape)}."
                )
        flags = {"mask": mask, "resets": resets}
        for name, value in flags.items():
            if value is not None:
                flags[name] = _flags(name, jnp.asarray(value), inputs, time_major)
        return cls(inputs, seq_lengths, **flags, time_major=time_major, reverse=reverse, keep_order=keep_order)  # type: ignore[arg-type]

    @property
    def step_shape(self) -> tuple[int, ...]:
        """`[*batch, D]`, which is what Flax's cells make their carry from."""
        return self.inputs.shape[1:] if self.time_major else (*self.inputs.shape[:-2], self.inputs.shape[-1])

    @property
    def first_step(self) -> Array:
        """The inputs at t = 0, `[*batch, D]`."""
        return self.inputs[0] if self.time_major else self.inputs[..., 0, :]

    def check_carry(self, hyperparameters: Hyperparameters, carry: Any) -> None:
        """Refuses an `initial_carry` that is not what the cell makes of these inputs."""
        expected = (*self.step_shape[:-1], hyperparameters.size)
        if hyperparameters.kind == "lstm":
            if not isinstance(carry, tuple | list) or len(carry) != 2:
                raise ValueError(f"`initial_carry` is a {type(carry).__name__}; an LSTM's carry is a pair (c, h).")
            named = {"`initial_carry[0]` (c)": carry[0], "`initial_carry[1]` (h)": carry[1]}
        else:
            named = {"`initial_carry`": carry}
        for name, leaf in named.items():
            if jnp.shape(leaf) != expected:
                raise ValueError(
                    f"{name} is {list(jnp.shape(leaf))} but `inputs` is {list(self.inputs.shape)} and the cell has "
                    f"{hyperparameters.size} units; expected {list(expected)}."
                )

    def run(
        self,
        hyperparameters: Hyperparameters,
        params: PyTree,
        carry: PyTree,
        start: PyTree | None,
        *,
        engine: Engine,
        checkpoint: Checkpoint,
        chunk: int | None,
        unroll: int,
    ) -> tuple[PyTree, Array]:
        """`(carry, outputs)` as Flax's RNN would return them.

        Args:
          params: in rnnjax's layout.
          carry: as Flax has it, before the first step.
          start: as Flax has it, what `resets` go back to; `None` for zero.
          engine, checkpoint, chunk, unroll: as `rnnjax.unroll` has them.
        """
        kind = hyperparameters.kind
        carry = jax.tree.map(jnp.asarray, from_flax_carry(kind, carry))
        start = None if start is None or self.resets is None else from_flax_carry(kind, start)
        cell, params, inputs = recurrence(hyperparameters, params, carry, self.inputs, start)
        options = {"engine": engine, "checkpoint": checkpoint, "chunk": chunk, "unroll": unroll}
        carry, ys = self.unrolled(cell, params, carry, inputs, **options)
        return to_flax_carry(kind, carry), ys

    def unrolled(self, cell: Cell, params: PyTree, carry: PyTree, inputs: Array, **options: Any) -> tuple[PyTree, Any]:
        """`(carry, outputs)` of a cell of rnnjax, the outputs laid out as the caller has them."""
        carry, ys = unroll_over_time(
            cell,
            params,
            inputs if self.time_major else jnp.moveaxis(inputs, -2, 0),
            carry=carry,
            lengths=self.seq_lengths,
            mask=self._time_first(self.mask),
            resets=self._time_first(self.resets),
            reverse=self.reverse,
            **options,
        )
        if self.reverse and not self.keep_order:
            ys = jax.tree.map(lambda y: in_running_order(y, self.seq_lengths), ys)
        batch_ndim = self.inputs.ndim - 2
        return carry, ys if self.time_major else jax.tree.map(lambda y: jnp.moveaxis(y, 0, batch_ndim), ys)

    def opposite_resets(self) -> Array | None:
        """The flags of the same episodes for the half that runs backwards, in the caller's layout."""
        if self.resets is None:
            return None
        xs = self.inputs if self.time_major else jnp.moveaxis(self.inputs, -2, 0)
        flags = make_masks(xs, self.seq_lengths, None, self._time_first(self.resets)).opposite().resets
        assert flags is not None
        return flags if self.time_major else jnp.moveaxis(flags, 0, -1)

    def _time_first(self, flags: Array | None) -> Array | None:
        return flags if flags is None or self.time_major else jnp.moveaxis(flags, -1, 0)


def from_flax_carry(kind: Kind, carry: PyTree) -> PyTree:
    """`(c, h)` to `LSTMCarry(h, c)`; a GRU's and an Elman's are the same in both."""
    return LSTMCarry(h=carry[1], c=carry[0]) if kind == "lstm" else carry


def to_flax_carry(kind: Kind, carry: PyTree) -> PyTree:
    """`LSTMCarry(h, c)` to `(c, h)`; a GRU's and an Elman's are the same in both."""
    return (carry.c, carry.h) if kind == "lstm" else carry


def in_running_order(ys: Array, lengths: Array | None) -> Array:
    """Each row from its own end to its start, its padding left where it is.

    Args:
      ys: `[T, *batch, H]`.
      lengths: `[*batch]`, or `None` where all rows are full.

    Example:

      >>> ys = jnp.array([[1, 4], [2, 0], [3, 0]])[..., None]
      >>> in_running_order(ys, jnp.array([3, 1]))[..., 0].T.tolist()
      [[3, 2, 1], [4, 0, 0]]
    """
    if lengths is None:
        return jnp.flip(ys, axis=0)
    lengths = lengths.astype("int32")
    t = jnp.arange(ys.shape[0], dtype="int32").reshape(-1, *(1 for _ in lengths.shape))
    source = jnp.where(t < lengths, lengths - 1 - t, t)
    return jnp.take_along_axis(ys, source.reshape(source.shape + (1,) * (ys.ndim - source.ndim)), axis=0)


def _flags(name: str, flags: Array, inputs: Array, time_major: bool) -> Array:
    expected = inputs.shape[:-1]
    if flags.dtype != jnp.bool_:
        raise TypeError(f"`{name}` is {flags.dtype}; it must be boolean: pass `{name}.astype(bool)`.")
    if flags.shape != expected:
        swapped = len(expected) == 2 and flags.shape == expected[::-1]
        fix = f"pass `{name}.T`" if swapped else f"pass {list(expected)}, one flag for each step of each row"
        first = "time" if time_major else "batch"
        raise ValueError(
            f"`{name}` is {list(flags.shape)} but `inputs` is {list(inputs.shape)}, {first} first "
            f"(time_major={time_major}); {fix}."
        )
    return flags

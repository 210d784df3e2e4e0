"""Translates Flax's calling conventions to those of `rnnjax.unroll`.

    Flax                                              rnnjax
    inputs [*batch, T, D], or time first              xs [T, *batch, D]
    seq_lengths [*batch]                              lengths, clipped to 0..T
    reverse: outputs in scan order,                   outputs in input order
      with keep_order in input order

`mask` and `resets`, which Flax lacks, have the layout of the inputs without their features. If a cell has several
feature axes, like a ConvLSTM, `xs` has them flattened into one.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll import unroll as unroll_over_time
from rnnjax._unroll.arguments import make_masks, select
from rnnjax.cell import Cell, PyTree
from rnnjax.cells import ElmanParams, GRUParams, LSTMParams

_CELLS = {LSTMParams: "an LSTMCell or OptimizedLSTMCell", GRUParams: "a GRUCell", ElmanParams: "a SimpleCell"}


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an RNN, with its arguments checked in the caller's layout.

    Attributes:
      cell: the class name of the cell, for messages.
      inputs: `[*batch, T, *features]`, or `[T, *batch, *features]` with `time_major`.
      seq_lengths: `[*batch]` integers in 0..T.
      mask, resets: booleans, in the layout of `inputs` without features.
      reverse, keep_order, time_major: as in Flax.
      feature_ndim: the number of feature axes of the cell.
    """

    cell: str
    inputs: Array
    seq_lengths: Array | None
    mask: Array | None
    resets: Array | None
    time_major: bool
    reverse: bool = False
    keep_order: bool = False
    feature_ndim: int = 1

    @classmethod
    def checked(
        cls,
        cell: Any,
        inputs: ArrayLike,
        seq_lengths: ArrayLike | None,
        mask: ArrayLike | None,
        resets: ArrayLike | None,
        time_major: bool,
        reverse: bool = False,
        keep_order: bool = False,
    ) -> "Call":
        """Creates a call after checking its arguments; messages use the caller's layout.

        Lengths are clipped to 0..T, also without `jit`, since values cannot be checked under `jit`.

        Raises:
          ValueError: a shape does not fit.
          TypeError: lengths are not integers, or flags are not booleans.
        """
        inputs = jnp.asarray(inputs)
        feature_ndim = cell.num_feature_axes
        features = "D" if feature_ndim == 1 else f"{feature_ndim} axes of features"
        wanted = f"[T, *batch, {features}]" if time_major else f"[*batch, T, {features}]"
        if inputs.ndim < 1 + feature_ndim:
            raise ValueError(f"`inputs` is {list(inputs.shape)}; expected {wanted} (time_major={time_major}).")
        time_axis = 0 if time_major else inputs.ndim - 1 - feature_ndim
        leading = inputs.shape[: inputs.ndim - feature_ndim]
        batch_shape = leading[1:] if time_major else leading[:-1]
        if seq_lengths is not None:
            seq_lengths = jnp.asarray(seq_lengths)
            if not jnp.issubdtype(seq_lengths.dtype, jnp.integer):
                raise TypeError(f"`seq_lengths` is {seq_lengths.dtype}; it must be integer.")
            if seq_lengths.shape != batch_shape:
                raise ValueError(
                    f"`seq_lengths` is {list(seq_lengths.shape)} but `inputs` is {list(inputs.shape)}, {wanted} with "
                    f"time_major={time_major}; pass one length per row, {list(batch_shape)}."
                )
            seq_lengths = _in_range(seq_lengths, inputs.shape[time_axis])
        flags = {"mask": mask, "resets": resets}
        for name, value in flags.items():
            if value is not None:
                flags[name] = _flags(name, jnp.asarray(value), inputs, leading, time_major)
        return cls(
            type(cell).__name__,
            inputs,
            seq_lengths,
            **flags,  # type: ignore[arg-type]
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
            feature_ndim=feature_ndim,
        )

    @property
    def time_axis(self) -> int:
        return 0 if self.time_major else self.inputs.ndim - 1 - self.feature_ndim

    @property
    def step_shape(self) -> tuple[int, ...]:
        """`[*batch, *features]`, the shape from which Flax's cells create their carry."""
        return self.inputs.shape[: self.time_axis] + self.inputs.shape[self.time_axis + 1 :]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.step_shape[: len(self.step_shape) - self.feature_ndim]

    @property
    def features(self) -> tuple[int, ...]:
        return self.step_shape[len(self.step_shape) - self.feature_ndim :]

    @property
    def has_steps(self) -> bool:
        """Whether T is not 0."""
        steps: Any = self.inputs.shape[self.time_axis]  # may be a symbol, as under `jax.export`
        return not (isinstance(steps, int) and steps == 0)

    @property
    def first_step(self) -> Array:
        """The inputs at t = 0, `[*batch, *features]`; zeros if there are no steps."""
        if not self.has_steps:
            return jnp.zeros(self.step_shape, self.inputs.dtype)
        return jax.lax.index_in_dim(self.inputs, 0, self.time_axis, keepdims=False)

    def check_params(self, kind: type, units: int, params: PyTree) -> None:
        """Raises if the parameters of one of Flax's own cells do not fit it, where they could broadcast silently.

        Args:
          kind, units: the kind of parameters that the cell has in rnnjax, and its size.
          params: the parameters in rnnjax's layout, or their shapes.
        Raises:
          ValueError: they belong to another kind or size of cell, or to another input width.
        """
        (width, _), (size, _) = params.w_x.shape, params.w_h.shape
        if type(params) is not kind or size != units:
            raise ValueError(
                f"`cell` is a {self.cell} of {units} units, but its parameters are those of {_CELLS[type(params)]} of "
                f"{size} units (recurrent weights {list(params.w_h.shape)}); load the checkpoint into the cell that it "
                "was saved from."
            )
        if self.features != (width,):
            raise ValueError(
                f"`inputs` is {list(self.inputs.shape)}, but the parameters of this {self.cell} were made for {width} "
                "features, on the last axis."
            )

    def unrolled(self, cell: Cell, params: PyTree, carry: PyTree, inputs: Array, **options: Any) -> tuple[PyTree, Any]:
        """`(carry, outputs)` of an rnnjax cell, with outputs in the caller's layout."""
        xs = self._as_xs(inputs)
        if self.has_steps:
            with self._in_the_callers_words(cell, xs):
                carry, ys = unroll_over_time(
                    cell,
                    params,
                    xs,
                    carry=carry,
                    lengths=self.seq_lengths,
                    mask=self._time_first(self.mask),
                    resets=self._time_first(self.resets),
                    reverse=self.reverse,
                    **options,
                )
        else:  # as in Flax, there are no steps
            _, y = jax.eval_shape(cell.step, params, carry, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype))
            ys = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), y)
        if self.reverse and not self.keep_order:
            ys = jax.tree.map(lambda y: in_scan_order(y, self.seq_lengths), ys)
        return carry, jax.tree.map(lambda y: jnp.moveaxis(y, 0, self.time_axis), ys)

    def opposite_resets(self) -> Array | None:
        """The resets of the same episodes for the backward direction, in the caller's layout."""
        if self.resets is None or not self.has_steps:
            return self.resets
        xs = self._as_xs(self.inputs)
        flags = make_masks(xs, self.seq_lengths, None, self._time_first(self.resets)).opposite().resets
        assert flags is not None
        return jnp.moveaxis(flags, 0, self.time_axis)

    def inside(self) -> Array | None:
        """Which steps are within `seq_lengths`, in the layout of `inputs` without features; `None` for all."""
        if self.seq_lengths is None:
            return None
        inside = make_masks(self._as_xs(self.inputs), self.seq_lengths).inside
        assert inside is not None
        return jnp.moveaxis(inside, 0, self.time_axis)

    def without_padding(self, tree: PyTree) -> PyTree:
        """Sets arrays in the layout of `inputs` to zero after the end of each row."""
        inside = self.inside()
        return tree if inside is None else select(inside, tree, jax.tree.map(jnp.zeros_like, tree))

    def _as_xs(self, inputs: Array) -> Array:
        """`[T, *batch, D]`, with all feature axes flattened."""
        xs = jnp.moveaxis(inputs, self.time_axis, 0)
        return xs if self.feature_ndim == 1 else xs.reshape(*xs.shape[: -self.feature_ndim], math.prod(self.features))

    def _time_first(self, flags: Array | None) -> Array | None:
        return flags if flags is None else jnp.moveaxis(flags, self.time_axis, 0)

    @contextlib.contextmanager
    def _in_the_callers_words(self, cell: Cell, xs: Array) -> Iterator[None]:
        """Rewrites errors of `rnnjax.unroll`, which name `xs` and an internal cell, in the caller's terms."""
        try:
            yield
        except (TypeError, ValueError) as error:
            message = error.args[0] if error.args else None
            if isinstance(message, str):
                ours = {f"`xs` is {list(xs.shape)}": f"`inputs` is {list(self.inputs.shape)}"}
                ours |= {f"`xs` {list(xs.shape)}": f"`inputs` {list(self.inputs.shape)}", "`xs`": "`inputs`"}
                for word, theirs in (ours | {repr(cell): self.cell}).items():
                    message = message.replace(word, theirs)
                error.args = (message, *error.args[1:])
            raise


def in_scan_order(ys: Array, lengths: Array | None) -> Array:
    """Reverses each row up to its own end, and leaves its padding in place.

    Args:
      ys: `[T, *batch, ...]`.
      lengths: `[*batch]`, or `None` if all rows are full.

    Example:

      >>> ys = jnp.array([[1, 4], [2, 0], [3, 0]])[..., None]
      >>> in_scan_order(ys, jnp.array([3, 1]))[..., 0].T.tolist()
      [[3, 2, 1], [4, 0, 0]]
    """
    if lengths is None:
        return jnp.flip(ys, axis=0)
    lengths = lengths.astype("int32")[None]
    t = jnp.arange(ys.shape[0], dtype="int32").reshape(-1, *([1] * (lengths.ndim - 1)))
    source = jnp.where(t < lengths, lengths - 1 - t, t)
    return jnp.take_along_axis(ys, source.reshape(source.shape + (1,) * (ys.ndim - source.ndim)), axis=0)


def _in_range(lengths: Array, steps: Any) -> Array:
    """Clips lengths to 0..T, as int32."""
    top = min(jnp.iinfo(lengths.dtype).max, jnp.iinfo(jnp.int32).max)
    lengths = jnp.minimum(lengths, jnp.asarray(top, lengths.dtype)).astype("int32")
    return jnp.clip(lengths, 0, jnp.asarray(steps, "int32"))


def _flags(name: str, flags: Array, inputs: Array, expected: tuple[int, ...], time_major: bool) -> Array:
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

"""Drop-in replacements for the `RNN` and `Bidirectional` of Flax nnx, with the same state.

    nnx.RNN(nnx.OptimizedLSTMCell(3, 64, rngs=rngs))                      before
    rnnjax.flax.nnx.RNN(nnx.OptimizedLSTMCell(3, 64, rngs=rngs))          after

Both modules derive from Flax's and have the same state, including random streams. They use Flax's cells (`LSTMCell`,
`OptimizedLSTMCell`, `GRUCell`, `SimpleCell`, re-exported here). Only the loop over time differs:

    Flax's cells, your subclasses, cells with a replaced or       run their own step, from which rnnjax hoists what it
      reconfigured layer (LoRA, precision), ...                     can out of the loop
    cells whose step changes state (dropout, running              run in Flax's own loop, with a warning that says why
      statistics), or that need `state_axes`, `broadcast_rngs`

New arguments are `mask` and `resets`, and `engine`, `checkpoint` and `chunk` as in `rnnjax.unroll`; Flax's own loop
does not support them. Differences from Flax:
  - outputs after `seq_lengths` are exactly zero (in Flax they depend on the padding), NaN in padding has no effect, and
    a row of length 0 keeps its initial carry;
  - lengths are clipped to 0..T, under `jit` too (in Flax a negative length counts from the end, and with `reverse` a
    row longer than T is rotated);
  - `reverse` of a `Bidirectional` raises (Flax ignores it).
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
from flax import nnx
from flax.nnx import GRUCell, LSTMCell, OptimizedLSTMCell, SimpleCell
from jax.typing import ArrayLike

from rnnjax._unroll import Checkpoint, Engine
from rnnjax.cell import PyTree
from rnnjax.cells import ElmanParams, GRUParams, LSTMParams
from rnnjax.flax.both_ways import run_both_ways
from rnnjax.flax.conventions import Call
from rnnjax.flax.nnx_params import from_nnx
from rnnjax.flax.nnx_step import as_step
from rnnjax.flax.own_step import check_own_carry, run_by_flax, run_by_own_step

__all__ = ["RNN", "Bidirectional", "GRUCell", "LSTMCell", "OptimizedLSTMCell", "SimpleCell"]

_KINDS = {OptimizedLSTMCell: LSTMParams, LSTMCell: LSTMParams, GRUCell: GRUParams, SimpleCell: ElmanParams}

Randomness = nnx.Rngs | nnx.RngStream


class RNN(nnx.RNN):
    """Runs a Flax cell over time like `nnx.RNN`, on an engine of rnnjax.

    All arguments of `nnx.RNN` keep their meaning. `state_axes` and `broadcast_rngs` concern state that changes from
    step to step; a cell with such state runs in Flax's own loop.

    Args:
      engine, checkpoint, chunk: as in `rnnjax.unroll`.

    Example:

      >>> import jax.numpy as jnp
      >>> rnn = RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)), return_carry=True)
      >>> (c, h), ys = rnn(jnp.ones((2, 5, 3), "float32"), seq_lengths=jnp.array([5, 3]))
      >>> ys.shape, h.shape, float(abs(ys[1, 3:]).max())
      ((2, 5, 4), (2, 4), 0.0)
    """

    def __init__(
        self,
        cell: Any,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        state_axes: Mapping[str, Any] | None = None,
        broadcast_rngs: Any = None,
        rngs: Randomness | bool = True,
        engine: Engine = "auto",
        checkpoint: Checkpoint = None,
        chunk: int | None = None,
    ):
        if not isinstance(cell, nnx.Module) or not hasattr(cell, "initialize_carry"):
            raise TypeError(
                f"`cell` is a {type(cell).__name__}; expected a cell of Flax, such as nnx.GRUCell(3, 64, ...)."
            )
        super().__init__(
            cast(Any, cell),
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            state_axes=state_axes,
            broadcast_rngs=broadcast_rngs,
            rngs=rngs,
        )
        self.engine: Engine = engine
        self.checkpoint: Checkpoint = checkpoint
        self.chunk = chunk

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: PyTree | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Randomness | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> Any:
        """Runs the cell over time.

        Args:
          inputs: `[*batch, T, D]`, or `[T, *batch, D]` with `time_major`. With T = 0 the carry is unchanged.
          initial_carry: `(c, h)` for an LSTM, h for the others, each `[*batch, features]`; by default the cell's own.
          seq_lengths: `[*batch]` integers; steps t >= seq_lengths[b] of row b are masked.
          return_carry, time_major, reverse, keep_order: override the arguments of `__init__`.
          rngs: the random streams for the carry; they advance even if `carry_init` is not random.
          mask: `[*batch, T]` booleans (`[T, *batch]` with `time_major`); False masks a step: the carry does not change,
            and the output is zero.
          resets: booleans in the same layout; the carry is reset to the cell's initial carry before that step, in scan
            order.
        Returns:
          The outputs, in the layout of `inputs`; with `return_carry`, a pair of the carry after each row's last step
          and the outputs.
        Raises:
          TypeError: a mask is not boolean; a step changes a dtype; or `mask` or `resets` is given for a cell that needs
            Flax's own loop.
          ValueError: a shape does not fit, or the parameters belong to another kind or size of cell.
        Warns:
          UserWarning: the cell runs in Flax's own loop.
        """
        cell: Any = self.cell
        call = Call.checked(
            cell,
            inputs,
            seq_lengths,
            mask,
            resets,
            time_major=_or(time_major, self.time_major),
            reverse=_or(reverse, self.reverse),
            keep_order=_or(keep_order, self.keep_order),
        )
        with_carry = _or(return_carry, self.return_carry)
        options: Any = {
            "engine": self.engine,
            "checkpoint": self.checkpoint,
            "chunk": self.chunk,
            "unroll": self.unroll,
        }
        start = None
        if initial_carry is None or resets is not None:
            rngs = self.rngs if rngs is None else rngs
            rngs = rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else rngs
            start = cell.initialize_carry(call.step_shape, rngs)
        carry = start if initial_carry is None else initial_carry
        if initial_carry is not None:
            check_own_carry(call, carry, lambda: cell.initialize_carry(call.step_shape, nnx.Rngs(0)))
        why = _why_by_axes(self)
        if why is None and _is_plain(cell):
            params = nnx.state(cell, nnx.Param)
            call.check_params(_KINDS[type(cell)], cell.hidden_features, jax.eval_shape(from_nnx, params))
        step, params, why_by_flax = as_step(cell, call, carry)
        why = why or why_by_flax
        if why is None:
            carry, outputs = run_by_own_step(call, step, params, carry, start, **options)
        else:
            carry, outputs = run_by_flax(call, super().__call__, why, carry, return_carry=with_carry)
        return (carry, outputs) if with_carry else outputs


class Bidirectional(nnx.Bidirectional):
    """Runs two RNNs over the same inputs, one in each direction, like `nnx.Bidirectional`.

    `mask` and `resets` apply to both. The backward direction has the same episodes, so its resets are shifted by one
    step.

    Example:

      >>> import jax.numpy as jnp
      >>> rngs = nnx.Rngs(0)
      >>> layer = Bidirectional(RNN(nnx.GRUCell(3, 4, rngs=rngs)), RNN(nnx.GRUCell(3, 4, rngs=rngs)))
      >>> layer(jnp.ones((2, 5, 3), "float32"), seq_lengths=jnp.array([5, 3])).shape
      (2, 5, 8)
    """

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: tuple[PyTree, PyTree] | None = None,
        rngs: Randomness | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> Any:
        """Runs both directions; the arguments are those of `RNN`, with a pair of carries for `initial_carry`.

        Returns:
          `merge_fn` of both outputs, in the layout of `inputs`; with `return_carry`, a pair of both carries and that.
        Raises:
          ValueError: `reverse` is true, which has no meaning here (Flax ignores it).
          TypeError: `mask` or `resets` is given, but one of the RNNs is Flax's own.
        """
        rngs = self.rngs if rngs is None else rngs
        rngs = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        carries, outputs = run_both_ways(
            (self.forward_rnn, self.backward_rnn),
            inputs,
            ours=RNN,
            initial_carry=initial_carry,
            randomness=({"rngs": rngs}, {"rngs": rngs}),
            seq_lengths=seq_lengths,
            mask=mask,
            resets=resets,
            time_major=_or(time_major, self.time_major),
            reverse=reverse,
        )
        merged = jax.tree.map(self.merge_fn, *outputs)
        return (carries, merged) if _or(return_carry, self.return_carry) else merged


def _or(given: bool | None, field: bool) -> bool:
    return field if given is None else given


def _is_plain(cell: nnx.Module) -> bool:
    """Whether a cell is one of Flax's four, with their own layers, and no activation with parameters."""
    parts = [part for part in vars(cell).values() if isinstance(part, nnx.Module)]
    return type(cell) in _KINDS and all([type(part) is nnx.Linear for part in parts])


def _why_by_axes(rnn: nnx.RNN) -> str | None:
    """The reason if `nnx.scan` would not share the cell's state among all steps."""
    axes, cell = nnx.StateAxes(cast(Any, rnn.state_axes)), cast(Any, rnn.cell)
    for path, variable in nnx.to_flat_state(nnx.state(cell)):
        axis = axes.map_prefix(path, variable)
        if axis is not None and axis is not nnx.Carry:
            return f"state_axes puts {'.'.join(map(str, path))} on axis {axis}, which the steps then do not share"
    if rnn.broadcast_rngs is not None and jax.tree.leaves(nnx.state(cell, nnx.RngState)):
        return f"broadcast_rngs is {rnn.broadcast_rngs!r}, and the cell keeps random numbers, which are split"
    return None

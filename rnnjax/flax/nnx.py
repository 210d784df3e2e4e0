"""Flax nnx's `RNN` and `Bidirectional`, run by rnnjax: change the name, keep the model and the state it was saved with.

    nnx.RNN(nnx.OptimizedLSTMCell(3, 64, rngs=rngs))                      before
    rnnjax.flax.nnx.RNN(nnx.OptimizedLSTMCell(3, 64, rngs=rngs))          after

Both modules derive from Flax's and hold what those hold, the stream of random numbers included, so that their states
are alike; the cells *are* Flax's (`LSTMCell`, `OptimizedLSTMCell`, `GRUCell`, `SimpleCell`, given here again for
convenience). Only the loop over time is another.

What is added: `mask` and `resets`, and `engine`, `checkpoint` and `chunk` as `rnnjax.unroll` has them. What differs:
  - outputs beyond `seq_lengths` are exactly zero (Flax leaves there what the cell made of the padding), NaN in padding
    reaches nothing, and a row of length 0 keeps its initial carry;
  - cells other than the four, and those with a layer exchanged or reconfigured (a LoRA, a precision), raise.
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
from flax import nnx
from flax.nnx import GRUCell, LSTMCell, OptimizedLSTMCell, SimpleCell
from flax.nnx.nn.dtypes import promote_dtype
from jax.nn.initializers import zeros
from jax.typing import ArrayLike

from rnnjax._unroll import Checkpoint, Engine
from rnnjax.cell import PyTree
from rnnjax.flax.both_ways import run_both_ways
from rnnjax.flax.conventions import Call
from rnnjax.flax.nnx_params import from_nnx
from rnnjax.flax.recurrence import Hyperparameters, Kind

__all__ = ["RNN", "Bidirectional", "GRUCell", "LSTMCell", "OptimizedLSTMCell", "SimpleCell"]

_KINDS: dict[type, Kind] = {OptimizedLSTMCell: "lstm", LSTMCell: "lstm", GRUCell: "gru", SimpleCell: "elman"}
_LAYERS: dict[type, tuple[str, ...]] = {
    OptimizedLSTMCell: ("dense_i", "dense_h"),
    LSTMCell: ("ii", "if_", "ig", "io", "hi", "hf", "hg", "ho"),
    GRUCell: ("dense_i", "dense_h"),
    SimpleCell: ("dense_i", "dense_h"),
}

Randomness = nnx.Rngs | nnx.RngStream


class RNN(nnx.RNN):
    """A Flax cell over time, as `nnx.RNN` runs it, by an engine of rnnjax.

    Every argument of `nnx.RNN` is there with its meaning. `state_axes` and `broadcast_rngs` speak of state that the
    four cells do not change from step to step; what they say of the parameters must be that all steps share them.

    Args:
      engine, checkpoint, chunk: as `rnnjax.unroll` has them.

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
        Hyperparameters.of(cell, _KINDS, nnx.Module)
        super().__init__(
            cell,
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
          inputs: `[*batch, T, D]`, or `[T, *batch, D]` with `time_major`.
          initial_carry: `(c, h)` for an LSTM, h for the others, each `[*batch, features]`; by default the cell's own.
          seq_lengths: `[*batch]` integers: step t of row b counts while t < seq_lengths[b].
          return_carry, time_major, reverse, keep_order: instead of what `__init__` was given.
          rngs: what the cell draws its carry with; its stream moves on, whether or not `carry_init` draws.
          mask: `[*batch, T]` booleans (`[T, *batch]` with `time_major`), False at steps that hold the carry and give
            zero output.
          resets: booleans laid out alike: the carry becomes the cell's initial carry before that step, in the order of
            running.
        Returns:
          The outputs, laid out like `inputs`; with `return_carry` a pair of the carry after each row's last step and
          the outputs.
        Raises:
          TypeError: a cell that is not one of Flax's four, or no longer as Flax made it; a mask that is not boolean; a
            dtype that a step would change.
          ValueError: a shape that does not fit; `state_axes` that say anything but shared parameters.
        """
        cell: Any = self.cell
        hyperparameters = Hyperparameters.of(cell, _KINDS, nnx.Module)
        _check_axes(self)
        call = Call.checked(
            inputs,
            seq_lengths,
            mask,
            resets,
            time_major=_or(time_major, self.time_major),
            reverse=_or(reverse, self.reverse),
            keep_order=_or(keep_order, self.keep_order),
        )
        starts_at_zero = cell.carry_init is None or cell.carry_init is zeros
        if initial_carry is not None:
            call.check_carry(hyperparameters, initial_carry)
        start = None
        if initial_carry is None or (resets is not None and not starts_at_zero):
            rngs = self.rngs if rngs is None else rngs
            rngs = rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else rngs
            start = cell.initialize_carry(call.step_shape, rngs)
        carry, outputs = call.run(
            hyperparameters,
            from_nnx(_kernels(cell)),
            start if initial_carry is None else initial_carry,
            None if starts_at_zero else start,
            engine=self.engine,
            checkpoint=self.checkpoint,
            chunk=self.chunk,
            unroll=self.unroll,
        )
        return (carry, outputs) if _or(return_carry, self.return_carry) else outputs


class Bidirectional(nnx.Bidirectional):
    """Two RNNs over the same inputs, one from each end, as `nnx.Bidirectional` has it.

    `mask` and `resets` go to both; the backward half sees the same episodes, so its resets are moved by one step.

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
        """Runs both halves; the arguments are those of `RNN`, with a pair of carries for `initial_carry`.

        Returns:
          `merge_fn` of both outputs, laid out like `inputs`; with `return_carry` a pair of both carries and that.
        Raises:
          ValueError: `reverse` is true, which has no meaning here (Flax passes over it).
          TypeError: `mask` or `resets`, and a half that is Flax's own RNN.
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


def _kernels(cell: Any) -> dict[str, dict[str, Any]]:
    """The arrays of a cell's layers, after a look at whether the layers are as Flax made them."""
    if cell.promote_dtype is not promote_dtype:
        raise TypeError(
            f"`promote_dtype` of {type(cell).__name__} is not Flax's; rnnjax.flax computes in `dtype`: leave it out."
        )
    tree = {}
    for name in _LAYERS[type(cell)]:
        layer = getattr(cell, name)
        own = {"precision": None, "preferred_element_type": None, "dot_general": jax.lax.dot_general}
        own |= {"promote_dtype": promote_dtype, "dtype": cell.dtype}
        changed = [option for option, value in own.items() if getattr(layer, option, None) is not value]
        if type(layer) is not nnx.Linear or changed:
            what = f"with its own {', '.join(changed)}" if type(layer) is nnx.Linear else f"a {type(layer).__name__}"
            raise TypeError(
                f"`{name}` of {type(cell).__name__} is {what}; rnnjax.flax reads the weights of a plain nnx.Linear. "
                "Keep Flax's RNN for this cell, or restore the layer."
            )
        leaves = {"kernel": layer.kernel, "bias": layer.bias}
        tree[name] = {leaf: value for leaf, value in leaves.items() if value is not None}
    return tree


def _check_axes(rnn: nnx.RNN) -> None:
    """Refuses what `nnx.scan` would do with the cell's state other than sharing it among the steps."""
    axes, cell = nnx.StateAxes(cast(Any, rnn.state_axes)), cast(Any, rnn.cell)
    for path, variable in nnx.to_flat_state(nnx.state(cell)):
        axis = axes.map_prefix(path, variable)
        if axis is not None and axis is not nnx.Carry:
            raise ValueError(
                f"state_axes puts {'.'.join(map(str, path))} on axis {axis}; in a recurrence all steps share it: leave "
                "`state_axes` out, or keep Flax's RNN."
            )
    if rnn.broadcast_rngs is not None and cell.rngs is not None:
        raise ValueError(
            f"broadcast_rngs is {rnn.broadcast_rngs!r} and the cell keeps `rngs`, which Flax's RNN would then split; "
            "leave one of them out: the cell's step draws nothing."
        )

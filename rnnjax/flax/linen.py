"""Flax linen's `RNN` and `Bidirectional`, run by rnnjax: change the name, keep the model, its checkpoints and its key.

    nn.RNN(nn.OptimizedLSTMCell(features=64))                     before
    rnnjax.flax.linen.RNN(nn.OptimizedLSTMCell(features=64))      after

Both modules derive from Flax's, so they have its fields, its names and its parameter tree, and the cells *are* Flax's
(`LSTMCell`, `OptimizedLSTMCell`, `GRUCell`, `SimpleCell`, given here again for convenience): they draw the parameters,
and one step at a time they work as ever. Only the loop over time is another. Any other cell with one axis of features,
such as `MGUCell` or one of your own, is run by its own step: `rnnjax` reads from it what can leave the loop.

What is added: `mask` and `resets`, and `engine`, `checkpoint` and `chunk` as `rnnjax.unroll` has them. What differs:
  - outputs beyond `seq_lengths` are exactly zero (Flax leaves there what the cell made of the padding), NaN in padding
    reaches nothing, and a row of length 0 keeps its initial carry;
  - the cell is not called, so nothing that listens to module calls (`capture_intermediates`) sees it;
  - cells with other collections than `params`, or that draw random numbers at every step, raise.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core.scope import in_filter
from flax.linen import GRUCell, LSTMCell, OptimizedLSTMCell, SimpleCell
from jax import Array
from jax.nn.initializers import zeros
from jax.typing import ArrayLike, DTypeLike

from rnnjax._unroll import Checkpoint, Engine
from rnnjax.cell import PyTree
from rnnjax.flax.both_ways import run_both_ways
from rnnjax.flax.cells import Started, StartingFrom
from rnnjax.flax.conventions import Call
from rnnjax.flax.linen_params import from_linen
from rnnjax.flax.recurrence import Hyperparameters, Kind

__all__ = ["RNN", "Bidirectional", "GRUCell", "LSTMCell", "OptimizedLSTMCell", "SimpleCell"]

_KINDS: dict[type, Kind] = {OptimizedLSTMCell: "lstm", LSTMCell: "lstm", GRUCell: "gru", SimpleCell: "elman"}


class RNN(nn.RNN):
    """A Flax cell over time, as `nn.RNN` runs it, by an engine of rnnjax.

    Every field of `nn.RNN` is there with its meaning. `variable_axes`, `variable_broadcast`, `variable_carry` and
    `split_rngs` speak of collections and random numbers that the four cells do not have; what they say of `params`
    must be Flax's default, shared by all steps.

    Attributes:
      engine, checkpoint, chunk: as `rnnjax.unroll` has them.

    Example:

      >>> import jax.numpy as jnp
      >>> rnn = RNN(nn.OptimizedLSTMCell(features=4), return_carry=True)
      >>> xs = jnp.ones((2, 5, 3), "float32")
      >>> variables = rnn.init(jax.random.key(0), xs)
      >>> (c, h), ys = rnn.apply(variables, xs, seq_lengths=jnp.array([5, 3]))
      >>> ys.shape, h.shape, float(abs(ys[1, 3:]).max())
      ((2, 5, 4), (2, 4), 0.0)
    """

    engine: Engine = "auto"
    checkpoint: Checkpoint = None
    chunk: int | None = None

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: PyTree | None = None,
        init_key: Array | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> Any:
        """Runs the cell over time.

        Args:
          inputs: `[*batch, T, D]`, or `[T, *batch, D]` with `time_major`.
          initial_carry: `(c, h)` for an LSTM, h for the others, each `[*batch, features]`; by default the cell's own.
          init_key: what the cell draws its carry with, where its `carry_init` draws.
          seq_lengths: `[*batch]` integers: step t of row b counts while t < seq_lengths[b].
          return_carry, time_major, reverse, keep_order: instead of the fields of these names.
          mask: `[*batch, T]` booleans (`[T, *batch]` with `time_major`), False at steps that hold the carry and give
            zero output.
          resets: booleans laid out alike: the carry becomes the cell's initial carry before that step, in the order of
            running.
        Returns:
          The outputs, laid out like `inputs`; with `return_carry` a pair of the carry after each row's last step and
          the outputs.
        Raises:
          TypeError: a cell with other collections than `params`, or with more axes of features; a mask that is not
            boolean; a dtype that a step changes.
          ValueError: a shape that does not fit; lifting options that say anything but shared parameters.
        """
        own_step = type(self.cell) not in _KINDS and isinstance(self.cell, nn.RNNCellBase)
        own_step = own_step and self.cell.num_feature_axes == 1
        hyperparameters = None if own_step else Hyperparameters.of(self.cell, _KINDS, nn.Module)
        _check_lifting(self)
        call = Call.checked(
            inputs,
            seq_lengths,
            mask,
            resets,
            time_major=_or(time_major, self.time_major),
            reverse=_or(reverse, self.reverse),
            keep_order=_or(keep_order, self.keep_order),
        )
        options: dict[str, Any] = {"engine": self.engine, "checkpoint": self.checkpoint, "chunk": self.chunk}
        if hyperparameters is None:
            carry, outputs = self._run_own_step(call, initial_carry, init_key, options | {"unroll": self.unroll})
            return (carry, outputs) if _or(return_carry, self.return_carry) else outputs
        if initial_carry is not None:
            call.check_carry(hyperparameters, initial_carry)
        start = None
        if initial_carry is None or (resets is not None and self.cell.carry_init is not zeros):
            start = self.cell.initialize_carry(jax.random.key(0) if init_key is None else init_key, call.step_shape)
        carry = start if initial_carry is None else initial_carry
        if not self.cell.variables.get("params"):
            self.cell(carry, call.first_step)  # draws the parameters, as Flax would have
        params = from_linen(self.cell.variables["params"])
        carry, outputs = call.run(
            hyperparameters,
            params,
            carry,
            None if self.cell.carry_init is zeros else start,
            **options,
            unroll=self.unroll,
        )
        return (carry, outputs) if _or(return_carry, self.return_carry) else outputs

    def _run_own_step(
        self, call: Call, initial_carry: PyTree | None, init_key: Array | None, options: dict[str, Any]
    ) -> tuple[PyTree, PyTree]:
        """A cell that rnnjax does not know, by its `__call__`."""
        key = jax.random.key(0) if init_key is None else init_key
        start = self.cell.initialize_carry(key, call.step_shape)
        carry = start if initial_carry is None else initial_carry
        if not self.cell.variables:
            self.cell(carry, call.first_step)  # draws the parameters, as Flax would have
        module, variables = self.cell.unbind()
        if set(variables) != {"params"}:
            raise TypeError(
                f"`cell` is a {type(self.cell).__name__} with the collections {sorted(variables)}; rnnjax.flax runs "
                "cells with `params` alone. Keep Flax's RNN for this one."
            )
        cell, params = StartingFrom(ModuleCell(module, call.step_shape[-1])), Started(variables["params"], start)
        return call.unrolled(cell, params, jax.tree.map(jnp.asarray, carry), call.inputs, **options)


@dataclasses.dataclass(frozen=True)
class ModuleCell:
    """A linen cell as a cell of rnnjax: its step is the module's own."""

    module: nn.Module
    input_size: int

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree:
        return self.module.init(key, self.initial_carry(None), jnp.zeros(input_size, dtype))["params"]

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        module: Any = self.module
        return module.initialize_carry(jax.random.key(0), (*batch_shape, self.input_size))

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        module: Any = self.module
        return module.apply({"params": params}, carry, x)


class Bidirectional(nn.Bidirectional):
    """Two RNNs over the same inputs, one from each end, as `nn.Bidirectional` has it.

    `mask` and `resets` go to both; the backward half sees the same episodes, so its resets are moved by one step.

    Example:

      >>> import jax.numpy as jnp
      >>> layer = Bidirectional(RNN(nn.GRUCell(features=4)), RNN(nn.GRUCell(features=4)))
      >>> xs = jnp.ones((2, 5, 3), "float32")
      >>> ys, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), xs)
      >>> ys.shape, sorted(variables["params"])
      ((2, 5, 8), ['backward_rnn', 'forward_rnn'])
    """

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: tuple[PyTree, PyTree] | None = None,
        init_key: Array | None = None,
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
        keys = (None, None) if init_key is None else jax.random.split(init_key)
        carries, outputs = run_both_ways(
            (self.forward_rnn, self.backward_rnn),
            inputs,
            ours=RNN,
            initial_carry=initial_carry,
            randomness=({"init_key": keys[0]}, {"init_key": keys[1]}),
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


def _check_lifting(rnn: nn.RNN) -> None:
    """Refuses what `nn.scan` would do with `params` other than sharing them among the steps."""
    shared = in_filter(rnn.variable_broadcast, "params") and not in_filter(rnn.variable_carry, "params")
    stacked = any(in_filter(collection, "params") for collection in rnn.variable_axes)
    split = any(in_filter(stream, "params") and to_split for stream, to_split in rnn.split_rngs.items())
    if not shared or stacked or split:
        raise ValueError(
            f"variable_broadcast={rnn.variable_broadcast!r}, variable_axes={dict(rnn.variable_axes)!r}, "
            f"variable_carry={rnn.variable_carry!r}, split_rngs={dict(rnn.split_rngs)!r}: all steps of a "
            "recurrence share `params`; leave these options at their defaults, or keep Flax's RNN."
        )

"""Flax linen's `RNN` and `Bidirectional`, run by rnnjax: change the name, keep the model, its checkpoints and its key.

    nn.RNN(nn.OptimizedLSTMCell(features=64))                     before
    rnnjax.flax.linen.RNN(nn.OptimizedLSTMCell(features=64))      after

Both modules derive from Flax's, so they have its fields, its names and its parameter tree, and the cells *are* Flax's
(`LSTMCell`, `OptimizedLSTMCell`, `GRUCell`, `SimpleCell`, given here again for convenience): they draw the parameters,
and one step at a time they work as ever. Only the loop over time is another. How a cell is run:

    the four cells above                                          as rnnjax's own
    any other: `MGUCell`, `ConvLSTMCell`, a subclass of one's     by its own step, of which rnnjax reads what can leave
      own, `nn.remat(cell)`, `nn.map_variables(cell, ...)`          the loop
    with collections beside `params`, random numbers in a         by Flax's own loop, with one warning that says why
      step, or lifting options of one's own

What is added: `mask` and `resets`, and `engine`, `checkpoint` and `chunk` as `rnnjax.unroll` has them; only Flax's own
loop knows nothing of them. What differs:
  - outputs beyond `seq_lengths` are exactly zero (Flax leaves there what the cell made of the padding), NaN in padding
    reaches nothing, and a row of length 0 keeps its initial carry;
  - lengths below 0 count as 0 and those above T as T, under `jit` too (in Flax a negative one counts from the end, and
    with `reverse` a row that is longer than T is rotated);
  - the cell is not called, so nothing that listens to module calls (`capture_intermediates`) sees it;
  - a `reverse` of a `Bidirectional` raises (Flax passes over it).
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn
from flax.core.scope import in_filter
from flax.errors import InvalidRngError
from flax.linen import GRUCell, LSTMCell, OptimizedLSTMCell, SimpleCell
from jax import Array
from jax.nn.initializers import zeros
from jax.typing import ArrayLike

from rnnjax._unroll import Checkpoint, Engine
from rnnjax.cell import PyTree
from rnnjax.flax.both_ways import run_both_ways
from rnnjax.flax.conventions import Call
from rnnjax.flax.linen_params import from_linen
from rnnjax.flax.own_step import StepOfModule, check_own_carry, run_by_flax, run_by_own_step, why_not_by_rows
from rnnjax.flax.recurrence import Hyperparameters, Kind

__all__ = ["RNN", "Bidirectional", "GRUCell", "LSTMCell", "OptimizedLSTMCell", "SimpleCell"]

_KINDS: dict[type, Kind] = {OptimizedLSTMCell: "lstm", LSTMCell: "lstm", GRUCell: "gru", SimpleCell: "elman"}


class RNN(nn.RNN):
    """A Flax cell over time, as `nn.RNN` runs it, by an engine of rnnjax.

    Every field of `nn.RNN` is there with its meaning. Where `variable_axes`, `variable_broadcast`, `variable_carry` and
    `split_rngs` say of `params` anything but Flax's default, shared by all steps, Flax's own loop runs the cell.

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
          inputs: `[*batch, T, D]`, or `[T, *batch, D]` with `time_major`. T may be 0: the carry stays as it is.
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
          TypeError: what is no cell of Flax; a mask that is not boolean; a dtype that a step changes; `mask` or
            `resets` for a cell that only Flax's own loop can run.
          ValueError: a shape that does not fit; parameters of another kind or size of cell.
        Warns:
          UserWarning: the cell is run by Flax's own loop.
        """
        if not isinstance(self.cell, nn.Module) or not hasattr(self.cell, "initialize_carry"):
            raise TypeError(f"`cell` is a {type(self.cell).__name__}; expected a cell of Flax, such as nn.GRUCell(64).")
        call = Call.checked(
            self.cell,
            inputs,
            seq_lengths,
            mask,
            resets,
            time_major=_or(time_major, self.time_major),
            reverse=_or(reverse, self.reverse),
            keep_order=_or(keep_order, self.keep_order),
        )
        with_carry = _or(return_carry, self.return_carry)
        key = jax.random.key(0) if init_key is None else init_key
        hyperparameters = Hyperparameters.known(self.cell, _KINDS, nn.Module)
        why = _why_lifted(self)
        if hyperparameters is not None and why is None:
            carry, outputs = self._run_known(call, hyperparameters, initial_carry, key)
            return (carry, outputs) if with_carry else outputs
        start = None
        if initial_carry is None or resets is not None:
            start = self.cell.initialize_carry(key, call.step_shape)
        carry = start if initial_carry is None else initial_carry
        scope: Any = self.cell.scope
        module, variables = self.cell.unbind()
        if initial_carry is not None:
            own: Any = module
            check_own_carry(call, carry, lambda: own.initialize_carry(jax.random.key(0), call.step_shape))
        why = why or _why_by_flax(module, variables, call, carry, list(scope.rngs))
        if why is not None:
            carry, outputs = run_by_flax(call, super().__call__, why, carry, return_carry=with_carry)
            return (carry, outputs) if with_carry else outputs
        if not variables:
            self.cell(carry, call.first_step)  # draws the parameters, as Flax would have
            variables = self.cell.variables
        step, params = LinenStep(module, call.features), variables.get("params", {})
        carry, outputs = run_by_own_step(call, step, params, carry, start, unroll=self.unroll, **self._options())
        return (carry, outputs) if with_carry else outputs

    def _run_known(
        self, call: Call, hyperparameters: Hyperparameters, initial_carry: PyTree | None, key: Array
    ) -> tuple[PyTree, Array]:
        """One of the four cells that are rnnjax's too."""
        if initial_carry is not None:
            call.check_carry(hyperparameters, initial_carry)
        start = None
        if initial_carry is None or (call.resets is not None and self.cell.carry_init is not zeros):
            start = self.cell.initialize_carry(key, call.step_shape)
        carry = start if initial_carry is None else initial_carry
        if not self.cell.variables.get("params"):
            self.cell(carry, call.first_step)  # draws the parameters, as Flax would have
        return call.run(
            hyperparameters,
            from_linen(self.cell.variables["params"]),
            carry,
            None if self.cell.carry_init is zeros else start,
            unroll=self.unroll,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        return {"engine": self.engine, "checkpoint": self.checkpoint, "chunk": self.chunk}


@dataclasses.dataclass(frozen=True)
class LinenStep(StepOfModule):
    """A linen cell as a cell of rnnjax: its step is the module's own."""

    module: nn.Module
    features: tuple[int, ...]

    def call(self, params: PyTree, carry: PyTree, inputs: Array) -> tuple[PyTree, PyTree]:
        module: Any = self.module
        return module.apply({"params": params}, carry, inputs)


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


def _why_lifted(rnn: nn.RNN) -> str | None:
    """The reason where `nn.scan` would do anything with `params` but share them among the steps."""
    shared = in_filter(rnn.variable_broadcast, "params") and not in_filter(rnn.variable_carry, "params")
    stacked = any(in_filter(collection, "params") for collection in rnn.variable_axes)
    split = any(in_filter(stream, "params") and to_split for stream, to_split in rnn.split_rngs.items())
    if shared and not stacked and not split:
        return None
    return (
        f"variable_broadcast={rnn.variable_broadcast!r}, variable_axes={dict(rnn.variable_axes)!r}, "
        f"variable_carry={rnn.variable_carry!r}, split_rngs={dict(rnn.split_rngs)!r} say of `params` something else "
        "than that all steps share them"
    )


def _why_by_flax(module: Any, variables: Any, call: Call, carry: PyTree, streams: list[str]) -> str | None:
    """The reason for which a cell's step is no pure function of its parameters; `None` if it is. Nothing is computed.

    Args:
      module, variables: the cell, unbound; without variables while these are being made.
      streams: names of the random numbers that there are.
    """
    x, key = call.first_step, jax.random.key(0)
    if not variables:
        rngs = dict.fromkeys(["params", *streams], key)
        variables = jax.eval_shape(lambda: module.init(rngs, carry, x))
    more = sorted(set(variables) - {"params", "intermediates"})
    if more:
        return f"it keeps the collections {', '.join(more)} beside its parameters"
    try:
        after, y = jax.eval_shape(
            lambda params: module.apply({"params": params}, carry, x), dict(variables).get("params", {})
        )
    except InvalidRngError:
        return "its step draws random numbers"
    return why_not_by_rows(call, carry, after, y)

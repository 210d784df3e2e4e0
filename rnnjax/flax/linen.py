"""Drop-in replacements for the `RNN` and `Bidirectional` of Flax linen, with the same parameters and checkpoints.

    nn.RNN(nn.OptimizedLSTMCell(features=64))                     before
    rnnjax.flax.linen.RNN(nn.OptimizedLSTMCell(features=64))      after

Both modules derive from Flax's, with the same fields, names and parameter tree, and use Flax's cells (`LSTMCell`,
`OptimizedLSTMCell`, `GRUCell`, `SimpleCell`, re-exported here), which draw the parameters. Only the loop over time
differs:

    Flax's cells, your subclasses, `nn.remat(cell)`,              run their own step, from which rnnjax hoists what it
      `nn.map_variables(cell, ...)`                                 can out of the loop
    cells with collections besides `params`, random numbers       run in Flax's own loop, with a warning that says why
      in a step, or custom lifting options

New arguments are `mask` and `resets`, and `engine`, `checkpoint` and `chunk` as in `rnnjax.unroll`; Flax's own loop
does not support them. Differences from Flax:
  - outputs after `seq_lengths` are exactly zero (in Flax they depend on the padding), NaN in padding has no effect, and
    a row of length 0 keeps its initial carry;
  - lengths are clipped to 0..T, under `jit` too (in Flax a negative length counts from the end, and with `reverse` a
    row longer than T is rotated);
  - the cell module is not called, so `capture_intermediates` and the like do not see it;
  - `reverse` of a `Bidirectional` raises (Flax ignores it).
"""

import dataclasses
import functools
from typing import Any

import jax
from flax import linen as nn
from flax.core.scope import in_filter
from flax.errors import InvalidRngError
from flax.linen import GRUCell, LSTMCell, OptimizedLSTMCell, SimpleCell
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll import Checkpoint, Engine
from rnnjax.cell import PyTree
from rnnjax.cells import ElmanParams, GRUParams, LSTMParams
from rnnjax.flax.both_ways import run_both_ways
from rnnjax.flax.conventions import Call
from rnnjax.flax.linen_params import from_linen
from rnnjax.flax.own_step import StepOfModule, check_own_carry, run_by_flax, run_by_own_step, why_not_by_rows

__all__ = ["RNN", "Bidirectional", "GRUCell", "LSTMCell", "OptimizedLSTMCell", "SimpleCell"]

_KINDS = {OptimizedLSTMCell: LSTMParams, LSTMCell: LSTMParams, GRUCell: GRUParams, SimpleCell: ElmanParams}


class RNN(nn.RNN):
    """Runs a Flax cell over time like `nn.RNN`, on an engine of rnnjax.

    All fields of `nn.RNN` keep their meaning. If `variable_axes`, `variable_broadcast`, `variable_carry` or
    `split_rngs` change Flax's default for `params`, which all steps share, the cell runs in Flax's own loop.

    Attributes:
      engine, checkpoint, chunk: as in `rnnjax.unroll`.

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
          inputs: `[*batch, T, D]`, or `[T, *batch, D]` with `time_major`. With T = 0 the carry is unchanged.
          initial_carry: `(c, h)` for an LSTM, h for the others, each `[*batch, features]`; by default the cell's own.
          init_key: the key for a random `carry_init`.
          seq_lengths: `[*batch]` integers; steps t >= seq_lengths[b] of row b are masked.
          return_carry, time_major, reverse, keep_order: override the fields of the same name.
          mask: `[*batch, T]` booleans (`[T, *batch]` with `time_major`); False masks a step: the carry does not change,
            and the output is zero.
          resets: booleans in the same layout; the carry is reset to the cell's initial carry before that step, in scan
            order.
        Returns:
          The outputs, in the layout of `inputs`; with `return_carry`, a pair of the carry after each row's last step
          and the outputs.
        Raises:
          TypeError: the cell is not a Flax cell; a mask is not boolean; a step changes a dtype; or `mask` or `resets`
            is given for a cell that needs Flax's own loop.
          ValueError: a shape does not fit, or the parameters belong to another kind or size of cell.
        Warns:
          UserWarning: the cell runs in Flax's own loop.
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
        start = None
        if initial_carry is None or resets is not None:
            start = self.cell.initialize_carry(key, call.step_shape)
        carry = start if initial_carry is None else initial_carry
        scope: Any = self.cell.scope
        module, variables = self.cell.unbind()
        if initial_carry is not None:
            own: Any = module
            check_own_carry(call, carry, lambda: own.initialize_carry(jax.random.key(0), call.step_shape))
        why = _why_lifted(self)
        if why is None and variables.get("params") and _is_plain(module):
            call.check_params(_KINDS[type(module)], module.features, jax.eval_shape(from_linen, variables["params"]))
        why = why or _why_by_flax(module, variables, call, carry, list(scope.rngs))
        if why is not None:
            carry, outputs = run_by_flax(call, super().__call__, why, carry, return_carry=with_carry)
            return (carry, outputs) if with_carry else outputs
        if not variables:
            self.cell(carry, call.first_step)  # draws the parameters, as in Flax
            variables = self.cell.variables
        step, params = LinenStep(module, call.features), variables.get("params", {})
        carry, outputs = run_by_own_step(
            call,
            step,
            params,
            carry,
            start,
            engine=self.engine,
            checkpoint=self.checkpoint,
            chunk=self.chunk,
            unroll=self.unroll,
        )
        return (carry, outputs) if with_carry else outputs


@dataclasses.dataclass(frozen=True)
class LinenStep(StepOfModule):
    """A linen module's step as an rnnjax cell."""

    module: nn.Module
    features: tuple[int, ...]

    def call(self, params: PyTree, carry: PyTree, inputs: Array) -> tuple[PyTree, PyTree]:
        module: Any = self.module
        return module.apply({"params": params}, carry, inputs)


def _shapes_after(step: LinenStep, *arrays: Any) -> tuple[PyTree, PyTree]:
    """The shapes of a step's results, traced once for equal steps."""
    try:
        hash(step)
    except TypeError:  # with an array among the module's fields
        return jax.eval_shape(step.call, *arrays)
    return _call.eval_shape(step, *arrays)


@functools.partial(jax.jit, static_argnums=0)
def _call(step: LinenStep, params: PyTree, carry: PyTree, inputs: Array) -> tuple[PyTree, PyTree]:
    return step.call(params, carry, inputs)


class Bidirectional(nn.Bidirectional):
    """Runs two RNNs over the same inputs, one in each direction, like `nn.Bidirectional`.

    `mask` and `resets` apply to both. The backward direction has the same episodes, so its resets are shifted by one
    step.

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
        """Runs both directions; the arguments are those of `RNN`, with a pair of carries for `initial_carry`.

        Returns:
          `merge_fn` of both outputs, in the layout of `inputs`; with `return_carry`, a pair of both carries and that.
        Raises:
          ValueError: `reverse` is true, which has no meaning here (Flax ignores it).
          TypeError: `mask` or `resets` is given, but one of the RNNs is Flax's own.
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


def _is_plain(cell: nn.Module) -> bool:
    """Whether a cell is one of Flax's four, without activations that have parameters of their own."""
    functions = [getattr(cell, name, None) for name in ("gate_fn", "activation_fn")]
    return type(cell) in _KINDS and not any([isinstance(function, nn.Module) for function in functions])


def _why_lifted(rnn: nn.RNN) -> str | None:
    """The reason if `nn.scan` would not share `params` among all steps."""
    shared = in_filter(rnn.variable_broadcast, "params") and not in_filter(rnn.variable_carry, "params")
    stacked = any(in_filter(collection, "params") for collection in rnn.variable_axes)
    split = any(in_filter(stream, "params") and to_split for stream, to_split in rnn.split_rngs.items())
    if shared and not stacked and not split:
        return None
    return (
        f"variable_broadcast={rnn.variable_broadcast!r}, variable_axes={dict(rnn.variable_axes)!r}, "
        f"variable_carry={rnn.variable_carry!r}, split_rngs={dict(rnn.split_rngs)!r} change the default for `params`, "
        "that all steps share them"
    )


def _why_by_flax(module: Any, variables: Any, call: Call, carry: PyTree, streams: list[str]) -> str | None:
    """The reason why a cell's step is not a pure function of its parameters, or `None` if it is. Only traces the step.

    Args:
      module, variables: the unbound cell; no variables during initialisation.
      streams: the names of the available random streams.
    """
    x, key = call.first_step, jax.random.key(0)
    if not variables:
        rngs = dict.fromkeys(["params", *streams], key)
        variables = jax.eval_shape(lambda: module.init(rngs, carry, x))
    more = sorted(set(variables) - {"params", "intermediates"})
    if more:
        return f"it keeps the collections {', '.join(more)} besides its parameters"
    try:
        after, y = _shapes_after(LinenStep(module, call.features), dict(variables).get("params", {}), carry, x)
    except InvalidRngError:
        return "its step draws random numbers"
    return why_not_by_rows(call, carry, after, y)

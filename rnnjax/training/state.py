"""What training carries from step to step, and how a run is asked for."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rnnjax.cell import PyTree, check_size
from rnnjax.training.optimizers import init, transformation

GOING_ON = -1
"""`TrainState.stopped` of a run that met nothing non-finite."""


class TrainState(NamedTuple):
    """All that a run needs to go on, bit for bit: save it, load it, and the next step is the same.

    Attributes:
      params: what is trained.
      opt_state: the optimizer's memory.
      carry: the recurrent carry handed to the next batch, or None where every batch starts afresh.
      key: `[]` PRNG key of the run; every step's randomness is `fold_in` of it and of `step`, so it never changes.
      step: `[]` int32, updates tried: also the position in the data.
      skipped: `[]` int32, updates left out because something was not finite.
      stopped: `[]` int32, the step at which something was not finite and the run halted; -1: none.
      done: `[]` bool, whether the criterion is met.
    """

    params: PyTree
    opt_state: PyTree
    carry: PyTree | None
    key: Array
    step: Array
    skipped: Array
    stopped: Array
    done: Array


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation | optax.MultiSteps, key: Array, carry: PyTree | None = None
) -> TrainState:
    """The state before the first step. Each leaf is a copy, in a buffer of its own: the state may be donated.

    Args:
      params: what is trained: real and complex leaves. Others (integers, booleans, keys) stay as they are, and the
        optimizer does not see them.
      optimizer: any Optax transformation, or an object with its `init` and `update`, such as `optax.MultiSteps`.
      key: `[]` typed PRNG key (`jax.random.key(seed)`); data and randomness of the whole run follow from it.
      carry: for a loss that hands its carry on (see `fit`).
    Raises:
      TypeError: `key` is no typed PRNG key; `optimizer` has no `init` and `update`.

    Example:

      >>> state = init_state({"w": jnp.zeros(3)}, optax.adam(1e-3), jax.random.key(0))
      >>> int(state.step), bool(state.done)
      (0, False)
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"`key` is {type(key).__name__}; pass a typed PRNG key, such as `jax.random.key(0)`.")
    params, carry = jax.tree.map(_own, (params, carry))
    return TrainState(
        params=params,
        opt_state=jax.tree.map(_own, init(transformation(optimizer), params)),
        carry=carry,
        key=_own(key),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        stopped=jnp.full((), GOING_ON, jnp.int32),
        done=jnp.array(False),
    )


def _own(leaf: Any) -> Array:
    """A copy with a dtype of its own: a weak one, as `jnp.asarray(0.0)` has, is lost in a checkpoint."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_own(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jnp.array(leaf, leaf.dtype, copy=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How long and how closely watched a run is.

    Attributes:
      steps: updates in all; a state that comes in at step 300 gets `steps - 300` more.
      chunk: updates between two looks from outside: one dispatch, in one compiled `lax.scan`. Held-out data, the
        criterion and checkpoints come after each chunk.
      metrics_every: updates that one line of metrics is the mean of; divides `chunk`. None: one line a chunk.
      nonfinite: what a step does whose loss, gradient or result holds NaN or inf: "stop" halts before it and raises
        `NonFiniteError`; "skip" leaves it out and says so in the metrics. Never is such an update applied.
        Where an optimizer remembers an infinity from before, or is set to one or reports one, that is no fault.
      data_period: how many consecutive steps share one data key, such as the chunks of one sequence.
      held_out_batches: how many batches a look at held-out data is the mean of.
    """

    steps: int
    chunk: int = 100
    metrics_every: int | None = None
    nonfinite: Literal["stop", "skip"] = "stop"
    data_period: int = 1
    held_out_batches: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "chunk", "data_period", "held_out_batches"):
            check_size(name, getattr(self, name))
        if self.metrics_every is not None:
            check_size("metrics_every", self.metrics_every)
            if self.chunk % self.metrics_every:
                raise ValueError(f"metrics_every is {self.metrics_every}, which does not divide chunk = {self.chunk}.")
        if self.nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite is {self.nonfinite!r}; choose 'stop' or 'skip'.")

    @property
    def interval(self) -> int:
        """Updates to a line of metrics."""
        return self.chunk if self.metrics_every is None else self.metrics_every

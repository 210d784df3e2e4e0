"""The training state, and the options of a run."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rnnjax.cell import PyTree, check_size
from rnnjax.training.optimizers import init, transformation

GOING_ON = -1
"""`TrainState.stopped` of a run without non-finite steps."""


class Best(NamedTuple):
    """The best evaluation so far, `stale` evaluations ago."""

    params: PyTree  # as evaluated
    value: Array  # [] float32; inf or -inf before the first evaluation
    step: Array  # [] int32, -1: none yet
    stale: Array  # [] int32


class TrainState(NamedTuple):
    """The complete state of a run: after saving and loading it, training continues bit for bit."""

    params: PyTree
    opt_state: PyTree
    carry: PyTree | None  # passed to the next batch; None: every batch starts from the initial carry
    key: Array  # [] PRNG key of the run; it never changes: the randomness of each step is of `fold_in(key, step)`
    step: Array  # [] int32, attempted updates, which is also the position in the data
    skipped: Array  # [] int32, updates skipped because they were not finite
    stopped: Array  # [] int32, the non-finite step at which the run stopped; -1: none
    done: Array  # [] bool, whether the stopping criterion is met
    average: PyTree | None = None  # moving average of the parameters, with `FitOptions(average=...)`
    best: Best | None = None  # with `FitOptions(best=...)`


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation | optax.MultiSteps, key: Array, carry: PyTree | None = None
) -> TrainState:
    """The state before the first step. Each leaf is a copy in its own buffer, so the state can be donated.

    Args:
      params: real and complex leaves are trained; others (integers, booleans, keys) stay unchanged.
      optimizer, carry: as for `fit`; a carry only for a loss with one.
      key: `[]` typed PRNG key (`jax.random.key(seed)`), from which all data and randomness of the run are derived.
    Raises:
      TypeError: `key` is not a typed PRNG key, or `optimizer` has no `init` and `update`.

    Example:

      >>> state = init_state({"w": jnp.zeros(3)}, optax.adam(1e-3), jax.random.key(0))
      >>> int(state.step), bool(state.done)
      (0, False)
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"`key` is {type(key).__name__}; pass a typed PRNG key, such as `jax.random.key(0)`.")
    params, carry = jax.tree.map(_own, (params, carry))
    opt_state = jax.tree.map(_own, init(transformation(optimizer), params))
    step, skipped, stopped = (jnp.full((), start, jnp.int32) for start in (0, 0, GOING_ON))
    return TrainState(params, opt_state, carry, _own(key), step, skipped, stopped, jnp.array(False))


def prepared(state: TrainState, options: "FitOptions", held_out: Any) -> TrainState:
    """Starts, or leaves out, the moving average and the best step, as the options ask."""
    average = best = None
    if options.average is not None:
        average = jax.tree.map(_own, state.params) if state.average is None else state.average
    if options.best is not None:
        if held_out is None:
            raise ValueError("the best step is that of a held-out measure: pass `held_out`.")
        worst = jnp.float32(-jnp.inf if options.higher_is_better else jnp.inf)
        best = state.best or Best(jax.tree.map(_own, state.params), worst, jnp.int32(-1), jnp.int32(0))
    return state._replace(average=average, best=best)


def given_back(state: TrainState) -> PyTree:
    """The parameters to use: those of the best step, or else the moving average, or else the last."""
    last = state.params if state.average is None else state.average
    if state.best is None:
        return last
    return optax.tree.where(state.best.step >= 0, state.best.params, last)


def _own(leaf: Any) -> Array:
    """A copy with a strong dtype, since weak types, as of `jnp.asarray(0.0)`, are lost in a checkpoint."""
    leaf = jnp.asarray(leaf)
    return jnp.array(leaf, leaf.dtype, copy=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The length of a run, and how often it is logged and evaluated."""

    steps: int  # the total number of updates; a state at step 300 gets `steps - 300` more
    chunk: int = 100  # updates per dispatch, one compiled `lax.scan`; evaluation, stopping, checkpoints follow each
    metrics_every: int | None = None  # updates per line of metrics, which has their means; divides `chunk`; None: it
    nonfinite: Literal["stop", "skip"] = "stop"
    """If a loss, gradient or result has NaN or inf, raise `NonFiniteError` before the update, or skip and count it. An
    infinity that an optimizer's state has or reports is allowed."""
    data_period: int = 1  # consecutive steps that share one data key, such as the chunks of one sequence
    held_out_batches: int = 1  # batches per evaluation on held-out data
    shapes: int = 1  # different shapes that batches of a loader may have; each compiles a program
    evaluate_every: int | None = None  # updates between evaluations, a multiple of `chunk`; None: after every dispatch
    best: str | None = None  # held-out measure whose best step is kept and given back, as "loss"; None: the last step
    higher_is_better: bool = False  # of that measure, as for an accuracy; NaN is never better
    patience: int | None = None  # evaluations without a better one after which training stops; None: it does not
    average: float | None = None
    """The decay of a moving average of the parameters, such as 0.999, which is evaluated and given back instead of the
    last parameters. At update t it is at most (1 + t) / (10 + t)."""
    compute_dtype: str | None = None
    """Mixed precision, such as "bfloat16": the loss gets parameters, batch and carry in this dtype, while parameters,
    optimizer and gradient keep their own. In the loss, turn outputs into float32 before long sums."""

    def __post_init__(self) -> None:
        optional = ("metrics_every", "evaluate_every", "patience")
        for name in ("steps", "chunk", "data_period", "held_out_batches", "shapes", *optional):
            if name not in optional or getattr(self, name) is not None:
                check_size(name, getattr(self, name))
        if self.chunk % self.interval:
            raise ValueError(f"metrics_every is {self.metrics_every}, which does not divide chunk = {self.chunk}.")
        if (self.evaluate_every or 0) % self.chunk:
            raise ValueError(f"evaluate_every is {self.evaluate_every}, not a multiple of chunk = {self.chunk}.")
        if self.patience is not None and self.best is None:
            raise ValueError("patience waits for a better held-out measure; name it, such as best='loss'.")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average is {self.average}; the decay is between 0 and 1, such as 0.999.")
        if self.nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite is {self.nonfinite!r}; choose 'stop' or 'skip'.")

    def evaluates(self, before: int, now: int) -> bool:
        """Whether the dispatch of the updates `before` to `now` ends with an evaluation."""
        return now >= self.steps or passes(self.evaluate_every or 1, before, now)

    @property
    def interval(self) -> int:
        """Updates per line of metrics."""
        return self.metrics_every or self.chunk


def passes(every: int, before: int, now: int) -> bool:
    """Whether (before, now] contains a multiple of `every`."""
    return now // every > before // every

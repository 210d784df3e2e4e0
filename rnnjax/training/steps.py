"""The training state, the options of a run, and one update and one dispatch: pure functions from state to state.

batch_t    = data(key_t, t)                              key_t = fold_in(key, t): the position is the step number
g_t        = ∂ loss(params_t, batch_t) / ∂ params
params_t+1 = params_t + optimizer(g_t)                   unless something is not finite; `optimizers.py` has the details
"""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from rnnjax.cell import PyTree, check_size
from rnnjax.training import optimizers
from rnnjax.training.faults import finite_by_leaf
from rnnjax.training.optimizers import clip_states, is_inexact, joined, norm, trained

_DATA, _LOSS, _HELD_OUT = 0, 1, 2  # folded into the key, so that no two uses share one
GOING_ON = -1
"""`TrainState.stopped` of a run without non-finite steps."""
Metrics = dict[str, Array]


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
    with optimizers.as_optax_computes():
        opt_state = jax.tree.map(_own, optimizers.transformation(optimizer).init(trained(params)))
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
        if self.chunk % (self.metrics_every or self.chunk):
            raise ValueError(f"metrics_every is {self.metrics_every}, which does not divide chunk = {self.chunk}.")
        if (self.evaluate_every or 0) % self.chunk:
            raise ValueError(f"evaluate_every is {self.evaluate_every}, not a multiple of chunk = {self.chunk}.")
        if self.patience is not None and self.best is None:
            raise ValueError("patience waits for a better held-out measure; name it, such as best='loss'.")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average is {self.average}; the decay is between 0 and 1, such as 0.999.")
        if self.nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite is {self.nonfinite!r}; choose 'stop' or 'skip'.")


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """The functions of a run; `fit` documents them. Equal if the functions are (`recognised`)."""

    loss: Callable[..., Any]
    optimizer: Any
    data: Callable[..., PyTree] | None  # None: batches come from a loader
    gradient: Callable[..., Any] | None
    held_out: Callable[..., PyTree] | None
    measure: Callable[..., Any] | None
    until: Callable[..., Any] | None
    health: Callable[..., Metrics] | None
    has_aux: bool
    has_key: bool

    @functools.cached_property
    def _recognised(self) -> Hashable:
        return recognised(list(vars(self).values()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self._recognised == other._recognised

    def __hash__(self) -> int:
        return hash(self._recognised)

    def of(self, setting: PyTree, names: Sequence[str]) -> "Problem":
        """The problem of one run of several: the functions with these names get `setting=`."""
        bound = {name: functools.partial(getattr(self, name), setting=setting) for name in names}
        return dataclasses.replace(self, optimizer=optimizers.transformation(self.optimizer, setting), **bound)


def recognised(value: Any) -> Hashable:
    """A cache key, which two values share only if they give the same program.

    A hashable value is its own key. Others are identified by type and current contents: JAX arrays, which are
    immutable, by identity, and NumPy arrays by value. If anything else in them has no hash, the key is unique.
    """
    if isinstance(value, types.MethodType):  # hashable even if its object is not
        return value.__func__, recognised(value.__self__)
    if isinstance(value, (tuple, list, dict)):
        return type(value), *map(recognised, value.items() if isinstance(value, dict) else value)
    if isinstance(value, jax.Array):
        return types.MethodType(id, value)  # compares the array by identity, and keeps it alive
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).digest()
    try:
        return hash(value), type(value), value  # 1, 1.0 and True are equal, but give different programs
    except TypeError:
        held = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        held |= {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return (type(value), recognised(held)) if held else object()


class Record(NamedTuple):
    """One update."""

    applied: Array  # [] bool
    tried: Array  # [] bool
    step: Array  # [] int32
    metrics: Metrics  # name to []
    finite: Array  # [leaves] bool


class Interval(NamedTuple):
    """The updates of one line of metrics."""

    metrics: Metrics  # name to []: means over the applied updates (NaN: none), the largest norm, health, skipped
    fault_step: Array  # [] int32, the first non-finite update, or -1
    fault: Array  # [leaves] bool, what was not finite in it


def data_key(key: Array, step: Array | int) -> Array:
    """The key for the data of a step; use it to reproduce the batches of a run."""
    return jax.random.fold_in(jax.random.fold_in(key, _DATA), step)


def dispatch(
    problem: Problem, options: FitOptions, state: TrainState, intervals: int, every: int, evaluates: bool
) -> tuple[TrainState, Interval, Metrics]:
    """The state after `intervals` times `every` updates, the lines `[intervals, ...]`, and any held-out measures."""

    def draw(state: TrainState) -> PyTree:
        assert problem.data is not None
        return problem.data(data_key(state.key, state.step // options.data_period), state.step)

    def one(state: TrainState, _: None) -> tuple[TrainState, Record]:
        return update(problem, options, state, draw(state))

    def line(state: TrainState, _: None) -> tuple[TrainState, Interval]:
        health = problem.health(state.params, draw(state)) if problem.health else {}
        state, records = lax.scan(one, state, None, length=every)
        return state, reduced(records, health)

    state, lines = lax.scan(line, state, None, length=intervals)
    state, measured = evaluated(problem, options, state) if evaluates else (state, {})
    return state, lines, measured


def update(problem: Problem, options: FitOptions, state: TrainState, batch: PyTree) -> tuple[TrainState, Record]:
    """One update; the parameters do not change if the run is over or something is not finite."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, _LOSS), state.step)

    def value_at(params: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
        return _unpacked(problem, state, _called(problem.loss, problem, options, state, params, batch, key))

    def differentiate(params: PyTree) -> tuple[tuple[Array, tuple[PyTree, Metrics]], PyTree]:
        """The result of the loss, and the gradient of the trained leaves."""
        if problem.gradient is None:
            return jax.value_and_grad(lambda seen: value_at(joined(seen, params)), has_aux=True)(trained(params))
        result, gradient = _called(problem.gradient, problem, options, state, params, batch, key)
        return _unpacked(problem, state, result), optimizers.cast(trained(params, gradient), trained(params))

    (value, (carry, metrics)), gradient = differentiate(state.params)
    params, opt_state = optimizers.update(
        problem.optimizer, gradient, state.opt_state, state.params, value,
        value_fn=lambda params: value_at(params)[0], grad_fn=lambda params: differentiate(params)[1],
    )  # fmt: skip
    finite = finite_by_leaf(value, gradient, (trained(params), opt_state), (trained(state.params), state.opt_state))
    ok, going, stops = finite.all(), _going(state), options.nonfinite == "stop"
    applied = going & ok
    tried = applied if stops else going
    new = state._replace(params=params, opt_state=opt_state, carry=lax.stop_gradient(carry))
    if options.average is not None:
        new = new._replace(average=optimizers.averaged(params, state.average, options.average, state.step))
    told = {"loss": value, "gradient_norm": norm(gradient)}
    for i, (was, clip) in enumerate(zip(clip_states(state.opt_state), clip_states(opt_state), strict=True)):
        number = f"_{i + 1}" if i else ""  # the share of clipped updates, and the norm after each clip
        told[f"clipped{number}"] = (clip.clipped - was.clipped).astype(clip.norm_after.dtype)
        told[f"gradient_norm_clipped{number}"] = clip.norm_after
    after = optax.tree.where(applied, new, state)._replace(
        step=state.step + tried.astype(state.step.dtype),
        skipped=state.skipped + (tried & ~ok).astype(state.step.dtype),
        stopped=jnp.where(going & ~ok, state.step, state.stopped) if stops else state.stopped,
    )
    return after, Record(applied, going, state.step, told | metrics, finite)


def _going(state: TrainState) -> Array:
    return ~state.done & (state.stopped == GOING_ON)


def _called(
    function: Any, problem: Problem, options: FitOptions, state: TrainState, params: PyTree, batch: PyTree, key: Array
) -> Any:
    """The result of a loss or a gradient, in the dtype of the computation."""

    def lowered(leaf: Any) -> Any:
        lowers = options.compute_dtype is not None and is_inexact(leaf) and not jnp.iscomplexobj(leaf)
        return jnp.asarray(leaf, options.compute_dtype) if lowers else leaf

    params, batch, carry = jax.tree.map(lowered, (params, batch, state.carry))
    named = ({} if carry is None else {"carry": carry}) | ({"key": key} if problem.has_key else {})
    return function(params, batch, **named)


def _unpacked(problem: Problem, state: TrainState, result: Any) -> tuple[Array, tuple[PyTree, Metrics]]:
    """`(value, (carry, metrics))` from the result of a loss, which must have the form that was announced."""
    form = ["loss"] + ["carry"] * (state.carry is not None) + ["metrics"] * problem.has_aux
    parts: Any = result if form[1:] else (result,)
    fits = isinstance(parts, tuple) and len(parts) == len(form)
    if not fits or (problem.has_aux and not isinstance(parts[-1], Mapping)):
        raise TypeError(
            f"the loss must return ({', '.join(form)}); got {type(result).__name__}. With has_aux=True it also returns "
            "a dict of scalars to report, and with a carry in `init_state` the next carry, second."
        )
    value, carry, metrics = parts[0], state.carry, parts[-1] if problem.has_aux else {}
    if isinstance(value, tuple):
        raise ValueError("the loss is a tuple (for metrics pass has_aux=True); it must be one number: take its mean.")
    for name, number in {"the loss": value, **{f"metric {name!r}": each for name, each in metrics.items()}}.items():
        if jnp.shape(number) != ():
            raise ValueError(f"{name} is {list(jnp.shape(number))}; it must be one number: take its mean.")
    value = jnp.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize < 4:
        value = value.astype(jnp.float32)
    carry = None if carry is None else optimizers.cast(parts[1], carry)
    return value, (carry, jax.tree.map(jnp.asarray, dict(metrics)))


def reduced(records: Record, health: Metrics) -> Interval:
    """One line of metrics from the records `[every]` of a scan, and the health at its start."""
    counted = records.applied.sum(dtype=jnp.int32)

    def mean(values: Array) -> Array:
        values = values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(jnp.float32)
        total = jnp.sum(jnp.where(records.applied, values, 0))
        return jnp.where(counted > 0, total / jnp.maximum(counted, 1).astype(values.dtype), jnp.nan)

    bad = records.tried & ~records.finite.all(axis=1)
    first = jnp.argmax(bad)
    largest = jnp.max(jnp.where(records.applied, records.metrics["gradient_norm"], 0))
    means = {name: mean(values) for name, values in records.metrics.items()}
    return Interval(
        metrics=means | {"gradient_norm_max": largest} | health | {"skipped": bad.sum(dtype=jnp.int32)},
        fault_step=jnp.where(bad.any(), records.step[first], GOING_ON),
        fault=~records.finite[first] & bad.any(),
    )


def evaluated(problem: Problem, options: FitOptions, state: TrainState) -> tuple[TrainState, Metrics]:
    """Means over the held-out batches, the same at every evaluation; the best step so far, and whether to stop."""
    held_out = problem.held_out
    if held_out is None:
        return state, {}
    key = jax.random.fold_in(state.key, _HELD_OUT)
    params = state.params if state.average is None else state.average

    def one(_: None, index: Array) -> tuple[None, Metrics]:
        held_key = jax.random.fold_in(key, index)
        batch = held_out(held_key, index)
        if problem.measure is not None:
            measured = problem.measure(params, batch)
            return None, measured if isinstance(measured, dict) else {"loss": measured}
        result = _called(problem.loss, problem, options, state, params, batch, held_key)
        value, (_, metrics) = _unpacked(problem, state, result)
        return None, {"loss": value, **metrics}

    _, each = lax.scan(one, None, jnp.arange(options.held_out_batches, dtype=jnp.int32))
    metrics, done, best = jax.tree.map(lambda values: jnp.mean(values, axis=0), each), state.done, state.best
    if best is not None:
        if options.best not in metrics:
            raise ValueError(f"best is {options.best!r}, but the held-out measures are {', '.join(metrics)}.")
        value, going = metrics[options.best].astype(jnp.float32), _going(state)
        better = going & (value > best.value if options.higher_is_better else value < best.value)
        stale = best._replace(stale=best.stale + going.astype(jnp.int32))
        best = optax.tree.where(better, Best(params, value, state.step, jnp.int32(0)), stale)
        if options.patience is not None:
            done |= (best.stale >= options.patience) & (state.stopped == GOING_ON)
    if problem.until is not None:
        done |= jnp.asarray(problem.until(metrics), bool)
    return state._replace(best=best, done=done), metrics

"""One update, and the compiled program of many updates: pure functions from state to state.

batch_t    = data(key_t, t)                              key_t = fold_in(key, t): the position is the step number
g_t        = ∂ loss(params_t, batch_t) / ∂ params
params_t+1 = params_t + optimizer(g_t)                   unless something is not finite; `optimizers.py` has the details
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree
from rnnjax.training.clipping import clip_states
from rnnjax.training.faults import finite_by_leaf, select
from rnnjax.training.norms import is_inexact, norm
from rnnjax.training.optimizers import averaged, joined, resolve, trained
from rnnjax.training.optimizers import update as optimizer_update
from rnnjax.training.programs import recognised
from rnnjax.training.state import GOING_ON, Best, FitOptions, TrainState

_DATA, _LOSS, _HELD_OUT = 0, 1, 2  # folded into the key, so that no two uses share one

Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """The functions of a run; `fit` documents their arguments. Equal if the functions are equal (`recognised`)."""

    loss: Callable[..., Any]
    optimizer: Any
    data: Any  # None: batches come from a loader
    gradient: Callable[..., Any] | None = None
    held_out: Callable[..., PyTree] | None = None
    measure: Callable[..., Any] | None = None
    until: Callable[..., Any] | None = None
    health: Callable[..., Metrics] | None = None
    has_aux: bool = False
    has_key: bool = False
    has_setting: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fields = ("loss", "data", "gradient", "held_out", "measure", "until", "health")
        unknown = [name for name in self.has_setting if getattr(self, name, None) is None or name not in fields]
        if unknown:
            raise ValueError(f"has_setting names {', '.join(unknown)}; it may name those given of {', '.join(fields)}.")

    @functools.cached_property
    def _recognised(self) -> Hashable:
        return recognised([getattr(self, field.name) for field in dataclasses.fields(self)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self._recognised == other._recognised

    def __hash__(self) -> int:
        return hash(self._recognised)

    def call(self, name: str, setting: PyTree, *args: Any, **named: Any) -> Any:
        """Calls one of the functions, with its run's setting if `has_setting` names it."""
        return getattr(self, name)(*args, **named, **({"setting": setting} if name in self.has_setting else {}))


class Interval(NamedTuple):
    """The metrics of the updates of one line, reduced inside the compiled program.

    Attributes:
      counted: `[]` int32, applied updates.
      means: name to `[]`: means over the applied updates; NaN if there are none.
      gradient_norm_max: `[]` over the applied updates.
      health: name to `[]`, at the first update of the interval.
      skipped: `[]` int32.
      fault_step: `[]` int32, the first non-finite update, or -1.
      fault: `[leaves]` bool, the non-finite leaves of that update.
    """

    counted: Array
    means: Metrics
    gradient_norm_max: Array
    health: Metrics
    skipped: Array
    fault_step: Array
    fault: Array


class Record(NamedTuple):
    """The record of one update."""

    applied: Array  # [] bool
    tried: Array  # [] bool
    step: Array  # [] int32
    metrics: Metrics  # name to []
    finite: Array  # [leaves] bool


def run_intervals(
    problem: Problem, options: FitOptions, state: TrainState, setting: PyTree, intervals: int, every: int
) -> tuple[TrainState, Interval]:
    """Runs `intervals` times `every` updates as nested scans; leaves of `Interval` get an axis `[intervals]`."""

    def draw(state: TrainState) -> PyTree:
        key = data_key(state.key, state.step // options.data_period)
        return problem.call("data", setting, key, state.step)

    def one(state: TrainState, _: None) -> tuple[TrainState, Record]:
        return update(problem, options, state, draw(state), setting)

    def interval(state: TrainState, _: None) -> tuple[TrainState, Interval]:
        health = problem.health and problem.call("health", setting, state.params, draw(state))
        state, records = lax.scan(one, state, None, length=every)
        return state, reduce(records, health or {})

    return lax.scan(interval, state, None, length=intervals)


def data_key(key: Array, step: Array | int) -> Array:
    """The key for the data of a step; use it to reproduce the batches of a run."""
    return jax.random.fold_in(jax.random.fold_in(key, _DATA), step)


def update(
    problem: Problem, options: FitOptions, state: TrainState, batch: PyTree, setting: PyTree
) -> tuple[TrainState, Record]:
    """One update; the parameters do not change if the run is over or something is not finite."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, _LOSS), state.step)
    optimizer = resolve(problem.optimizer, setting)

    def differentiate(params: PyTree) -> tuple[tuple[Array, PyTree, Metrics], PyTree]:
        """`((value, carry, metrics), gradient of the trained leaves)`, by `problem.gradient` if given."""
        if problem.gradient is None:

            def scalar(seen: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
                value, carry, metrics = evaluate(problem, options, state, joined(seen, params), batch, key, setting)
                return value, (carry, metrics)

            (value, (carry, metrics)), gradient = jax.value_and_grad(scalar, has_aux=True)(trained(params))
            return (value, carry, metrics), gradient
        low, named = _arguments(problem, options, state, params, batch, key)
        result, gradient = problem.call("gradient", setting, *low, **named)
        gradient = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), trained(params, gradient), trained(params))
        return _unpacked(problem, state, result), gradient

    (value, carry, metrics), gradient = differentiate(state.params)
    params, opt_state = optimizer_update(
        optimizer,
        gradient,
        state.opt_state,
        state.params,
        value=value,
        value_fn=lambda params: evaluate(problem, options, state, params, batch, key, setting)[0],
        gradient_fn=lambda params: differentiate(params)[1],
    )
    finite = finite_by_leaf(value, gradient, (trained(params), opt_state), (trained(state.params), state.opt_state))
    ok = finite.all()
    going = ~state.done & (state.stopped == GOING_ON)
    applied = going & ok
    step = state.step
    stops = options.nonfinite == "stop"
    tried = applied if stops else going
    average = state.average
    if options.average is not None:
        average = averaged(params, average, options.average, step)
    new = {"params": params, "opt_state": opt_state, "carry": lax.stop_gradient(carry), "average": average}
    metrics = {"loss": value, "gradient_norm": norm(gradient), **clip_metrics(state.opt_state, opt_state), **metrics}
    state = state._replace(
        **select(applied, new, {name: getattr(state, name) for name in new}),
        step=step + tried.astype(step.dtype),
        skipped=state.skipped + (tried & ~ok).astype(step.dtype),
        stopped=jnp.where(going & ~ok, step, state.stopped) if stops else state.stopped,
    )
    return state, Record(applied, going, step, metrics, finite)


def evaluate(
    problem: Problem, options: FitOptions, state: TrainState, params: PyTree, batch: PyTree, key: Array, setting: PyTree
) -> tuple[Array, PyTree, Metrics]:
    """`(value, carry, metrics)` of the loss."""
    low, named = _arguments(problem, options, state, params, batch, key)
    return _unpacked(problem, state, problem.call("loss", setting, *low, **named))


def _arguments(
    problem: Problem, options: FitOptions, state: TrainState, params: PyTree, batch: PyTree, key: Array
) -> tuple[tuple[PyTree, PyTree], dict[str, Any]]:
    """What a loss or a gradient is called with, in the dtype of the computation."""

    def cast(leaf: Any) -> Any:
        lowers = options.compute_dtype is not None and is_inexact(leaf) and not jnp.iscomplexobj(leaf)
        return jnp.asarray(leaf, options.compute_dtype) if lowers else leaf

    params, batch, carry = jax.tree.map(cast, (params, batch, state.carry))
    named = {} if state.carry is None else {"carry": carry}
    return (params, batch), named | ({"key": key} if problem.has_key else {})


def _unpacked(problem: Problem, state: TrainState, result: Any) -> tuple[Array, PyTree, Metrics]:
    """`(value, carry, metrics)` from the result of a loss.

    Raises:
      TypeError: the result does not have the form that `has_aux` and the carry demand.
      ValueError: the value or a metric is not a scalar.
    """
    has_carry = state.carry is not None
    form = ["loss"] + ["carry"] * has_carry + ["metrics"] * problem.has_aux
    parts: Any = result if len(form) > 1 else (result,)
    metrics = parts[-1] if problem.has_aux and isinstance(parts, tuple) else {}
    if not isinstance(parts, tuple) or len(parts) != len(form) or not isinstance(metrics, Mapping):
        raise TypeError(
            f"the loss must return {'(' + ', '.join(form) + ')' if form[1:] else 'one number'}; got "
            f"{type(result).__name__}. With has_aux=True it also returns a dict of scalars to report, and with a carry "
            "in `init_state` the next carry, second."
        )
    value = jnp.asarray(parts[0]) if not isinstance(parts[0], tuple) else None
    if value is None or value.shape != ():
        got = "a tuple (for metrics pass has_aux=True)" if value is None else list(value.shape)
        raise ValueError(f"the loss is {got}; it must be one number: take its mean.")
    for name, metric in metrics.items():
        if jnp.shape(metric) != ():
            raise ValueError(f"metric {name!r} is {list(jnp.shape(metric))}; it must be one number.")
    carry = state.carry
    if has_carry:
        carry = jax.tree.map(lambda new, old: new.astype(old.dtype) if new.dtype != old.dtype else new, parts[1], carry)
    half = jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize < 4
    return (
        value.astype(jnp.float32) if half else value,
        carry,
        {name: jnp.asarray(metric) for name, metric in metrics.items()},
    )


def clip_metrics(before: PyTree, after: PyTree) -> Metrics:
    """For each clip in the optimizer, the share of clipped updates and the norm after it; later ones are numbered."""
    found: Metrics = {}
    for i, (old, new) in enumerate(zip(clip_states(before), clip_states(after), strict=True)):
        number = f"_{i + 1}" if i else ""
        found[f"clipped{number}"] = (new.clipped - old.clipped).astype(new.norm_after.dtype)
        found[f"gradient_norm_clipped{number}"] = new.norm_after
    return found


def reduce(records: Record, health: Metrics) -> Interval:
    """Reduces the records `[every]` of a scan to one line of metrics."""
    counted = records.applied.sum(dtype=jnp.int32)

    def mean(values: Array) -> Array:
        values = values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(jnp.float32)
        total = jnp.sum(jnp.where(records.applied, values, 0))
        return jnp.where(counted > 0, total / jnp.maximum(counted, 1).astype(values.dtype), jnp.nan)

    bad = records.tried & ~records.finite.all(axis=1)
    first = jnp.argmax(bad)
    norms = records.metrics["gradient_norm"]
    return Interval(
        counted=counted,
        means={name: mean(values) for name, values in records.metrics.items()},
        gradient_norm_max=jnp.max(jnp.where(records.applied, norms, 0)),
        health=health,
        skipped=bad.sum(dtype=jnp.int32),
        fault_step=jnp.where(bad.any(), records.step[first], GOING_ON),
        fault=~records.finite[first] & bad.any(),
    )


def evaluate_held_out(
    problem: Problem, options: FitOptions, state: TrainState, setting: PyTree
) -> tuple[TrainState, Metrics]:
    """Means over the held-out batches, the same at every evaluation; the best step so far, and whether to stop."""
    if problem.held_out is None:
        return state, {}
    key = jax.random.fold_in(state.key, _HELD_OUT)
    params = state.params if state.average is None else state.average

    def one(_: None, index: Array) -> tuple[None, Metrics]:
        held_key = jax.random.fold_in(key, index)
        batch = problem.call("held_out", setting, held_key, index)
        if problem.measure is not None:
            measured = problem.call("measure", setting, params, batch)
            return None, measured if isinstance(measured, dict) else {"loss": measured}
        value, _, metrics = evaluate(problem, options, state, params, batch, held_key, setting)
        return None, {"loss": value, **metrics}

    _, each = lax.scan(one, None, jnp.arange(options.held_out_batches, dtype=jnp.int32))
    metrics = jax.tree.map(lambda values: jnp.mean(values, axis=0), each)
    done = state.done
    if options.best is not None:
        if options.best not in metrics:
            raise ValueError(f"best is {options.best!r}, but the held-out measures are {', '.join(metrics)}.")
        assert state.best is not None
        value = metrics[options.best].astype(jnp.float32)
        better = value > state.best.value if options.higher_is_better else value < state.best.value
        going = ~done & (state.stopped == GOING_ON)
        better &= going
        new = Best(params, value, state.step, jnp.zeros((), jnp.int32))
        best = select(better, new, state.best._replace(stale=state.best.stale + going.astype(jnp.int32)))
        state = state._replace(best=best)
        if options.patience is not None:
            done |= (best.stale >= options.patience) & (state.stopped == GOING_ON)
    if problem.until is not None:
        done |= jnp.asarray(problem.call("until", setting, metrics), bool)
    return state._replace(done=done), metrics

"""One update, and the compiled program of many updates: pure functions from state to state.

batch_t    = data(key_t, t)                              key_t = fold_in(key, t): the position is the step number
g_t        = ∂ loss(params_t, batch_t) / ∂ params
params_t+1 = params_t + optimizer(g_t)                   unless something is not finite; `optimizers.py` has the details
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree
from rnnjax.training.clipping import clip_states
from rnnjax.training.faults import finite_by_leaf, select
from rnnjax.training.losses import Metrics, asks_for, unpack, with_extras
from rnnjax.training.norms import norm
from rnnjax.training.optimizers import joined, resolve, trained
from rnnjax.training.optimizers import update as optimizer_update
from rnnjax.training.programs import recognised
from rnnjax.training.state import GOING_ON, FitOptions, TrainState

_DATA, _LOSS, _HELD_OUT = 0, 1, 2  # folded into the key, so that no two uses share one


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

    @functools.cached_property
    def _recognised(self) -> Hashable:
        return recognised([getattr(self, field.name) for field in dataclasses.fields(self)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self._recognised == other._recognised

    def __hash__(self) -> int:
        return hash(self._recognised)


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
      stopped: `[]`, done: `[]`: from the state at the end.
    """

    counted: Array
    means: Metrics
    gradient_norm_max: Array
    health: Metrics
    skipped: Array
    fault_step: Array
    fault: Array


def run_intervals(
    problem: Problem, options: FitOptions, state: TrainState, setting: PyTree, intervals: int, every: int
) -> tuple[TrainState, Interval]:
    """Runs `intervals` times `every` updates as nested scans; leaves of `Interval` get an axis `[intervals]`."""

    def interval(state: TrainState, _: None) -> tuple[TrainState, Interval]:
        health = {}
        if problem.health is not None:
            health = measured_health(problem, state, draw(problem, options, state, setting), setting)
        state, records = lax.scan(one, state, None, length=every)
        return state, reduce(records, health)

    def one(state: TrainState, _: None) -> tuple[TrainState, Record]:
        return update(problem, options, state, draw(problem, options, state, setting), setting)

    return lax.scan(interval, state, None, length=intervals)


def draw(problem: Problem, options: FitOptions, state: TrainState, setting: PyTree) -> PyTree:
    """The batch of the state's step."""
    key = data_key(state.key, state.step // options.data_period)
    return with_extras(problem.data, {"carry": state.carry, "setting": setting})(key, state.step)


def measured_health(problem: Problem, state: TrainState, batch: PyTree, setting: PyTree) -> Metrics:
    """The measures of `health` at the present parameters."""
    return with_extras(problem.health, _extras(state, setting))(state.params, batch)  # pyright: ignore[reportArgumentType]


def _extras(state: TrainState, setting: PyTree) -> dict[str, Any]:
    key = jax.random.fold_in(jax.random.fold_in(state.key, _LOSS), state.step)
    return {"carry": state.carry, "setting": setting, "key": key}


def data_key(key: Array, step: Array) -> Array:
    """The key for the data of a step; use it to reproduce the batches of a run."""
    return jax.random.fold_in(jax.random.fold_in(key, _DATA), step)


class Record(NamedTuple):
    """The record of one update."""

    applied: Array  # [] bool
    tried: Array  # [] bool
    step: Array  # [] int32
    metrics: Metrics  # name to []
    finite: Array  # [leaves] bool


def update(
    problem: Problem, options: FitOptions, state: TrainState, batch: PyTree, setting: PyTree
) -> tuple[TrainState, Record]:
    """One update; the parameters do not change if the run is over or something is not finite."""
    extras = _extras(state, setting)
    optimizer = resolve(problem.optimizer, setting)
    (value, carry, metrics), gradient = differentiate(problem, state.params, batch, extras)
    params, opt_state = optimizer_update(
        optimizer,
        gradient,
        state.opt_state,
        state.params,
        value=value,
        value_fn=lambda params: evaluate(problem, params, batch, extras)[0],
        gradient_fn=lambda params: differentiate(problem, params, batch, extras)[1],
    )
    before = (trained(state.params), state.opt_state)
    finite = finite_by_leaf(value, gradient, (trained(params), opt_state), before)
    ok = finite.all()
    going = ~state.done & (state.stopped == GOING_ON)
    applied = going & ok
    step = state.step
    stops = options.nonfinite == "stop"
    tried = applied if stops else going
    kept = select(applied, (params, opt_state, carry), (state.params, state.opt_state, state.carry))
    metrics = {"loss": value, "gradient_norm": norm(gradient), **clip_metrics(state.opt_state, opt_state), **metrics}
    state = state._replace(
        params=kept[0],
        opt_state=kept[1],
        carry=kept[2],
        step=step + tried.astype(step.dtype),
        skipped=state.skipped + (tried & ~ok).astype(step.dtype),
        stopped=jnp.where(going & ~ok, step, state.stopped) if stops else state.stopped,
    )
    return state, Record(applied, going, step, metrics, finite)


def differentiate(
    problem: Problem, params: PyTree, batch: PyTree, extras: dict[str, Any]
) -> tuple[tuple[Array, PyTree, Metrics], PyTree]:
    """`((value, carry, metrics), gradient of the trained leaves)`, by `problem.gradient` if given."""
    has_carry = asks_for(problem.loss if problem.gradient is None else problem.gradient, "carry")
    if problem.gradient is not None:
        result, gradient = with_extras(problem.gradient, extras)(params, batch)
        value, carry, metrics = unpack(result, has_carry)
        gradient = trained(params, gradient)
    else:

        def scalar(seen: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
            value, carry, metrics = evaluate(problem, joined(seen, params), batch, extras)
            return value, (carry, metrics)

        (value, (carry, metrics)), gradient = jax.value_and_grad(scalar, has_aux=True)(trained(params))
    carry = lax.stop_gradient(carry) if has_carry else extras["carry"]
    return (value, carry, metrics), gradient


def evaluate(problem: Problem, params: PyTree, batch: PyTree, extras: dict[str, Any]) -> tuple[Array, PyTree, Metrics]:
    """`(value, carry, metrics)` of the loss."""
    return unpack(with_extras(problem.loss, extras)(params, batch), asks_for(problem.loss, "carry"))


def clip_metrics(before: PyTree, after: PyTree) -> Metrics:
    """The share of clipped updates and the norm after clipping, of the first clip in the optimizer."""
    old, new = clip_states(before), clip_states(after)
    if not new:
        return {}
    dtype = new[0].norm_after.dtype
    return {"clipped": (new[0].clipped - old[0].clipped).astype(dtype), "gradient_norm_clipped": new[0].norm_after}


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
    """Means over the held-out batches, which are the same at every evaluation, and the stopping criterion."""
    if problem.held_out is None:
        return state, {}
    key = jax.random.fold_in(state.key, _HELD_OUT)
    extras: dict[str, Any] = {"carry": state.carry, "setting": setting}

    def one(_: None, index: Array) -> tuple[None, Metrics]:
        held_key = jax.random.fold_in(key, index)
        batch = with_extras(problem.held_out, extras)(held_key, index)  # pyright: ignore[reportArgumentType]
        with_key = {**extras, "key": held_key}
        if problem.measure is not None:
            measured = with_extras(problem.measure, with_key)(state.params, batch)
            return None, measured if isinstance(measured, dict) else {"loss": measured}
        value, _, metrics = evaluate(problem, state.params, batch, with_key)
        return None, {"loss": value, **metrics}

    _, each = lax.scan(one, None, jnp.arange(options.held_out_batches, dtype=jnp.int32))
    metrics = jax.tree.map(lambda values: jnp.mean(values, axis=0), each)
    if problem.until is not None:
        met = jnp.asarray(problem.until(metrics), bool)
        state = state._replace(done=state.done | met)
    return state, metrics

"""One update, and the compiled program of many: a pure function from state to state.

batch_t    = data(key_t, t)                              key_t = fold_in(key, t): the position is the step number
g_t        = ∂ loss(params_t, batch_t) / ∂ params
params_t+1 = params_t + optimizer(g_t)                   unless something is not finite
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from rnnjax.cell import PyTree
from rnnjax.training.clipping import clip_states
from rnnjax.training.faults import finite_by_leaf, select
from rnnjax.training.losses import EXTRAS, Metrics, asks_for, unpack, with_extras
from rnnjax.training.norms import norm
from rnnjax.training.state import GOING_ON, FitOptions, TrainState

_DATA, _LOSS, _HELD_OUT = 0, 1, 2  # what a key is folded with, so that no two uses share one


@dataclasses.dataclass(frozen=True)
class Problem:
    """The functions of a run; see `fit` for what each is given."""

    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation | Callable[..., optax.GradientTransformation]
    data: Callable[..., PyTree]
    gradient: Callable[..., Any] | None = None
    held_out: Callable[..., PyTree] | None = None
    measure: Callable[..., Any] | None = None
    until: Callable[..., Any] | None = None
    health: Callable[..., Metrics] | None = None


class Interval(NamedTuple):
    """The metrics of the updates between two lines, reduced where they were made.

    Attributes:
      counted: `[]` int32, updates applied.
      means: name to `[]`: means over the updates applied; NaN if there was none.
      gradient_norm_max: `[]` over the updates applied.
      health: name to `[]`, at the first update of the interval.
      skipped: `[]` int32.
      fault_step: `[]` int32, the first update that was not finite, or -1.
      fault: `[leaves]` bool, what was not finite there.
      stopped: `[]`, done: `[]`: the state's, at the end.
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
    """`intervals` times `every` updates as one scan of scans; every leaf of the `Interval` gains `[intervals]`."""

    def interval(state: TrainState, _: None) -> tuple[TrainState, Interval]:
        health = {}
        if problem.health is not None:
            batch, extras = draw(problem, options, state, setting)
            health = with_extras(problem.health, extras)(state.params, batch)
        state, records = lax.scan(lambda s, _: update(problem, options, s, setting), state, None, length=every)
        return state, reduce(records, health)

    return lax.scan(interval, state, None, length=intervals)


def draw(problem: Problem, options: FitOptions, state: TrainState, setting: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """The batch of the state's step, and what a loss may ask for by name."""
    key_data = jax.random.fold_in(jax.random.fold_in(state.key, _DATA), state.step // options.data_period)
    extras: dict[str, Any] = {"carry": state.carry, "setting": setting}
    batch = with_extras(problem.data, extras)(key_data, state.step)
    extras["key"] = jax.random.fold_in(jax.random.fold_in(state.key, _LOSS), state.step)
    return batch, extras


class Record(NamedTuple):
    """What one update leaves behind."""

    applied: Array  # [] bool
    tried: Array  # [] bool
    step: Array  # [] int32
    metrics: Metrics  # name to []
    finite: Array  # [leaves] bool


def update(problem: Problem, options: FitOptions, state: TrainState, setting: PyTree) -> tuple[TrainState, Record]:
    """One update of the parameters, or of nothing where the run is over or something is not finite."""
    batch, extras = draw(problem, options, state, setting)
    optimizer = resolve(problem.optimizer, setting)
    (value, carry, metrics), gradient = differentiate(problem, state.params, batch, extras)
    with jax.numpy_dtype_promotion("standard"):  # Adam, among others, multiplies its count with floats
        change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = cast(PyTree, optax.apply_updates(state.params, change))
    finite = finite_by_leaf(value, gradient, params, opt_state)
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
    """`((value, carry, metrics), gradient)`, by `problem.gradient` where it is given."""
    has_carry = asks_for(problem.loss, "carry")
    if problem.gradient is not None:
        result, gradient = with_extras(problem.gradient, extras)(params, batch)
        has_carry = asks_for(problem.gradient, "carry")
        value, carry, metrics = unpack(result, has_carry)
    else:

        def scalar(params: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
            value, carry, metrics = unpack(with_extras(problem.loss, extras)(params, batch), has_carry)
            return value, (carry, metrics)

        (value, (carry, metrics)), gradient = jax.value_and_grad(scalar, has_aux=True)(params)
    carry = lax.stop_gradient(carry) if has_carry else extras["carry"]
    return (value, carry, metrics), gradient


def clip_metrics(before: PyTree, after: PyTree) -> Metrics:
    """Share of clipped updates and the norm that came out, of the first clip in the optimizer."""
    old, new = clip_states(before), clip_states(after)
    if not new:
        return {}
    dtype = new[0].norm_after.dtype
    return {"clipped": (new[0].clipped - old[0].clipped).astype(dtype), "gradient_norm_clipped": new[0].norm_after}


def reduce(records: Record, health: Metrics) -> Interval:
    """A scan's records `[every]` to one line."""
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


def look(problem: Problem, options: FitOptions, state: TrainState, setting: PyTree) -> tuple[TrainState, Metrics]:
    """Means over held-out batches, which are the same at every look, and the criterion on them."""
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
        has_carry = asks_for(problem.loss, "carry")
        value, _, metrics = unpack(with_extras(problem.loss, with_key)(state.params, batch), has_carry)
        return None, {"loss": value, **metrics}

    _, each = lax.scan(one, None, jnp.arange(options.held_out_batches, dtype=jnp.int32))
    metrics = jax.tree.map(lambda values: jnp.mean(values, axis=0), each)
    if problem.until is not None:
        met = jnp.asarray(problem.until(metrics), bool)
        state = state._replace(done=state.done | met)
    return state, metrics


def resolve(optimizer: Any, setting: PyTree) -> optax.GradientTransformation:
    """The optimizer itself, or what a function of the setting makes."""
    return optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(setting)


__all__ = ["EXTRAS", "Interval", "Problem", "Record", "look", "resolve", "run_intervals", "update"]

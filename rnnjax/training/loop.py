"""`fit`: many updates to a dispatch, watched from outside between dispatches."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from rnnjax.cell import PyTree
from rnnjax.training.faults import NonFiniteError, names
from rnnjax.training.metrics import JsonLines, plain
from rnnjax.training.state import GOING_ON, FitOptions, TrainState
from rnnjax.training.steps import Interval, Problem, look, run_intervals

Line = dict[str, Any]
"""One line of metrics: "step" (updates so far), "loss", "gradient_norm", ..."""


class Fitted(NamedTuple):
    """What `fit` gives back.

    Attributes:
      state: the `TrainState` after the last update.
      history: the lines of metrics, oldest first.
    """

    state: TrainState
    history: list[Line]


def fit(
    loss: Callable[..., Any],
    state: TrainState,
    optimizer: optax.GradientTransformation,
    data: Callable[..., PyTree],
    options: FitOptions,
    *,
    gradient: Callable[..., Any] | None = None,
    held_out: Callable[..., PyTree] | None = None,
    measure: Callable[..., Any] | None = None,
    until: Callable[..., Any] | None = None,
    health: Callable[..., dict[str, Any]] | None = None,
    report: Callable[[Line], None] | None = None,
    log: str | os.PathLike[str] | None = None,
) -> Fitted:
    """Trains: `options.steps` updates, a chunk of them in each dispatch, each a pure function of the one before.

        θ_{t+1} = θ_t + optimizer(∇ loss(θ_t, data(key_t, t)))

    Data is a function of a key and of the step, so it is drawn inside the compiled loop, needs no loader, and a run
    that resumes at step t sees what it would have seen. A fixed data set is a function that draws indices.

    Args:
      loss: `(params, batch) -> []`, or `([], metrics)` with a dict of scalars to report. It may ask by name for `key`
        (fresh at every step) and for `carry`: then it returns `(loss, carry)` or `(loss, carry, metrics)`, and the
        carry, cut off from the gradient, goes into the next step.
      state: from `init_state`, or the state of an earlier `fit`, which goes on from its step.
      optimizer: any Optax transformation; put a clip of `rnnjax.training` in front with `optax.chain`.
      data: `(key, step) -> batch`, any pytree; `key` is fresh every `options.data_period` steps.
      options: `FitOptions`.
      gradient: in place of differentiating `loss`: `(params, batch, ...) -> (what loss returns, gradient)`, such as
        `rnnjax.sharding.value_and_grad(...)`, or one that adds a term of its own to the gradient.
      held_out: `(key, index) -> batch`, looked at after each chunk; the same batches at every look.
      measure: `(params, batch) -> []` or a dict of scalars, on held-out batches; the loss if None.
      until: `(held-out metrics) -> bool`, traced: training is done once it holds.
      health: `(params, batch) -> dict of scalars`, at the first update of each line: `rnnjax.training.adjoint_health`.
      report: called with each line of metrics, as it comes.
      log: a file for the lines as JSON. What is there is kept up to the step that `state` comes in with.
    Returns:
      `Fitted(state, history)`.
    Raises:
      NonFiniteError: with `nonfinite="stop"`; names step and leaf, and holds the last good state and the history.
      ValueError, TypeError: a loss that is not one number, options that do not fit.

    Example: a line through the origin, w = 3.

      >>> import jax, jax.numpy as jnp, optax
      >>> from rnnjax.training import clip_by_global_norm, init_state
      >>> def data(key, step):
      ...     x = jax.random.normal(key, (16,))
      ...     return x, 3.0 * x
      >>> def loss(w, batch):
      ...     return jnp.mean((w * batch[0] - batch[1]) ** 2)
      >>> rule = optax.chain(clip_by_global_norm(1.0), optax.sgd(0.1))
      >>> state = init_state(jnp.array(0.0), rule, jax.random.key(0))
      >>> state, history = fit(loss, state, rule, data, FitOptions(steps=200, chunk=50))
      >>> round(float(state.params), 3), [line["step"] for line in history], sorted(history[0])[:2]
      (3.0, [50, 100, 150, 200], ['clipped', 'gradient_norm'])
    """
    problem = Problem(loss, optimizer, data, gradient, held_out, measure, until, health)
    program = _compiled(problem, options)
    history: list[Line] = []
    lines = None if log is None else JsonLines(log, keep_until=int(state.step))
    leaves = names(state.params, state.opt_state)

    def tell(line: Line) -> None:
        history.append(line)
        if lines is not None:
            lines.write(line)
        if report is not None:
            report(line)

    try:
        for intervals, every in pieces(int(state.step), options):
            before = int(state.step)
            state, interval, held = program(state, intervals, every)
            _tell_lines(tell, before, every, jax.device_get(interval), jax.device_get(held), leaves)
            if int(state.stopped) != GOING_ON:
                fault = _first_fault(interval, leaves)
                raise NonFiniteError(int(state.stopped), fault, state._replace(stopped=_going(state)), history)
            if bool(state.done):
                break
    finally:
        if lines is not None:
            lines.close()
    return Fitted(state, history)


def pieces(step: int, options: FitOptions) -> Iterator[tuple[int, int]]:
    """`(intervals, updates in each)` of the dispatches from `step` on; they end at multiples of the chunk.

    So a run that resumes makes the same dispatches as one that was never interrupted. A second program is compiled only
    where `steps` is no multiple of the chunk.

    Example:

      >>> list(pieces(0, FitOptions(steps=250, chunk=100, metrics_every=20)))
      [(5, 20), (5, 20), (2, 20), (1, 10)]
    """
    every = options.interval
    while step < options.steps:
        size = min(options.chunk - step % options.chunk, options.steps - step)
        short = min(-step % every, size)  # up to the next line, if a state comes in between two
        if short:
            yield 1, short
        elif size >= every:
            yield size // every, every
        else:
            yield 1, size
        step += short or size // every * every or size


def _compiled(problem: Problem, options: FitOptions) -> Callable[..., tuple[TrainState, Interval, dict[str, Any]]]:
    def run(state: TrainState, intervals: int, every: int) -> tuple[TrainState, Interval, dict[str, Any]]:
        state, interval = run_intervals(problem, options, state, None, intervals, every)
        state, held = look(problem, options, state, None)
        return state, interval, held

    return jax.jit(run, static_argnums=(1, 2))


def _tell_lines(
    tell: Callable[[Line], None],
    before: int,
    every: int,
    interval: Interval,
    held: dict[str, Any],
    leaves: tuple[str, ...],
) -> None:
    count = len(interval.counted)
    for i in range(count):
        step = before + (i + 1) * every
        line: Line = {"step": step}
        line |= {name: plain(values[i]) for name, values in interval.means.items()}
        line["gradient_norm_max"] = plain(interval.gradient_norm_max[i])
        line |= {name: plain(values[i]) for name, values in interval.health.items()}
        line["skipped"] = int(interval.skipped[i])
        if int(interval.fault_step[i]) != GOING_ON:
            line["not_finite_step"] = int(interval.fault_step[i])
            line["not_finite"] = [name for name, bad in zip(leaves, interval.fault[i], strict=True) if bad]
        if i == count - 1:
            line |= {f"held_out_{name}": plain(value) for name, value in held.items()}
        tell(line)


def _first_fault(interval: Interval, leaves: tuple[str, ...]) -> list[str]:
    where = int(np.argmax(np.asarray(interval.fault_step) != GOING_ON))
    return [name for name, bad in zip(leaves, np.asarray(interval.fault)[where], strict=True) if bad]


def _going(state: TrainState) -> Any:
    return jax.numpy.full_like(state.stopped, GOING_ON)

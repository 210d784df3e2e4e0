"""`fit`: many updates per dispatch, with logging, evaluation and checkpoints between dispatches."""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from rnnjax import processes
from rnnjax.cell import PyTree
from rnnjax.training.checkpoints import Checkpoints, CheckpointWarning
from rnnjax.training.faults import NonFiniteError, names
from rnnjax.training.flat import CheckpointError, local
from rnnjax.training.interrupts import listening
from rnnjax.training.loader import DataError, Loader, check_pure
from rnnjax.training.metrics import JsonLines
from rnnjax.training.parallel import as_before
from rnnjax.training.state import GOING_ON, FitOptions, TrainState, given_back, prepared
from rnnjax.training.steps import (
    Problem,
    Record,
    data_key,
    evaluate_held_out,
    reduce,
    run_intervals,
    update,
)
from rnnjax.training.watch import Line, Watch, first_fault, progress_bar


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
      state: the `TrainState` after the last update, from which to go on.
      history: the lines of metrics, oldest first.
      params: the parameters to use: of the best step if it was kept, or their moving average, or the last.
    """

    state: TrainState
    history: list[Line]

    @property
    def params(self) -> PyTree:
        return given_back(self.state)


def fit(
    loss: Callable[..., Any],
    state: TrainState,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    data: Callable[..., PyTree] | Iterable[PyTree],
    options: FitOptions,
    *,
    has_aux: bool = False,
    has_key: bool = False,
    gradient: Callable[..., Any] | None = None,
    held_out: Callable[..., PyTree] | None = None,
    measure: Callable[..., Any] | None = None,
    until: Callable[..., Any] | None = None,
    health: Callable[..., dict[str, Any]] | None = None,
    report: Callable[[Line], None] | None = None,
    bar: bool = False,
    log: str | os.PathLike[str] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Trains for `options.steps` updates, many per dispatch.

        θ_{t+1} = θ_t + optimizer(∇ loss(θ_t, data(key_t, t)))

    A data function of a key and the step is drawn inside the compiled loop, and a run that resumes at step t gets the
    same data as one that was never interrupted. For a fixed data set, draw indices. An iterator or loader gives a batch
    per update, which is one dispatch, and the next batch is drawn meanwhile.

    Args:
      loss: `(params, batch) -> []`. If the state has a carry (`init_state`), `loss(params, batch, carry=)` returns
        `(loss, carry)`, and the carry is passed to the next step without a gradient.
      has_aux: the loss also returns, last, a dict of scalars to report: `(loss, metrics)` or `(loss, carry, metrics)`.
      has_key: the loss also takes `key=`, fresh at every step.
      state: from `init_state`, or the state of an earlier `fit`, which continues from its step.
      optimizer: any Optax transformation, or an object with `init` and `update`; put clipping from `rnnjax.training`
        before it with `optax.chain`, and accumulate gradients over k batches with `optax.MultiSteps`. If it accepts
        them, its `update` receives `value` (the loss), `grad`, `value_fn` and `obj_fn` (the loss of the same batch and
        key at other parameters), and `grad_fn` (its gradient). For complex parameters the gradient is the conjugate of
        `jax.grad`'s, so that the loss decreases, and `grad` is that of `jax.grad`, as Optax expects. docs/optimizers.md
        lists the supported optimizers.
      data: `(key, step) -> batch`, any pytree, a pure function; `key` changes every `options.data_period` steps. Or an
        iterator of batches, or an iterable such as a PyTorch `DataLoader`, which starts again when it ends. With
        `checkpoints`, the state of an iterator or loader with `get_state` and `set_state`, or `state_dict` and
        `load_state_dict`, is saved and restored; of others, a resumed run draws and drops the batches before its step.
      options: `FitOptions`.
      gradient: replaces the differentiation of `loss`: called as `loss` is, `-> (what loss returns, gradient)`, such as
        `rnnjax.sharding.value_and_grad(...)`, or a function that adds a term to the gradient (for complex parameters in
        the convention of `jax.grad`).
      held_out: `(key, index) -> batch`, the same batches at every evaluation (`options.evaluate_every`).
      measure: `(params, batch) -> []` or a dict of scalars, for held-out batches; the loss if None.
      until: `(held-out metrics) -> bool`, traced; training stops once it is True.
      health: `(params, batch) -> dict of scalars`, at the first update of each line of metrics, such as
        `rnnjax.training.adjoint_health`.
      report: called with each line of metrics.
      bar: shows progress and the last losses in the terminal, with rich.
      log: a JSON-lines file for the metrics, written by process 0. Existing lines up to the first step are kept.
      checkpoints: where to save. If the folder has checkpoints, training resumes from the newest good one instead of
        `state`, and gives the same bits as an uninterrupted run. SIGTERM and Ctrl-C save after the current dispatch and
        exit; a second Ctrl-C exits at once.
    Returns:
      `Fitted(state, history)`.
    Raises:
      NonFiniteError: a step was not finite, with `nonfinite="stop"`; has the step, the leaf, the last good state and
        the history.
      DataError: the iterator or loader ended, raised, or gave another shape; has the state and the history.
      CheckpointError: the folder cannot be used, or has another model or config; or the last step could not be saved
        (then the progress is in `error.state` and `error.history`).
      ValueError, TypeError: the loss is not a scalar, `data` is impure, or options are inconsistent.

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
    loader = None if callable(data) else Loader(data, options.shapes, int(state.step), checkpoints is not None)
    functions = (gradient, held_out, measure, until, health)
    problem = Problem(loss, optimizer, None if loader else data, *functions, has_aux, has_key)
    if options.best is not None and held_out is None:
        raise ValueError("the best step is that of a held-out measure: pass `held_out`.")
    state = prepared(state, options)
    make = _compiled if loader is None else functools.partial(_fed, loader)
    program: Callable[..., Any] = make(
        problem, dataclasses.replace(options, steps=1, chunk=1, metrics_every=None, evaluate_every=None)
    )
    leaves = names(state.params, state.opt_state)
    with contextlib.ExitStack() as stack:
        store = request = None
        if checkpoints is not None:
            store = stack.enter_context(checkpoints.opened())
            request = stack.enter_context(listening())
            found, position = store.load(state)
            if found is not None and loader is not None:
                loader.go_to(position, int(found.step))
            state = found or state
        if log is not None and not processes.is_coordinator():
            log = None
        show = stack.enter_context(progress_bar(bar and processes.is_coordinator(), int(state.step), options.steps))
        watch = Watch(
            [each for each in (report, show) if each],
            None if log is None else JsonLines(log, keep_until=int(state.step)),
        )
        stack.callback(watch.close)
        saved = int(state.step) if store is not None else None
        for intervals, every in pieces(int(state.step), options):
            before = int(state.step)
            if bool(state.done):
                break
            look = options.evaluates(before, before + intervals * every)
            new, interval, held, failed = program(state, intervals, every, look)
            state = as_before(new, state)
            interval, held = jax.device_get((interval, held))
            fault, now = int(state.stopped), int(state.step)
            if not (failed and now == before):
                watch.lines(before, every, interval, held, leaves, now if failed else options.steps)
            if fault != GOING_ON:
                state = state._replace(stopped=jnp.full_like(state.stopped, GOING_ON))
            if request is not None:  # all processes exit if one received a signal
                request.signal = processes.largest(request.signal or 0) or None
            leaving = fault != GOING_ON or failed or (request is not None and request.signal is not None)
            alone = failed and processes.several()  # saving would wait for processes whose data goes on
            if store is not None and not alone and (leaving or store.due(before, now)):
                saved = _save(store, state, loader, watch.history, final=bool(leaving), saved=saved)
            if failed:
                then = "go on from error.state" + (" or by the same call, from the checkpoint." if store else ".")
                error = DataError(f"step {now}: {failed} {then}")
                error.state, error.history = state, watch.history
                raise error from failed.__cause__
            if fault != GOING_ON:
                raise NonFiniteError(fault, first_fault(interval, leaves), state, watch.history)
            if request is not None:
                request.leave()
        if store is not None:
            _save(store, state, loader, watch.history, final=True, saved=saved)
    return Fitted(local(state), watch.history)


def _save(
    store: Checkpoints, state: TrainState, loader: Loader | None, history: list[Line], *, final: bool, saved: int | None
) -> int | None:
    """Saves the state if needed. A failure is a warning, or, at the last save, an error that holds the state."""
    step = int(state.step)
    if step == saved:
        return saved
    try:
        store.save(state, None if loader is None else loader.position(step))
    except CheckpointError as error:
        if final:
            error.state, error.history = state, history
            raise
        warnings.warn(f"{error} Training continues, and will try again.", CheckpointWarning, stacklevel=3)
        return saved
    return step


def pieces(step: int, options: FitOptions) -> Iterator[tuple[int, int]]:
    """`(intervals, updates in each)` of the dispatches from `step` on, which end at multiples of `options.chunk`.

    A resumed run therefore makes the same dispatches as an uninterrupted one. A second program is compiled only if
    `steps` is not a multiple of the chunk.

    Example:

      >>> list(pieces(0, FitOptions(steps=250, chunk=100, metrics_every=20)))
      [(5, 20), (5, 20), (2, 20), (1, 10)]
    """
    every = options.interval
    while step < options.steps:
        size = min(options.chunk - step % options.chunk, options.steps - step)
        short = min(-step % every, size)  # up to the next line of metrics, if the run starts between two
        if short:
            yield 1, short
        elif size >= every:
            yield size // every, every
        else:
            yield 1, size
        step += short or size // every * every or size


@functools.lru_cache(maxsize=8)
def _compiled(problem: Problem, options: FitOptions) -> Callable[..., tuple[Any, ...]]:
    """Compiles one program for equal functions and options, also across calls of `fit`.

    `recognised` defines equality; two lambdas with the same code are not equal. The cache is small because functions
    may hold data.
    """
    check_pure(problem.data, data_key(jax.random.key(0), jnp.int32(0)), jnp.int32(0))

    def run(state: TrainState, intervals: int, every: int, look: bool) -> tuple[Any, ...]:
        state, interval = run_intervals(problem, options, state, None, intervals, every)
        state, held = evaluate_held_out(problem, options, state, None) if look else (state, {})
        return state, interval, held, None

    return jax.jit(run, static_argnums=(1, 2, 3))


@functools.lru_cache(maxsize=8)
def _compiled_steps(problem: Problem, options: FitOptions) -> tuple[Callable[..., Any], ...]:
    """The parts of `_compiled` for batches from outside: one update, the measure of health, a line, the evaluation."""

    def one(state: TrainState, records: Record, at: Array, batch: PyTree) -> tuple[TrainState, Record]:
        state, record = update(problem, options, state, batch, None)
        return state, jax.tree.map(lambda all, each: all.at[at].set(each), records, record)

    def health(state: TrainState, batch: PyTree) -> dict[str, Any]:
        return {} if problem.health is None else problem.call("health", None, state.params, batch)

    def blank(state: TrainState, batch: PyTree, every: int) -> Record:
        _, record = jax.eval_shape(lambda: update(problem, options, state, batch, None))
        return jax.tree.map(lambda leaf: jnp.zeros((every, *leaf.shape), leaf.dtype), record)

    def evaluate(state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        return evaluate_held_out(problem, options, state, None)

    blank = jax.jit(blank, static_argnums=2)  # traces the update once
    return jax.jit(one, donate_argnums=1), jax.jit(health), blank, jax.jit(reduce), jax.jit(evaluate)


def _fed(loader: Loader, problem: Problem, options: FitOptions) -> Callable[..., tuple[Any, ...]]:
    """As `_compiled`, with batches from a loader, one dispatch each; also returns the error of the loader or None."""
    one, health, blank, line, evaluate = _compiled_steps(problem, options)

    def run(state: TrainState, intervals: int, every: int, look: bool) -> tuple[Any, ...]:
        lines, records, failed, before = [], None, None, state
        for left in range(intervals, 0, -1):
            measured = {}
            for i in range(every):
                try:
                    batch = loader.take()
                except DataError as error:
                    failed = error
                    break
                if i == 0:
                    records = blank(state, batch, every)
                    measured = health(state, batch)
                before, (state, records) = state, one(state, records, jnp.int32(i), batch)
                if i + 1 < every or left > 1:
                    loader.draw_ahead()
                if int(before.stopped) != GOING_ON:  # waits for the update before this one, which computes meanwhile
                    break
            if records is not None:
                lines.append(line(records, measured))
            records = None
            if failed or int(state.stopped) != GOING_ON:
                break
        state, held = (state, {}) if failed or not look else evaluate(state)
        stacked = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(lines)) if lines else None
        return state, stacked, held, failed

    return run

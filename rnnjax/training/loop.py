"""`fit`: many updates per dispatch, with logging, evaluation and checkpoints between dispatches."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from rnnjax import processes
from rnnjax.cell import PyTree
from rnnjax.training.checkpoints import Checkpoints, CheckpointWarning, Line
from rnnjax.training.faults import NonFiniteError, names
from rnnjax.training.flat import CheckpointError, local
from rnnjax.training.interrupts import listening
from rnnjax.training.loader import DataError, Loader, check_pure
from rnnjax.training.parallel import as_before
from rnnjax.training.state import GOING_ON, FitOptions, TrainState, given_back, prepared
from rnnjax.training.steps import Interval, Problem, Record, data_key, dispatch, evaluated, reduced, update


class Fitted(NamedTuple):
    """The state after the last update, from which to go on, and the lines of metrics, oldest first."""

    state: TrainState
    history: list[Line]

    @property
    def params(self) -> PyTree:
        """The parameters to use: of the best step if it was kept, or their moving average, or the last."""
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
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Trains for `options.steps` updates, many per dispatch.

        θ_{t+1} = θ_t + optimizer(∇ loss(θ_t, data(key_t, t)))

    A data function is called inside the compiled loop, and a resumed run gets the data that it would have had. Batches
    of an iterator or loader are one dispatch each, and the next is drawn meanwhile.

    Args:
      loss: `(params, batch) -> []`. If the state has a carry (`init_state`), `loss(params, batch, carry=)` returns
        `(loss, carry)`, and the carry is passed to the next step without a gradient.
      state: from `init_state`, or the state of an earlier `fit`, which continues from its step.
      optimizer: any Optax transformation, or an object with `init` and `update`; put clipping from `rnnjax.training`
        before it with `optax.chain`, and accumulate gradients over k batches with `optax.MultiSteps`. It also gets the
        loss and the gradient as functions, for line searches; docs/optimizers.md lists what is supported.
      data: `(key, step) -> batch`, any pytree, a pure function; `key` changes every `options.data_period` steps. Or an
        iterator of batches, or an iterable such as a PyTorch `DataLoader`, which starts again when it ends. With
        `checkpoints`, the state of one with `get_state` and `set_state`, or `state_dict` and `load_state_dict`, is
        saved and restored; of others, a resumed run draws and drops the batches before its step.
      options: `FitOptions`.
      has_aux: the loss also returns, last, a dict of scalars to report: `(loss, metrics)` or `(loss, carry, metrics)`.
      has_key: the loss also takes `key=`, fresh at every step.
      gradient: replaces the differentiation of `loss`: called as `loss` is, `-> (what loss returns, gradient)`, such as
        `rnnjax.training.data_parallel(...)`; for complex parameters in the convention of `jax.grad`.
      held_out: `(key, index) -> batch`, the same batches at every evaluation (`options.evaluate_every`).
      measure: `(params, batch) -> []` or a dict of scalars, for held-out batches; the loss if None.
      until: `(held-out metrics) -> bool`, traced; training stops once it is True.
      health: `(params, batch) -> dict of scalars`, at the first update of each line of metrics, such as
        `rnnjax.training.adjoint_health`.
      report: called with each line of metrics, a dict of numbers, such as `lambda line: print(json.dumps(line))`.
      bar: shows progress and the last losses in the terminal, with rich.
      checkpoints: where to save. If the folder has checkpoints, training resumes from the newest good one instead of
        `state`, and gives the same bits and history as an uninterrupted run. SIGTERM and Ctrl-C save after the
        current dispatch and exit; a second Ctrl-C exits at once.
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
    if options.best is not None and held_out is None:
        raise ValueError("the best step is that of a held-out measure: pass `held_out`.")
    loader = None if callable(data) else Loader(data, options.shapes, int(state.step), checkpoints is not None)
    functions = (gradient, held_out, measure, until, health)
    problem = Problem(loss, optimizer, None if loader else data, *functions, has_aux, has_key)  # pyright: ignore
    state = prepared(state, options)
    program = (functools.partial(_fed, loader) if loader else _compiled)(
        problem, dataclasses.replace(options, steps=1, chunk=1, metrics_every=None, evaluate_every=None)
    )
    leaves = names(state.params, state.opt_state)
    with contextlib.ExitStack() as stack:
        store = request = saved = None
        history: list[Line] = []
        if checkpoints is not None:
            store = stack.enter_context(checkpoints.opened())
            request = stack.enter_context(listening())
            found, position, history = store.load(state)
            if found is not None and loader is not None:
                loader.go_to(position, int(found.step))
            state = found or state
            saved = int(state.step)
        show = stack.enter_context(progress_bar(bar, int(state.step), options.steps))

        def save(final: bool) -> None:
            """A failure is a warning, or, at the last save, an error that holds the state."""
            nonlocal saved
            step = int(state.step)
            if store is not None and step != saved:
                try:
                    store.save(state, None if loader is None else loader.position(step), history)
                    saved = step
                except CheckpointError as error:
                    error.state, error.history = state, history
                    if final:
                        raise
                    warnings.warn(f"{error} Training continues, and will try again.", CheckpointWarning, stacklevel=3)

        for intervals, every in pieces(int(state.step), options):
            before = int(state.step)
            if bool(state.done):
                break
            looks = options.evaluates(before, before + intervals * every)
            new, interval, measured, failed = program(state, intervals, every, looks)
            state = as_before(new, state)
            interval, measured = jax.device_get((interval, measured))
            fault, now = int(state.stopped), int(state.step)
            if not failed or now > before:
                for line in _lines(before, every, interval, measured, leaves, now if failed else options.steps):
                    history.append(line)
                    show(line)
                    if report is not None:
                        report(line)
            if fault != GOING_ON:
                state = state._replace(stopped=jnp.full_like(state.stopped, GOING_ON))
            if request is not None:  # all processes exit if one received a signal
                request.signal = processes.largest(request.signal or 0) or None
            leaving = bool(fault != GOING_ON or failed or (request is not None and request.signal))
            alone = failed and processes.several()  # saving would wait for processes whose data goes on
            if not alone and (leaving or (store is not None and store.due(before, now))):
                save(final=leaving)
            if failed:
                then = "go on from error.state" + (" or by the same call, from the checkpoint." if store else ".")
                error = DataError(f"step {now}: {failed} {then}")
                error.state, error.history = state, history
                raise error from failed.__cause__
            if fault != GOING_ON:
                where = int(np.argmax(interval.fault_step != GOING_ON))
                raise NonFiniteError(fault, culprits(interval.fault[where], leaves), state, history)
            if request is not None:
                request.leave()
        save(final=True)
    return Fitted(local(state), history)


def _lines(
    before: int, every: int, interval: Interval, measured: dict[str, Any], leaves: Sequence[str], most: int
) -> Iterator[Line]:
    """The lines of one dispatch, which started after `before` updates, and ended by update `most`."""
    for i, fault in enumerate(interval.fault_step):
        line: Line = {"step": min(before + (i + 1) * every, most)}
        line |= {name: plain(values[i]) for name, values in interval.metrics.items()}
        if fault != GOING_ON:
            line |= {"not_finite_step": int(fault), "not_finite": culprits(interval.fault[i], leaves)}
        if i == len(interval.fault_step) - 1:
            line |= {f"held_out_{name}": plain(value) for name, value in measured.items()}
        yield line
        if fault != GOING_ON and interval.counted[i] + line["skipped"] < every:
            break  # the run stopped here


def plain(value: Any) -> Any:
    """Converts NumPy or JAX numbers and arrays to Python numbers and lists."""
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array.tolist()


@contextlib.contextmanager
def progress_bar(wanted: bool, done: int, steps: int) -> Iterator[Callable[[Line], None]]:
    """A function that shows a line of metrics; with several runs, the medians of its losses."""
    if not (wanted and processes.is_coordinator()):
        yield lambda line: None
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError as error:
        raise ImportError("bar=True needs rich: pip install 'rnnjax[experiments]', or rich alone.") from error
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns) as progress:
        task = progress.add_task("", completed=done, total=steps)

        def show(line: Line) -> None:
            losses = {name: np.median(line[name]) for name in ("loss", "held_out_loss") if name in line}
            told = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            progress.update(task, completed=line["step"], description=told)

        yield show


def culprits(flags: Any, leaves: Sequence[str]) -> list[str]:
    """The names of the leaves that were not finite."""
    return [name for name, bad in zip(leaves, flags, strict=True) if bad]


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
        intervals, length = (1, short) if short else (size // every, every) if size >= every else (1, size)
        yield intervals, length
        step += intervals * length


@functools.lru_cache(maxsize=8)
def _compiled(problem: Problem, options: FitOptions) -> Callable[..., tuple[Any, ...]]:
    """Compiles one program for equal functions and options, also across calls of `fit`.

    `recognised` defines equality; two lambdas with the same code are not equal. The cache is small because functions
    may hold data.
    """
    assert problem.data is not None
    check_pure(problem.data, data_key(jax.random.key(0), jnp.int32(0)), jnp.int32(0))
    program = jax.jit(functools.partial(dispatch, problem.of(None, ()), options), static_argnums=(1, 2, 3))
    return lambda *args: (*program(*args), None)


@functools.lru_cache(maxsize=8)
def _compiled_steps(problem: Problem, options: FitOptions) -> tuple[Callable[..., Any], ...]:
    """The parts of `_compiled` for batches from outside: empty records, one update, the health, a line, evaluation."""
    problem = problem.of(None, ())
    step, evaluate = (functools.partial(function, problem, options) for function in (update, evaluated))

    def blank(state: TrainState, batch: PyTree, every: int) -> Record:
        record = jax.eval_shape(step, state, batch)[1]
        return jax.tree.map(lambda leaf: jnp.zeros((every, *leaf.shape), leaf.dtype), record)

    def one(state: TrainState, records: Record, at: Array, batch: PyTree) -> tuple[TrainState, Record]:
        state, record = step(state, batch)
        return state, jax.tree.map(lambda all, each: all.at[at].set(each), records, record)

    health = jax.jit(problem.health or (lambda params, batch: {}))
    blank = jax.jit(blank, static_argnums=2)  # traces the update once
    return blank, jax.jit(one, donate_argnums=1), health, jax.jit(reduced), jax.jit(evaluate)


def _fed(loader: Loader, problem: Problem, options: FitOptions) -> Callable[..., tuple[Any, ...]]:
    """As `_compiled`, with batches from a loader, one dispatch each; also returns the error of the loader or None."""
    blank, one, health, line, evaluate = _compiled_steps(problem, options)

    def run(state: TrainState, intervals: int, every: int, looks: bool) -> tuple[Any, ...]:
        lines, records, healthy, failed = [], None, {}, None
        for t in range(intervals * every):
            try:
                batch = loader.take()
            except DataError as error:
                failed = error
                break
            if records is None:
                records, healthy = blank(state, batch, every), health(state.params, batch)
            before, (state, records) = state, one(state, records, np.int32(t % every), batch)
            if (t + 1) % every == 0:
                lines.append(line(records, healthy))
                records = None
            if int(before.stopped) != GOING_ON:  # waits for the update before this one, which computes meanwhile
                break
        if records is not None:
            lines.append(line(records, healthy))
        state, measured = evaluate(state) if looks and not failed else (state, {})
        stacked = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(lines)) if lines else None
        return state, stacked, measured, failed

    return run

"""`fit`: many updates per dispatch, with logging, evaluation and checkpoints between dispatches; and `fit_many`: whole
runs, vmapped over seeds, learning rates, scales of W2, or any other setting.
"""

import contextlib
import dataclasses
import functools
import itertools
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from rnnjax import processes
from rnnjax.cell import PyTree
from rnnjax.sharding import spread
from rnnjax.training import steps
from rnnjax.training.checkpoints import Checkpoints, CheckpointWarning, Line, local
from rnnjax.training.data import Loader, check_pure
from rnnjax.training.faults import CheckpointError, DataError, NonFiniteError, Stopped, names
from rnnjax.training.optimizers import transformation
from rnnjax.training.steps import GOING_ON, FitOptions, Interval, Problem, TrainState, data_key, given_back, prepared


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

    A data function runs in the compiled loop. A loader's batches are a dispatch each, and the next is drawn meanwhile.

    Args:
      loss: `(params, batch) -> []`. If the state has a carry (`init_state`), `loss(params, batch, carry=)` returns
        `(loss, carry)`, and the carry is passed to the next step without a gradient.
      state: from `init_state`, or the state of an earlier `fit`, which continues from its step.
      optimizer: any Optax transformation (docs/optimizers.md), or an object with `init` and `update`; put clipping from
        `rnnjax.training` before it with `optax.chain`, and accumulate gradients over k batches with `optax.MultiSteps`.
      data: `(key, step) -> batch`, any pytree, a pure function; `key` changes every `options.data_period` steps. Or an
        iterator of batches, or an iterable such as a PyTorch `DataLoader`, which starts again when it ends. A resumed
        run restores its state by `set_state` or `load_state_dict`, or else draws and drops the batches before.
      options: `FitOptions`.
      has_aux: the loss also returns, last, a dict of scalars to report: `(loss, metrics)` or `(loss, carry, metrics)`.
      has_key: the loss also takes `key=`, fresh at every step.
      gradient: replaces the differentiation of `loss`: called as `loss` is, `-> (what loss returns, gradient)`, such as
        `rnnjax.training.data_parallel(...)`; for complex parameters in the convention of `jax.grad`.
      held_out: `(key, index) -> batch`, the same batches at every evaluation (`options.evaluate_every`).
      measure: `(params, batch) -> []` or a dict of scalars, for held-out batches; the loss if None.
      until: `(held-out metrics) -> bool`, traced; training stops once it is True.
      health: `(params, batch) -> dict of scalars`, at the first update of a line of metrics, as by `adjoint_health`.
      report: called with each line of metrics, a dict of numbers, such as `lambda line: print(json.dumps(line))`.
      bar: shows progress and the last losses in the terminal, with rich.
      checkpoints: where to save. Training resumes from the newest good one, if there is one, to the same bits and
        history as an uninterrupted run. SIGTERM and Ctrl-C save after this dispatch and exit; a second exits at once.
    Raises:
      NonFiniteError: a step was not finite, with `nonfinite="stop"`.
      DataError: the iterator or loader ended, raised, or gave another shape.
      CheckpointError: the folder cannot be used, or has another model or config; or the last step could not be saved.
      ValueError, TypeError: the loss is not a scalar, `data` is impure, or options are inconsistent.
    The first three have the progress in `error.state` and `error.history`.

    Example: a line through the origin, w = 3.

      >>> import jax, jax.numpy as jnp, optax
      >>> from rnnjax.training import clip_by_global_norm, init_state
      >>> def data(key, step):
      ...     return jax.random.normal(key, (16,))
      >>> def loss(w, x):
      ...     return jnp.mean((w * x - 3.0 * x) ** 2)
      >>> rule = optax.chain(clip_by_global_norm(1.0), optax.sgd(0.1))
      >>> state = init_state(jnp.array(0.0), rule, jax.random.key(0))
      >>> state, history = fit(loss, state, rule, data, FitOptions(steps=200, chunk=50))
      >>> round(float(state.params), 3), [line["step"] for line in history], sorted(history[0])[:2]
      (3.0, [50, 100, 150, 200], ['clipped', 'gradient_norm'])
    """
    loader = None if callable(data) else Loader(data, options.shapes, int(state.step), checkpoints is not None)
    drawn = data if callable(data) else None
    problem = Problem(loss, optimizer, drawn, gradient, held_out, measure, until, health, has_aux, has_key)
    state = prepared(state, options, held_out)
    same = dataclasses.replace(options, steps=1, chunk=1, metrics_every=None, evaluate_every=None)
    whole, *parts = _compiled(problem, same)
    program = functools.partial(_fed, loader, *parts) if loader else whole
    leaves = names(state.params, state.opt_state)
    with contextlib.ExitStack() as stack:
        received: list[int] = []
        history: list[Line] = []
        saved = None
        if checkpoints is not None:
            stack.enter_context(checkpoints.opened())
            received = stack.enter_context(_signals())
            found, position, history = checkpoints.load(state)
            state = found or state
            saved = int(state.step)
            if loader and found:
                loader.go_to(position, saved)
        tell = stack.enter_context(_telling(report, bar, int(state.step), options.steps))

        def save(final: bool) -> None:
            """A failure is a warning, or, at the last save, an error."""
            nonlocal saved
            step = int(state.step)
            if checkpoints is not None and step != saved:
                try:
                    checkpoints.save(state, loader and loader.position(step), history)
                    saved = step
                except CheckpointError as error:
                    if final:
                        raise
                    warnings.warn(f"{error} Training continues, and will try again.", CheckpointWarning, stacklevel=3)

        try:
            for intervals, every, evaluates in pieces(int(state.step), options):
                if bool(state.done):
                    break
                before = int(state.step)
                new, *seen, failed = program(state, intervals, every, evaluates)
                state = jax.tree.map(_cut_as_before, new, state)
                interval, measured = jax.device_get(seen)
                fault, now = int(state.stopped), int(state.step)
                for i, line in enumerate(_lines_of(before, every, interval, measured)):
                    line["step"] = min(line["step"], now) if failed else line["step"]
                    if bad := tuple(itertools.compress(leaves, interval.fault[i])):
                        line |= {"not_finite_step": interval.fault_step[i], "not_finite": bad}
                    history.append(tell(line))
                    if bad and options.nonfinite == "stop":
                        break
                if fault != GOING_ON:
                    state = state._replace(stopped=jnp.full_like(state.stopped, GOING_ON))
                number = due = 0  # a signal; all processes exit if one received it
                if checkpoints is not None:
                    number = processes.largest(received[0] if received else 0)
                    due = now // checkpoints.every > before // checkpoints.every
                leaving = bool(failed or number or fault != GOING_ON)
                if (leaving or due) and not (failed and processes.several()):  # their data goes on, so they do not save
                    save(final=leaving)
                if failed:
                    then = " or by the same call, from the checkpoint" if checkpoints else ""
                    raise DataError(f"step {now}: {failed} go on from error.state{then}.") from failed.__cause__
                if fault != GOING_ON:
                    raise NonFiniteError(fault, history[-1].get("not_finite", ()))
                if number:
                    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
            save(final=True)
        except Stopped as error:
            error.state, error.history = state, history
            raise
    return Fitted(local(state), history)


class FittedMany(NamedTuple):
    """The result of `fit_many` for R runs."""

    state: TrainState  # with a leading axis [R] on every leaf
    history: dict[str, np.ndarray]  # name to [lines, R]; "step" is [lines]; entries of a finished run are NaN
    faults: list[tuple[int, tuple[str, ...]] | None]  # (step, what was not finite) of each run that stopped there

    @property
    def params(self) -> PyTree:
        """The parameters to use of each run, as for `Fitted`."""
        return jax.vmap(given_back)(self.state)


def fit_many(
    loss: Callable[..., Any],
    init: Callable[..., PyTree],
    optimizer: optax.GradientTransformation | optax.MultiSteps | Callable[[Any], Any],
    data: Callable[..., PyTree],
    settings: PyTree,
    options: FitOptions,
    *,
    key: Array,
    has_aux: bool = False,
    has_key: bool = False,
    has_setting: Sequence[str] = (),
    carry: Callable[..., PyTree] | None = None,
    gradient: Callable[..., Any] | None = None,
    held_out: Callable[..., PyTree] | None = None,
    measure: Callable[..., Any] | None = None,
    until: Callable[..., Any] | None = None,
    health: Callable[..., dict[str, Any]] | None = None,
    report: Callable[[Line], None] | None = None,
    bar: bool = False,
    mesh: Mesh | None = None,
) -> FittedMany:
    """Trains R runs at once, each as `fit` would, in one compiled program.

    Args:
      loss, options, has_aux, has_key: as for `fit`; with `nonfinite="stop"`, only the run with NaN or inf stops.
      init: `(key, setting) -> params`.
      optimizer: as for `fit`, or a function `setting -> transformation`, in which numbers may be traced.
      data: `(key, step) -> batch`, as for `fit`, but no loader. Each run has its own key.
      settings: a tree of arrays with a leading axis `[R]`, such as `{"learning_rate": ..., "scale": ...}`. The leaf
        "key" of a dict, PRNG keys `[R]`, sets the key of each run, so that runs may share one.
      key: split into one key per run, unless `settings` contains the keys.
      has_setting: names of the functions that also take `setting=`, the setting of their run: any of "loss", "data",
        "gradient", "held_out", "measure", "until", "health".
      carry: `params -> carry`, for a loss with a carry.
      gradient, held_out, measure, until, health, report, bar: as for `fit`, but patience stops each run alone, and each
        value in a line of metrics is a list of R numbers.
      mesh: from `rnnjax.sharding.make_mesh`; the runs are sharded over its devices, which may belong to several
        processes. R need not be a multiple of the devices. Metrics and states are gathered after each dispatch.
    Raises:
      ValueError: the settings differ in length, or there are none; or as `fit`.

    Example: three learning rates, from three starts.

      >>> fitted = fit_many(
      ...     lambda w, x: jnp.mean((w * x - 3.0 * x) ** 2), lambda key, s: jax.random.normal(key),
      ...     lambda s: optax.sgd(s["rate"]), lambda key, step: jax.random.normal(key, (16,)),
      ...     {"rate": jnp.array([0.1, 0.01, 10.0])}, FitOptions(steps=200), key=jax.random.key(0),
      ... )
      >>> fitted.history["loss"].shape, bool(abs(fitted.state.params[0] - 3) < 1e-3), fitted.faults[2] is not None
      ((2, 3), True, True)
    """
    shapes = [list(jnp.shape(leaf)) for leaf in jax.tree.leaves(settings)]
    if [] in shapes or len({runs for runs, *_ in shapes}) != 1:
        raise ValueError(f"`settings` has leaves {shapes}; each needs the same leading axis, one entry per run.")
    runs = shapes[0][0]
    problem = Problem(loss, optimizer, data, gradient, held_out, measure, until, health, has_aux, has_key)
    functions = "loss", "data", "gradient", "held_out", "measure", "until", "health"
    if unknown := [name for name in has_setting if name not in functions or getattr(problem, name) is None]:
        raise ValueError(f"has_setting names {', '.join(unknown)}; it may name those given of {', '.join(functions)}.")
    keys = settings["key"] if isinstance(settings, dict) and "key" in settings else jax.random.split(key, runs)

    def start(params: PyTree, key: Array, setting: PyTree) -> TrainState:
        first = None if carry is None else carry(params)
        return prepared(steps.init_state(params, transformation(optimizer, setting), key, first), options, held_out)

    state = jax.jit(jax.vmap(start))(_drawn(init, keys, settings), keys, settings)
    one, setting = jax.tree.map(lambda leaf: leaf[0], (state, settings))
    draw: Any = problem.of(setting, has_setting).data
    check_pure(draw, data_key(keys[0], jnp.int32(0)), jnp.int32(0))

    @functools.cache
    def program(*size: Any) -> Callable[..., Any]:
        return spread(lambda one, own: steps.dispatch(problem.of(own, has_setting), options, one, *size), mesh)

    leaves = names(one.params, one.opt_state)
    faults: list[tuple[int, tuple[str, ...]] | None] = [None] * runs
    lines, step = [], 0
    with _telling(report, bar, 0, options.steps) as tell:
        for intervals, every, evaluates in pieces(0, options):
            before, step = step, step + intervals * every
            state, *seen = program(intervals, every, evaluates)(state, settings)
            interval, measured = jax.device_get(seen)
            interval = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), interval)
            lines += _lines_of(before, every, interval, measured)
            for line in lines[-intervals:]:
                tell(line)
            for at, run in np.argwhere(interval.fault_step != GOING_ON):
                found = int(interval.fault_step[at, run]), tuple(itertools.compress(leaves, interval.fault[at, run]))
                faults[run] = faults[run] or found
            if bool((state.done | (state.stopped != GOING_ON)).all()):
                break
    empty = np.full(runs, np.nan)
    columns = dict.fromkeys(name for line in lines for name in line)
    history = {name: np.stack([line.get(name, empty) for line in lines]) for name in columns}
    return FittedMany(local(state), history, faults)


def _drawn(init: Callable[..., PyTree], keys: Array, settings: PyTree) -> PyTree:
    """Draws the weights of every run, from keys that are not used for data.

    It may call LAPACK, which must not share a program with a time loop, and one run at a time, because batched
    decompositions of several gates can deadlock on a CPU with two cores (jaxlib 0.10.2, one in fifteen sweeps).
    """

    @jax.jit
    def draw(keys: Array, settings: PyTree, i: int) -> PyTree:
        key, setting = jax.tree.map(lambda leaf: leaf[i], (keys, settings))
        return jax.tree.map(jnp.asarray, init(jax.random.fold_in(key, 3), setting))

    runs = [jax.device_get(draw(keys, settings, i)) for i in range(keys.shape[0])]
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *runs)


def _lines_of(before: int, every: int, interval: Interval | None, measured: dict[str, Any]) -> list[Line]:
    """The lines of one dispatch, which started after `before` updates; of R runs, each value is `[R]`."""
    if interval is None:
        return []
    count = len(interval.fault_step)
    columns = {"step": before + every * np.arange(1, count + 1), **interval.metrics}
    lines = [{name: values[i] for name, values in columns.items()} for i in range(count)]
    lines[-1] |= {f"held_out_{name}": values for name, values in measured.items()}
    return lines


def _cut_as_before(new: Array, old: Array) -> Array:
    """`new`, cut as `old` was if several devices hold it; XLA may cut the results of a program otherwise."""
    spread = len(old.sharding.device_set) > 1 and new.sharding != old.sharding
    return jax.device_put(new, old.sharding) if spread else new


@contextlib.contextmanager
def _telling(report: Any, bar: bool, done: int, total: int) -> Iterator[Callable[[dict[str, Any]], Line]]:
    """A function that turns a line into Python's numbers, reports it, and shows the medians of its losses in a bar."""

    def tell(line: dict[str, Any]) -> Line:
        line = {name: np.asarray(value).tolist() for name, value in line.items()}
        for each in tellers:
            each(line)
        return line

    tellers = [] if report is None else [report]
    if not (bar and processes.is_coordinator()):
        yield tell
        return
    try:
        from rich.progress import BarColumn, Progress, TimeRemainingColumn
    except ImportError as error:
        raise ImportError("bar=True needs rich: pip install 'rnnjax[experiments]', or rich alone.") from error

    def show(line: Line) -> None:
        losses = {name: np.median(line[name]) for name in ("loss", "held_out_loss") if name in line}
        told = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        progress.update(task, completed=line["step"], description=told)

    count = "{task.completed}/{task.total}"
    with Progress(BarColumn(), count, TimeRemainingColumn(), "{task.description}") as progress:
        task = progress.add_task("", completed=done, total=total)
        tellers.append(show)
        yield tell


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and the first Ctrl-C; a second interrupts. Threads but the main one cannot, and do nothing."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT) if main}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def pieces(step: int, options: FitOptions) -> Iterator[tuple[int, int, bool]]:
    """`(intervals, updates in each, whether it ends with an evaluation)` of the dispatches from `step` on.

    They end at multiples of `options.chunk`, so a resumed run makes the same ones as an uninterrupted one. A second
    program is compiled only if `steps` is not a multiple of the chunk.
    """
    every = options.metrics_every or options.chunk
    while step < options.steps:
        size = min(options.chunk - step % options.chunk, options.steps - step)
        short = min(-step % every, size)  # up to the next line of metrics, if the run starts between two
        intervals, length = (1, short) if short else (size // every, every) if size >= every else (1, size)
        before, step = step, step + intervals * length
        evaluates = step // (options.evaluate_every or 1) > before // (options.evaluate_every or 1)
        yield intervals, length, evaluates or step >= options.steps


@functools.lru_cache(maxsize=8)
def _compiled(problem: Problem, options: FitOptions) -> tuple[Callable[..., Any], ...]:
    """The programs of `fit` for a data function and, in parts, for a loader; each is compiled at its first use.

    They are kept for equal functions (`recognised`) and options; only a few, because functions may hold data.
    """
    if problem.data is not None:
        check_pure(problem.data, data_key(jax.random.key(0), jnp.int32(0)), jnp.int32(0))
    problem = problem.of(None, ())
    functions: Any = steps.dispatch, steps.update, steps.evaluated
    whole, step, evaluate = (functools.partial(each, problem, options) for each in functions)

    def blank(state: TrainState, batch: PyTree, every: int) -> PyTree:
        record = jax.eval_shape(step, state, batch)[1]
        return jax.tree.map(lambda leaf: jnp.zeros((every, *leaf.shape), leaf.dtype), record)

    def one(state: TrainState, records: PyTree, at: Array, batch: PyTree) -> tuple[TrainState, PyTree]:
        state, record = step(state, batch)
        return state, jax.tree.map(lambda all, each: all.at[at].set(each), records, record)

    compiled, health = jax.jit(whole, static_argnums=(1, 2, 3)), problem.health or (lambda params, batch: {})
    fed = jax.jit(blank, static_argnums=2), jax.jit(one, donate_argnums=1)
    return lambda *args: (*compiled(*args), None), *fed, *map(jax.jit, (evaluate, steps.reduced, health))


def _fed(
    loader: Loader, blank: Any, one: Any, evaluate: Any, reduce: Any, health: Any,
    state: TrainState, intervals: int, every: int, evaluates: bool,
) -> tuple[TrainState, Interval | None, dict[str, Any], DataError | None]:  # fmt: skip
    """`dispatch` with batches from a loader, one program each; also returns the loader's error, or None."""
    records, healths, failed = [], [], None
    for t in range(intervals * every):
        try:
            batch = loader.take()
        except DataError as error:
            failed = error
            break
        if t % every == 0:
            records.append(blank(state, batch, every))
            healths.append(health(state.params, batch))
        before, (state, records[-1]) = state, one(state, records[-1], np.int32(t % every), batch)
        if int(before.stopped) != GOING_ON:  # waits for the update before this one, which computes meanwhile
            break
    state, measured = evaluate(state) if evaluates and not failed else (state, {})
    lines = jax.device_get([reduce(*each) for each in zip(records, healths, strict=True)])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *lines) if lines else None
    return state, stacked, measured, failed

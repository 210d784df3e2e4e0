"""`fit_many`: whole training runs, vmapped over seeds, learning rates, scales of W2, or any other setting."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnjax.cell import PyTree
from rnnjax.sharding import AXIS, padded
from rnnjax.training.faults import names
from rnnjax.training.flat import local
from rnnjax.training.loader import check_pure
from rnnjax.training.loop import culprits, pieces, plain, progress_bar
from rnnjax.training.optimizers import transformation
from rnnjax.training.state import GOING_ON, FitOptions, TrainState, given_back, init_state, prepared
from rnnjax.training.steps import Problem, data_key, dispatch


class FittedMany(NamedTuple):
    """The result of `fit_many` for R runs.

    Attributes:
      state: a `TrainState` with a leading axis `[R]` on every leaf.
      history: name to a NumPy array `[lines, R]`; "step" is `[lines]`. Entries of a finished run are NaN.
      faults: for each run, `(step, ("gradient of w_h", ...))` if it stopped at a non-finite step, else None.
    """

    state: TrainState
    history: dict[str, np.ndarray]
    faults: list[tuple[int, tuple[str, ...]] | None]

    @property
    def params(self) -> PyTree:
        """The parameters to use of each run, as for `Fitted`."""
        return given_back(self.state)


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
    report: Callable[[dict[str, Any]], None] | None = None,
    bar: bool = False,
    mesh: Mesh | None = None,
) -> FittedMany:
    """Trains R runs at once, each as `fit` would, in one compiled program.

    Args:
      loss, has_aux, has_key: as for `fit`.
      init: `(key, setting) -> params`.
      optimizer: as for `fit`, or a function `setting -> transformation`; learning rates and clipping norms may be
        traced.
      data: `(key, step) -> batch`, as for `fit`, but no loader. Each run has its own key.
      settings: a tree of arrays with a leading axis `[R]`, such as `{"learning_rate": ..., "scale": ...}`. The leaf
        "key" of a dict, PRNG keys `[R]`, sets the key of each run, so that runs may share one.
      options: `FitOptions`. With `nonfinite="stop"`, only the run with NaN or inf stops, and is listed in `faults`.
      key: split into one key per run, unless `settings` contains the keys.
      has_setting: names of the functions that also take `setting=`, the setting of their run: any of "loss", "data",
        "gradient", "held_out", "measure", "until", "health".
      carry: `params -> carry`, for a loss with a carry.
      gradient, held_out, measure, until, health, bar: as for `fit`. Patience stops each run alone.
      report: called with each line of metrics; each value is a list of R numbers.
      mesh: from `rnnjax.sharding.make_mesh`; the runs are sharded over its devices, which may belong to several
        processes. R need not be a multiple of the devices. Only metrics are communicated, after each dispatch.
    Raises:
      ValueError: the settings differ in length, or there are none; or as `fit`.

    Example: three learning rates, from three starts.

      >>> def data(key, step):
      ...     x = jax.random.normal(key, (16,))
      ...     return x, 3.0 * x
      >>> def loss(w, batch):
      ...     return jnp.mean((w * batch[0] - batch[1]) ** 2)
      >>> settings = {"rate": jnp.array([0.1, 0.01, 10.0])}
      >>> fitted = fit_many(
      ...     loss, lambda key, s: jax.random.normal(key), lambda s: optax.sgd(s["rate"]), data, settings,
      ...     FitOptions(steps=200), key=jax.random.key(0),
      ... )
      >>> fitted.history["loss"].shape, bool(abs(fitted.state.params[0] - 3) < 1e-3), fitted.faults[2] is not None
      ((2, 3), True, True)
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(settings)}
    if len(sizes) != 1 or () in sizes:
        shapes = [list(jnp.shape(leaf)) for leaf in jax.tree.leaves(settings)]
        raise ValueError(f"`settings` has leaves {shapes}; each needs the same leading axis, one entry per run.")
    (runs,) = sizes.pop()
    if options.best is not None and held_out is None:
        raise ValueError("the best step is that of a held-out measure: pass `held_out`.")
    functions = {
        "loss": loss, "data": data, "gradient": gradient, "held_out": held_out, "measure": measure, "until": until,
        "health": health,
    }  # fmt: skip
    if unknown := [name for name in has_setting if functions.get(name) is None]:
        raise ValueError(f"has_setting names {', '.join(unknown)}; it may name those given of {', '.join(functions)}.")
    problem = Problem(**functions, optimizer=optimizer, has_aux=has_aux, has_key=has_key)  # pyright: ignore
    keys = settings["key"] if isinstance(settings, dict) and "key" in settings else jax.random.split(key, runs)
    if mesh is not None:
        settings, keys = padded((settings, keys), mesh)

    def start(params: PyTree, key: Array, setting: PyTree) -> TrainState:
        first = None if carry is None else carry(params)
        return prepared(init_state(params, transformation(optimizer, setting), key, first), options)

    state = jax.jit(jax.vmap(start))(_drawn(init, keys, settings), keys, settings)
    one, setting = jax.tree.map(lambda leaf: leaf[0], (state, settings))
    draw: Any = problem.of(setting, has_setting).data
    check_pure(draw, data_key(keys[0], jnp.int32(0)), jnp.int32(0))

    @functools.partial(jax.jit, static_argnums=(2, 3, 4))
    def program(states: TrainState, settings: PyTree, intervals: int, every: int, looks: bool) -> Any:
        def run(state: TrainState, setting: PyTree) -> Any:
            return dispatch(problem.of(setting, has_setting), options, state, intervals, every, looks)

        if mesh is None:
            return jax.vmap(run)(states, settings)
        cut = P(AXIS)
        cut_up = jax.shard_map(jax.vmap(run), mesh=mesh, in_specs=(cut, cut), out_specs=cut, check_vma=False)
        states, *seen = cut_up(states, settings)
        return states, *jax.lax.with_sharding_constraint(seen, NamedSharding(mesh, P()))

    leaves = names(one.params, one.opt_state)
    faults: list[tuple[int, tuple[str, ...]] | None] = [None] * runs
    lines: list[dict[str, Any]] = []
    step = 0
    with progress_bar(bar, 0, options.steps) as show:
        for intervals, every in pieces(0, options):
            looks = options.evaluates(step, step + intervals * every)
            state, interval, measured = program(state, settings, intervals, every, looks)
            over = state.done | (state.stopped != GOING_ON)
            interval, measured, over = jax.tree.map(
                lambda leaf: leaf[:runs], jax.device_get((interval, measured, over))
            )
            for i in range(intervals):
                step += every
                line: dict[str, Any] = {"step": step} | {
                    name: values[:, i] for name, values in interval.metrics.items()
                }
                if i == intervals - 1:
                    line |= {f"held_out_{name}": values for name, values in measured.items()}
                lines.append(line)
                for told in (report, show):
                    if told is not None:
                        told({name: plain(value) for name, value in line.items()})
            for run, at in np.argwhere(interval.fault_step != GOING_ON):
                found = int(interval.fault_step[run, at]), tuple(culprits(interval.fault[run, at], leaves))
                faults[run] = faults[run] or found
            if over.all():
                break
    if mesh is not None:
        whole = jax.jit(lambda state: state, out_shardings=NamedSharding(mesh, P()))(state)
        state = jax.tree.map(lambda leaf: leaf[:runs], local(whole))
    empty = np.full(runs, np.nan)
    columns = {name: None for line in lines for name in line if name != "step"}
    history = {name: np.stack([line.get(name, empty) for line in lines]) for name in columns}
    return FittedMany(state, {"step": np.array([line["step"] for line in lines])} | history, faults)


def _drawn(init: Callable[..., PyTree], keys: Array, settings: PyTree) -> PyTree:
    """Draws the weights of every run, from keys that are not used for data.

    Drawing runs in its own program because it may call LAPACK, which must not share a program with a time loop. It
    draws one run at a time because batched decompositions of several gates can deadlock on a CPU with two cores (jaxlib
    0.10.2, one in fifteen draws of a sweep of six LSTMs).
    """

    @jax.jit
    def draw(keys: Array, settings: PyTree, i: int) -> PyTree:
        key, setting = jax.tree.map(lambda leaf: leaf[i], (keys, settings))
        return jax.tree.map(jnp.asarray, init(jax.random.fold_in(key, 3), setting))

    runs = [jax.device_get(draw(keys, settings, i)) for i in range(keys.shape[0])]
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *runs)

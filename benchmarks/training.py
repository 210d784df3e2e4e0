"""Whole training: updates per second of `rnnjax.training.fit`, and of the loop that most people write.

Question: how many updates per second does `fit` make, and how many a hand-written loop with Flax and Optax on the same
model, data and optimizer?
Command: python -m benchmarks.training --json benchmarks/results/training.json --figures benchmarks/results
Minutes: about 4 on two cores; with --quick 1.
Expected: `fit` at least 1.8 times the loop (the target), from two sources that the table shows apart: many updates per
dispatch (a loop around `rnnjax`, and Flax inside a scan, against their opposites) and the engine.

`fit` also from a loader of NumPy batches (at least 0.95 times the loop, which draws on the device), in mixed precision,
and with the rows of every batch split over --devices.

All start from the same weights, draw the same batches inside the compiled step, clip the global norm to 1 and take the
same Adam steps; their losses are compared before anything is timed. An update is drawing a batch, forward, backward,
clip and Adam. The loop waits for nothing until its last update: a loop that reads each loss is slower.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import MultipleOf
from jax import Array, lax
from pydantic import AfterValidator, PositiveInt

import rnnjax
from rnnjax import tasks, training
from rnnjax.cells import catalogue
from rnnjax.training.steps import data_key

from . import contest, harness, lab, ours, style
from .harness import divided, number
from .libraries import require
from .problems import GATES

LOOP, FIT = "Flax + Optax loop", "rnnjax fit"
LINES = 10  # losses are compared as means of so many updates
TARGET = 1.8
TASKS = {"adding": (tasks.adding, tasks.squared_error, 1)}  # of a task: how it is drawn and scored, and outputs
TASKS |= {"temporal_order": (tasks.temporal_order, tasks.cross_entropy, 4)}


class Setting(NamedTuple):
    """A task, a cell and sizes, as `adding,lstm,32,100,64`."""

    task: str
    cell: str
    B: int
    T: int
    H: int

    @classmethod
    def parse(cls, text: str) -> "Setting":
        try:
            task, cell, *sizes = text.split(",")
            setting = cls(task, cell, *(int(size) for size in sizes))
        except (TypeError, ValueError):
            raise ValueError("write task,cell,B,T,H, for example adding,lstm,32,100,64") from None
        if task not in TASKS or cell not in GATES or min(setting.B, setting.H) < 1 or setting.T < 10:
            raise ValueError(f"tasks are {', '.join(TASKS)}, cells are {', '.join(GATES)}, and T is 10 or more")
        return setting

    def data(self, key: Array, step: Array) -> tasks.Batch:
        return TASKS[self.task][0](key, self.T, (self.B,))


@lab.options(quick={"settings": ("adding,lstm,32,100,8",), "updates": 20, "rounds": 3})
class Options(harness.Options):
    """Options of training."""

    settings: lab.Distinct[Annotated[str, AfterValidator(lambda text: ",".join(map(str, Setting.parse(text))))]] = (
        "adding,lstm,32,100,8",
        "adding,lstm,32,100,64",
        "adding,gru,16,200,32",
        "temporal_order,elman,20,50,50",
    )
    """Each task,cell,B,T,H."""
    updates: Annotated[PositiveInt, MultipleOf(LINES)] = 100
    """Updates per call, a multiple of 10 [count]."""


def measure(options: Options, run: harness.Run) -> None:
    for text in options.settings:
        setting = Setting.parse(text)
        point = run.contest(setting._asdict(), contestants(setting, options.updates, options.devices))
        run.add({**point, "updates": options.updates})


Model = tuple[Any, Callable[[Any, tasks.Batch], Array]]  # parameters, and the loss of them and a batch


def flax_model(setting: Setting) -> Model:
    """Flax's weights as drawn by it, and the loss `(variables, batch) -> []`."""
    require("flax")
    from flax import linen as nn

    _, score, outputs = TASKS[setting.task]
    cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}

    class Network(nn.Module):
        @nn.compact
        def __call__(self, xs: Array) -> Array:
            ys = nn.RNN(cells[setting.cell](setting.H), time_major=True)(xs)
            return nn.Dense(outputs, name="readout")(ys)

    model, batch = Network(), setting.data(jax.random.key(0), jnp.int32(0))
    variables = jax.jit(model.init)(jax.random.key(1), batch.xs)
    return variables, lambda variables, batch: score(jnp.asarray(model.apply(variables, batch.xs)), batch)


def our_model(setting: Setting) -> Model:
    """The same weights in rnnjax's layout, and the same loss."""
    from rnnjax.flax import from_linen

    score, cell = TASKS[setting.task][1], catalogue()[setting.cell](setting.H)
    tree = dict(flax_model(setting)[0]["params"])
    readout = tree.pop("readout")
    (rnn,) = tree.values()  # Flax names it after the cell
    params = {"rnn": from_linen(rnn), "w": readout["kernel"], "b": readout["bias"]}

    def loss(params: Any, batch: tasks.Batch) -> Array:
        _, ys = rnnjax.unroll(cell, params["rnn"], batch.xs)
        return score(ys @ params["w"] + params["b"], batch)

    return params, loss


def contestants(setting: Setting, updates: int, devices: int) -> Iterator[contest.Contestant]:
    """The reference first; each program makes `updates` updates from the same start."""
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    our_rule = optax.chain(training.clip_by_global_norm(1.0), optax.adam(1e-3))
    key = jax.random.key(7)

    def by_hand(model: Callable[[Setting], Model], run: Callable) -> dict[str, contest.Program]:
        params, loss = model(setting)

        def update(state: Any, step: Array) -> tuple[Any, Array]:
            params, memory = state
            value, gradient = jax.value_and_grad(loss)(params, setting.data(data_key(key, step), step))
            change, memory = rule.update(gradient, memory, params)
            return (optax.apply_updates(params, change), memory), value

        return {"train": contest.Program(run(update, (params, rule.init(params)), updates), _lines)}

    def fit(devices: int = 1, from_a_loader: bool = False, dtype: str | None = None) -> dict[str, contest.Program]:
        params, loss = our_model(setting)
        mesh = None if devices == 1 else ours.mesh(devices, setting.B, "rows")
        gradient = None if mesh is None else training.data_parallel(loss, mesh)
        state = training.init_state(params, our_rule, key)
        options = training.FitOptions(steps=updates, chunk=updates, metrics_every=LINES, compute_dtype=dtype)
        data: Any = setting.data
        if from_a_loader:
            draw = jax.jit(setting.data)
            data = [jax.device_get(draw(data_key(key, jnp.int32(step)), step)) for step in range(updates)]

        def call() -> list[float]:
            fitted = training.fit(loss, state, our_rule, data, options, gradient=gradient)
            jax.block_until_ready(fitted.state)
            return [line["loss"] for line in fitted.history]

        return {"train": contest.Program(call, lambda losses: {"losses": np.array(losses)})}

    yield contest.Contestant(LOOP, lambda: by_hand(flax_model, _python_loop))
    yield contest.Contestant("Flax + Optax in a scan", lambda: by_hand(flax_model, _scan))
    yield contest.Contestant("rnnjax in a loop by hand", lambda: by_hand(our_model, _python_loop))
    yield contest.Contestant(FIT, fit)
    yield contest.Contestant(f"{FIT}, from a loader", lambda: fit(from_a_loader=True))
    rounded = "it computes in bfloat16"
    yield contest.Contestant(f"{FIT}, bfloat16", lambda: fit(dtype="bfloat16"), unchecked=rounded)
    if devices > 1:
        yield contest.Contestant(f"{FIT}, {devices} devices", lambda: fit(devices))


def _python_loop(update: Callable, state: Any, updates: int) -> Callable[[], Any]:
    compiled = jax.jit(update)
    steps = [jnp.int32(step) for step in range(updates)]  # already on the device

    def call() -> list[Array]:
        now, losses = state, []
        for step in steps:
            now, value = compiled(now, step)
            losses.append(value)
        return jax.block_until_ready((now, losses))[1]

    return call


def _scan(update: Callable, state: Any, updates: int) -> Callable[[], Any]:
    compiled = jax.jit(lambda state: lax.scan(update, state, jnp.arange(updates, dtype=jnp.int32)))
    return lambda: jax.block_until_ready(compiled(state))[1]


def _lines(losses: Any) -> dict[str, np.ndarray]:
    return {"losses": np.asarray([float(value) for value in losses]).reshape(-1, LINES).mean(axis=1)}


def draw(result: Mapping[str, Any], page: Any) -> None:
    """Updates per second against the loop by hand, a row per setting and a mark per contestant; 1 is the loop."""
    points = result["points"]
    fig, ax = style.figure(8.0, 2.2 + 0.7 * len(points))
    for index, name in enumerate(harness.names(points)):
        ratios = [divided(number(point, LOOP, "train"), number(point, name, "train")) for point in reversed(points)]
        places = [(ratio, i) for i, ratio in enumerate(ratios) if ratio is not None]
        ax.plot(*zip(*places, strict=True), **{**style.line(index), "linestyle": "none"}, label=name)
    ax.axvline(1.0, color="#555555", linewidth=1)
    ax.axvline(TARGET, color="#555555", linewidth=1, linestyle=":")
    ax.text(TARGET, len(points) - 0.55, " target", fontsize=8, color="#333333", va="center")
    settings = ["{task}, {cell}, B={B} T={T} H={H}".format(**point) for point in reversed(points)]
    ax.set_yticks(range(len(points)), settings)
    ax.set(ylim=(-0.6, len(points) - 0.3), xlabel="updates per second, times the Flax + Optax loop [1]")
    title = "Updates per second in whole training, against a hand-written loop"
    alt = "Updates per second relative to a loop with Flax and Optax, by setting and contestant"
    harness.save(page, "training", fig, ax, title, alt)


benchmark = harness.Benchmark(Options, measure, draw)

if __name__ == "__main__":
    benchmark.main()

"""The bestiary: every cell of the catalogue on one page, its gradient, its learning and its cost.

Question: how fast does each cell's gradient vanish or explode as it is first drawn, and does that say what it learns?
Command: python -m experiments.bestiary
Minutes: 60 on two cores; with --quick, of ten cells, two.
Expected: at scale 1 the gradient of some fifty of the cells as drawn falls by more than 2% per step; it does not in
cells that keep their state by construction (unitary, antisymmetric, coRNN, UnICORNN, LRU and the state space models,
the LSTM of 1997). The leading exponent of the forward pass is the gradient's rate, to 0.003 nats per step in the
median, and closed forms agree to 0.02. The rate as drawn does not say what is learned: most gated cells learn to add at
rates from -0.1 to -0.7, while of the cells at rate 0 the linear and unitary ones copy and do not add.

Three measurements, for each cell by its own initialisation and with white noise N(0, 1) as input:
  rate      growth of |dL/d(carry)| per step back, and the leading Lyapunov exponent of the forward pass, against the
            scale of W2: of whatever multiplies the carry (`rnnjax.wrappers.ScaledRecurrence`), or of the cell's knob
  learning  the adding problem and copy memory, with as many units as fit the same number of parameters, for the same
            number of updates with the same optimizer; a success of 1 is no error, 0 the error of ignoring the input
  cost      seconds of such an update, as a ratio to the Elman network's: the two are timed in turn
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge
from jax import Array
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax import tasks
from rnnjax.gradients import adjoint, leading_exponent, theory
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many
from rnnjax.wrappers import ScaledParams, ScaledRecurrence, knob_of

from . import lab

CATALOGUE = rnnjax.cells.catalogue()
TEN = ("elman", "lstm", "gru", "mgu", "indrnn", "antisymmetric", "orthogonal", "lem", "min_gru", "lru")
SYMBOLS, MEMORY = 4, 3  # of copy memory
BEST_OF = 5  # rounds of timing


@lab.options(
    quick={
        "cells": TEN,
        "steps": 50,
        "scales": (0.5, 1.0, 2.0),
        "seeds": 1,
        "updates": 100,
        "length": 20,
        "tasks": ("adding",),
    }
)
class Options(lab.Options):
    """Every cell of the catalogue: gradient, learning, cost."""

    cells: tuple[str, ...] = tuple(CATALOGUE)
    """Names of the catalogue."""
    scales: lab.Distinct[PositiveFloat] = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
    """Scales of W2, or of the knob [dimensionless]."""
    steps: Annotated[int, Ge(20)] = 200
    """Steps over which the gradient's rate is measured [steps]."""
    hidden_size: PositiveInt = 32
    """H of the gradient's measurement [units]."""
    seeds: PositiveInt = 3
    """Networks for each point."""
    parameters: PositiveInt = 4000
    """At most so many in a network that learns, its readout included."""
    state: PositiveInt = 4096
    """At most so many numbers in the state of a network that learns: mLSTM's is a matrix."""
    tasks: lab.Distinct[Literal["adding", "copy"]] = ("adding", "copy")
    """What networks learn: the adding problem, copy memory."""
    length: Annotated[int, Ge(10)] = 50
    """T of the adding problem; copy memory has a delay of half of it [steps]."""
    updates: PositiveInt = 600
    """Updates of a network that learns."""
    batch: PositiveInt = 32
    """Sequences in a batch."""
    rate: PositiveFloat = 5e-3
    """Adam's learning rate at the first update; it falls to zero at the last, along half a cosine."""

    def check(self) -> None:
        unknown = [name for name in self.cells if name not in CATALOGUE]
        if unknown:
            raise lab.UsageError(f"--cells {' '.join(unknown)}: unknown; see rnnjax.cells.catalogue().")
        if not self.cells or len(set(self.cells)) < len(self.cells):
            raise lab.UsageError(f"--cells is {self.cells}; name at least one, each once.")


def gradient(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The growth of the gradient per step back, and the leading exponent; all rows are of one cell.

    Returns:
      rate_nats_per_step: the slope of log |dL/d(carry_t)| over lags from a tenth of the steps on; L = <v, y_T>.
      exponent_nats_per_step: the leading Lyapunov exponent after a tenth of the steps.
      theory_nats_per_step: a closed form of both, or NaN.
    """
    first = asked[0]
    cell, steps = CATALOGUE[first["cell"]](first["hidden_size"]), first["steps"]
    seeds = sorted({each["index"] for each in asked})
    drawn = {index: _drawn(cell, first["seed"], index, steps) for index in seeds}
    networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[drawn[each["index"]] for each in asked])
    scales = jnp.array([each["scale"] for each in asked])
    log_norm, exponent = jax.device_get(_measured(cell, *networks, scales))
    lags, early = np.arange(steps + 1), steps // 10
    rows = []
    for each, curve, found in zip(asked, log_norm[:, ::-1], exponent, strict=True):
        curve = curve[early:]
        finite = np.isfinite(curve).all()
        rows.append(
            {
                "rate_nats_per_step": float(np.polyfit(lags[early:], curve, 1)[0]) if finite else math.nan,
                "exponent_nats_per_step": float(found),
                "theory_nats_per_step": _theory(each["cell"], cell, drawn[each["index"]], each["scale"]),
                "scaled": knob_of(cell) or "W2",
            }
        )
    return rows


def _drawn(cell: Any, seed: int, index: int, steps: int) -> tuple[Any, Array, Array]:
    """Parameters, input and the loss's direction; drawn in a program of its own (LAPACK)."""
    key_params, key_xs, key_direction = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), 3)
    params = cell.init(key_params, 3)
    xs = jax.random.normal(key_xs, (steps, 3))
    width = jax.eval_shape(lambda p: rnnjax.unroll(cell, p, xs[:1])[1], params).shape[-1]
    direction = jax.random.normal(key_direction, (width,))
    return params, xs, direction / jnp.linalg.norm(direction)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def _measured(cell: Any, params: Any, xs: Array, direction: Array, scale: Array) -> tuple[Array, Array]:
    network, scaled = ScaledRecurrence(cell), ScaledParams(params, scale)
    log_norm = adjoint(network, scaled, xs, lambda ys: ys[-1] @ direction).log_norm
    return log_norm, leading_exponent(network, scaled, xs, transient=xs.shape[0] // 10).exponent


def _theory(name: str, cell: Any, network: tuple[Any, Array, Array], scale: float) -> float:
    """Mean-field theory of a tanh network; the largest eigenvalue of a diagonal linear one; else NaN."""
    params, xs, _ = network
    if name == "elman":
        rates = theory.tanh_mean_field_rates(scale, (xs**2).mean(axis=-1))
        return float(rates[len(rates) // 10 :].mean())
    if name in ("lru", "ssm_zoh", "ssm_bilinear"):
        eigenvalues = cell.eigenvalues(params) if name == "lru" else cell.discretized(params)[0]
        return math.log(scale) + float(jnp.log(jnp.hypot(*eigenvalues)).max())
    return math.nan


def hidden_size_for(name: str, inputs: int, outputs: int, parameters: int, state: int) -> tuple[int, int]:
    """The largest even H whose network has at most so many parameters and numbers in its state; its parameters."""

    def counts(half: int) -> tuple[int, int]:
        model = rnnjax.Readout(CATALOGUE[name](2 * half), outputs)
        params = jax.eval_shape(lambda key: model.init(key, inputs), jax.random.key(0))
        both = params, jax.eval_shape(model.initial_carry, params)
        of_params, of_state = (sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for tree in both)
        return of_params, of_state

    def fits(half: int) -> bool:
        of_params, of_state = counts(half)
        return of_params <= parameters and of_state <= state

    low, high = 1, 2  # H / 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return 2 * low, counts(low)[0]


def _problem(task: str, length: int) -> tuple[Callable[[Array, int], tasks.Batch], Any, float, int, int]:
    """`(draw, loss, baseline, inputs, outputs)` of a task."""
    if task == "adding":
        return lambda key, n: tasks.adding(key, length, (n,)), tasks.squared_error, tasks.adding_baseline().loss, 2, 1

    def draw(key: Array, n: int) -> tasks.Batch:
        return tasks.copy_memory(key, length // 2, (n,), symbols=SYMBOLS, memory=MEMORY)

    baseline = tasks.copy_memory_baseline(length // 2, symbols=SYMBOLS, memory=MEMORY).loss
    return draw, tasks.cross_entropy, baseline, SYMBOLS + 2, SYMBOLS + 1


def _network(asked: dict[str, Any]) -> tuple[rnnjax.Readout, Any, Any, float, int, dict[str, int]]:
    draw, score, baseline, inputs, outputs = _problem(asked["task"], asked["length"])
    size, parameters = hidden_size_for(asked["cell"], inputs, outputs, asked["parameters"], asked["state"])
    model = rnnjax.Readout(CATALOGUE[asked["cell"]](size), outputs)

    def loss(params: Any, batch: tasks.Batch) -> Array:
        return score(rnnjax.unroll(model, params, batch.xs)[1], batch)

    return model, draw, loss, baseline, inputs, {"hidden_size": size, "parameters_count": parameters}


def learning(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trains one cell on one task, from each seed.

    Returns:
      success: 1 - loss / baseline on 1000 new sequences after the last update; 0 where it stopped, not finite.
    """
    first, steps = asked[0], asked[0]["updates"]
    model, draw, loss, baseline, inputs, sizes = _network(first)
    schedule = optax.cosine_decay_schedule(first["rate"], steps)
    key = jax.random.key(first["seed"])
    indices = jnp.array([each["index"] for each in asked], jnp.uint32)
    fitted = fit_many(
        loss=loss,
        init=lambda key, setting: model.init(key, inputs),
        optimizer=optax.chain(clip_by_global_norm(1.0), optax.adam(schedule)),
        data=lambda key, step: draw(key, first["batch"]),
        settings={"key": jax.vmap(jax.random.fold_in, (None, 0))(key, indices)},
        options=FitOptions(steps=steps, chunk=steps),
        key=key,
    )
    test = draw(jax.random.fold_in(key, 2**31), 1000)
    tested = jax.device_get(jax.jit(lambda params: jax.lax.map(lambda p: loss(p, test), params))(fitted.state.params))
    return [
        {"test_loss": float(error), "baseline": baseline, "stopped_not_finite": fault is not None, **sizes}
        | {"success": 0.0 if fault is not None or not math.isfinite(error) else max(0.0, 1 - float(error) / baseline)}
        for error, fault in zip(tested, fitted.faults, strict=True)
    ]


def cost(cell: str, **asked: Any) -> dict[str, Any]:
    """The time of one update of the adding problem, and its ratio to the Elman network's, timed in turn."""
    given = asked | {"task": "adding"}
    own, elman = (_update(tuple(sorted((given | {"cell": name}).items()))) for name in (cell, "elman"))
    ratios, seconds = [], []
    for _ in range(BEST_OF):
        here, there = own(), elman()
        ratios.append(here / there)
        seconds.append(here)
    return {"seconds_per_update": min(seconds), "ratio_to_elman": float(np.median(ratios))}


@functools.lru_cache(maxsize=2)
def _update(asked: tuple[tuple[str, Any], ...]) -> Callable[[], float]:
    """Runs a compiled update a few times; returns the seconds of one."""
    given = dict(asked)
    model, draw, loss, _, inputs, _ = _network(given)
    batch = draw(jax.random.key(0), given["batch"])
    params = model.init(jax.random.key(1), inputs)
    update = jax.jit(jax.value_and_grad(loss))
    jax.block_until_ready(update(params, batch))

    def run(count: int = 5) -> float:
        started = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(update(params, batch))
        return (time.perf_counter() - started) / count

    return run


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    common = {"seed": options.seed, "hidden_size": options.hidden_size, "steps": options.steps}
    points = [
        {"cell": cell, "scale": scale, "index": index} | common
        for cell in options.cells
        for scale in options.scales
        for index in range(options.seeds)
    ]
    common = {name: getattr(options, name) for name in ("parameters", "state", "length", "batch")}
    fitted = {"seed": options.seed, "updates": options.updates, "rate": options.rate} | common
    runs = [
        {"cell": cell, "task": task, "index": index} | fitted
        for cell in options.cells
        for task in options.tasks
        for index in range(options.seeds)
    ]
    rows = run.rows(gradient, points, "gradients", together=("cell",))
    rows += run.rows(learning, runs, "trained networks", together=("cell", "task"))
    return rows + run.rows(cost, [{"cell": cell} | common for cell in options.cells], "timings")


def lines_of(rows: Sequence[lab.Row]) -> list[dict[str, Any]]:
    """One line for each cell: rates by scale, successes and cost, as means over seeds."""
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    lines = []
    for cell in cells:
        own = [row for row in rows if row["cell"] == cell]
        points, runs = [row for row in own if "scale" in row], [row for row in own if "task" in row]
        (timed,) = [row for row in own if "ratio_to_elman" in row]
        scales = sorted({row["scale"] for row in points})
        line: dict[str, Any] = {"cell": cell, "scaled": points[0]["scaled"], "scales": scales}
        for name in ("rate", "exponent", "theory"):
            by_scale = [[row[f"{name}_nats_per_step"] for row in points if row["scale"] == scale] for scale in scales]
            line[name] = [_mean(values) for values in by_scale]
        middle = min(range(len(scales)), key=lambda i: abs(math.log(scales[i])))
        line["rate_as_drawn"] = line["rate"][middle]
        for task in dict.fromkeys(row["task"] for row in runs):
            found = [row["success"] for row in runs if row["task"] == task]
            line |= {
                f"{task}_success": float(np.mean(found)),
                f"{task}_lowest": min(found),
                f"{task}_highest": max(found),
            }
        line |= {"hidden_size": runs[0]["hidden_size"], "parameters": runs[0]["parameters_count"]}
        lines.append(line | {"ratio_to_elman": timed["ratio_to_elman"]})
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = np.array(values, float)
    return float(numbers[np.isfinite(numbers)].mean()) if np.isfinite(numbers).any() else None


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    lines = lines_of(rows)
    page.text("Results", _results(lines))
    _rates_figure(page, lines)
    _learning_figure(page, lines)
    _cost_figure(page, lines)
    columns = {"cell": "cell", "scaled": "scaled", "rate_as_drawn": "rate as drawn [nats per step]"}
    columns |= {f"{task}_success": f"{task}, success" for task in page.options.tasks}
    columns |= {"hidden_size": "H", "parameters": "parameters", "ratio_to_elman": "cost of an update, Elman = 1"}
    page.table(lines, columns, "Every cell, as it is drawn (scale 1)")
    page.summary |= {"lines": lines}


def _results(lines: Sequence[dict[str, Any]]) -> list[str]:
    known = [line for line in lines if line["rate_as_drawn"] is not None]
    kept = [line["cell"] for line in known if line["rate_as_drawn"] > -0.02]
    pairs = [pair for line in lines for pair in zip(line["rate"], line["exponent"], strict=True)]
    both = np.array(pairs, float)
    both = both[np.isfinite(both).all(axis=1)]
    told = [
        abs(rate - said)
        for line in lines
        for rate, said in zip(line["rate"], line["theory"], strict=True)
        if rate is not None and said is not None
    ]
    return [
        f"At scale 1 the gradient of {len(known) - len(kept)} of {len(known)} cells falls by more than 2% per step; it "
        f"does not in {', '.join(kept) or 'any'}.",
        f"Rate of the gradient and leading exponent differ by {np.median(np.abs(both[:, 0] - both[:, 1])):.2g} nats "
        "per step in the median.",
        *([f"Where there is a closed form, it differs from the rate by {max(told):.2g} at most."] if told else []),
    ]


def _rates_figure(page: lab.Page, lines: Sequence[dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    from .lab import style

    columns = min(9, len(lines))
    count = math.ceil(len(lines) / columns)
    fig, axes = style.figures(count, columns, 1.55 * columns + 1.0, 1.45 * count + 1.2, sharex=True, sharey=True)
    for ax in axes.flat[len(lines) :]:
        ax.axis("off")
    ticks = [scale for scale in (0.5, 1, 2) if min(page.options.scales) <= scale <= max(page.options.scales)]
    for ax, line in zip(axes.flat, lines, strict=False):
        ax.axhline(0, color="black", linewidth=0.8)
        scales, rate, exponent, told = (
            np.array(line[name], float) for name in ("scales", "rate", "exponent", "theory")
        )
        ax.plot(scales, told, color="0.6", linewidth=5, alpha=0.7)
        ax.plot(scales, rate, color=style.BLUE, linewidth=1.5)
        ax.plot(scales, exponent, color=style.VERMILLION, **_OPEN)
        ax.set(xscale="log", ylim=(-1.5, 1.0))
        ax.set_xticks(ticks, [f"{scale:g}" for scale in ticks])
        ax.minorticks_off()
        ax.set_title(line["cell"] + ("" if line["scaled"] == "W2" else " *"))
    for ax in axes.flat[max(0, len(lines) - columns) : len(lines)]:  # the last one of each column
        ax.set_xlabel("scale", fontsize=8.5)
        ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("nats per step", fontsize=8.5)
    style.letters(axes)
    for ax in axes.flat[: len(lines)]:
        ax.set_title(ax.get_title(loc="left"), loc="left", fontsize=7)  # long names
    fig.suptitle("Every cell as it is drawn: growth of its gradient per step back")
    handles = [
        Line2D([], [], color=style.BLUE, label="gradient, per step back"),
        Line2D([], [], color=style.VERMILLION, label="leading exponent, per step forward", **_OPEN),
        Line2D([], [], color="0.6", linewidth=5, alpha=0.7, label="theory"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    knobs = dict.fromkeys(f"{line['cell']}: {line['scaled']}" for line in lines if line["scaled"] != "W2")
    page.figure(
        "rates",
        fig,
        alt="One small panel for each cell: the growth of the gradient per step against the scale of W2.",
        caption="Slope of log |dL/d(carry)| over lags from a tenth of the steps on (line), the leading Lyapunov "
        "exponent of the forward pass (open circles) and theory (grey band: mean field for elman, the largest "
        "eigenvalue for diagonal linear cells), by the scale of whatever multiplies the carry; means over the seeds "
        "whose gradient arrives. Below 0 a gradient vanishes, above it explodes. A point is left out where every state "
        "overflows or no gradient arrives."
        + (f" An asterisk marks cells whose knob takes the scale's place: {'; '.join(knobs)}." if knobs else ""),
    )


_OPEN: dict[str, Any] = {"marker": "o", "linestyle": "none", "markerfacecolor": "white", "markersize": 3.5}


def _learning_figure(page: lab.Page, lines: Sequence[dict[str, Any]]) -> None:
    """Success on both tasks, cells ordered by their sum; on the right the gradient's rate as drawn."""
    from .lab import style

    ordered = sorted(lines, key=lambda line: sum(line[f"{task}_success"] for task in page.options.tasks))
    at = np.arange(len(ordered))
    fig, axes = style.figures(1, 2, 9.0, 0.19 * len(ordered) + 2.0, sharey=True)
    for i, task in enumerate(page.options.tasks):
        low, middle, high = (
            np.array([line[f"{task}_{name}"] for line in ordered]) for name in ("lowest", "success", "highest")
        )
        axes[0, 0].errorbar(
            middle, at, xerr=(middle - low, high - middle), **style.markers(i), label=task, markersize=4.5
        )
    axes[0, 0].set_yticks(at, [line["cell"] for line in ordered], fontsize=7.5)
    axes[0, 0].set(xlabel="success: 1 − loss / loss of ignoring the input", title="learned", xlim=(-0.03, 1.03))
    axes[0, 0].legend(loc="lower right")
    rates = np.array([line["rate_as_drawn"] for line in ordered], float)
    axes[0, 1].axvline(0, color="black", linewidth=0.8)
    axes[0, 1].plot(rates, at, **style.markers(2), markersize=4.5)
    axes[0, 1].set(xlabel="growth of the gradient per step back [nats]", title="as drawn", ylim=(-1, len(ordered)))
    axes[0, 1].set_xlim(max(-2.0, np.nanmin(rates) - 0.1), min(1.0, np.nanmax(rates) + 0.1))
    style.letters(axes)
    fig.suptitle("Equal parameters, equal updates")
    page.figure(
        "learning",
        fig,
        alt="Left, success on each task for each cell; right, its gradient's rate as drawn.",
        caption=f"Success after {page.options.updates} updates of networks with at most {page.options.parameters} "
        "parameters: mean over seeds, bars from the lowest to the highest. Right: the gradient's rate at scale 1.",
    )


def _cost_figure(page: lab.Page, lines: Sequence[dict[str, Any]]) -> None:
    from .lab import style

    count = len(page.options.tasks)
    fig, axes = style.figures(1, count, 6.0 * count, 6.0, sharex=True, sharey=True)
    for ax, task in zip(axes[0], page.options.tasks, strict=True):
        x, y = (np.array([line[name] for line in lines]) for name in ("ratio_to_elman", f"{task}_success"))
        names = [line["cell"] for line in lines]
        ax.plot(x, y, **style.markers(0), markersize=4)
        best = [i for i in np.argsort(x) if not ((x <= x[i]) & (y > y[i])).any()]  # nothing learns more at their cost
        front = "no cell learns more at less cost:\n" + "\n".join(names[i] for i in best)
        corners = [*x[best], x.max()], [*y[best], y[best].max()]
        ax.step(*corners, where="post", color="0.5", linewidth=1.2, zorder=1, label=front)
        for i, name in enumerate(("elman", "lstm", "gru"), 1):
            if name in names:
                at = names.index(name)
                ax.plot(x[at], y[at], **style.markers(i), label=name)
        ax.set(xscale="log", title=task, xlabel="time of an update, Elman network = 1", ylim=(-0.05, 1.08))
        ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if x.min() <= tick <= x.max()]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.58), fontsize=8)
    axes[0, 0].set_ylabel("success: 1 − loss / loss of ignoring the input")
    style.letters(axes)
    fig.suptitle("What is learned, and what an update costs")
    page.figure(
        "cost",
        fig,
        alt="Success on each task against the measured time of an update, one point per cell.",
        caption=f"Success after equal updates against the time of one update, both of networks with at most "
        f"{page.options.parameters} parameters. The grey line is the most that is learned at a cost, by the cells "
        "named in the legend, cheapest first. Times are medians of ratios to the Elman network, timed in turn, on "
        f"one machine: {page.options.batch} sequences of {page.options.length} steps.",
    )


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

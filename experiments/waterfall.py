"""The waterfall: how much of a task's own gradient is left, by lag and scale of W2, before and after training.

Question: how does the gradient of a memory task decay with lag in each cell, and does training change it?
Command: python -m experiments.waterfall
Minutes: 4 on one core; 1 with --quick.
Expected: at initialisation the gradient of the linear cell changes by exactly k log s over k steps, whatever the input.
The tanh cell follows the mean field of its own input within some hundredths of a nat per step; the LSTM decays more
slowly than the tanh cell at every scale up to 1. Training keeps or rebuilds a path: where the error has come down, the
gradient at the longest lag is of order one after training, wherever it was before; where it has not, it stays decades
below.

The task: recall the first input. Inputs are white noise N(0, 1) with a marker on the first step; the target of the last
step is that first input, through a linear readout with squared error, for which the best constant has 1. W2 is scale
times orthogonal (per gate). Adam with clipping at norm 1 trains every scale and seed of a cell in one compiled program,
on the same batches. Measured is the mean over sequences of log |dL/d(carry)|, relative to lag 0, in float64.
"""

import functools
import math
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge, MinLen
from jax import Array
from jax.sharding import Mesh
from matplotlib.patheffects import withStroke
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax import gradients
from rnnjax.gradients import theory
from rnnjax.sharding import spread

from . import lab
from .gradient_decay import CELLS, redraw
from .lab import style

INPUT_SIZE = 2  # noise and marker
MEASURED, TESTED = 64, 512  # sequences for gradients, and for errors
LEARNED = 0.1  # of the best constant's error
LEVELS = (-8, -6, -4, -2, -1, 0, 1, 2)  # contours [decades]
CellName = Literal["linear", "tanh", "relu", "lstm", "gru"]


@lab.options(quick={"scales": (0.6, 1.0, 1.4), "seeds": 1, "updates": 150, "steps": 15, "hidden_size": 16})
class Options(lab.ProcessOptions):
    """Log-adjoint of a memory task against lag, scale and cell, before and after training."""

    cells: lab.Distinct[CellName] = ("linear", "tanh", "gru", "lstm")
    """Built-in cells: linear, tanh, relu (Elman), lstm, gru."""
    scales: Annotated[lab.Distinct[PositiveFloat], MinLen(2)] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)
    """Scales of the orthogonal W2 at initialisation [dimensionless]."""
    steps: Annotated[int, Ge(3)] = 20
    """Length of the sequences, and so the lag to be bridged [steps]."""
    hidden_size: PositiveInt = 32
    """H [units]."""
    seeds: PositiveInt = 2
    """How many networks per cell and scale."""
    updates: PositiveInt = 1500
    """How many updates of Adam."""
    batch: PositiveInt = 32
    """Sequences per update."""
    learning_rate: PositiveFloat = 3e-3
    """Of Adam."""


class Model(NamedTuple):
    cell: Any
    w_out: Any  # [H, 1]
    b_out: Any  # [1]


def sequences(key: Array, steps: int, count: int) -> tuple[Array, Array]:
    """Inputs `[T, count, 2]` (noise, marker) and targets `[count]`, the first noise."""
    noise = jax.random.normal(key, (steps, count), "float64")
    marker = jnp.zeros_like(noise).at[0].set(1)
    return jnp.stack([noise, marker], axis=-1), noise[0]


def networks(asked: list[dict[str, Any]], mesh: Mesh | None = None) -> list[dict[str, Any]]:
    """Trains and measures networks of one cell together.

    Returns:
      For each network, `before` and `after`: `[T + 1]` nats, the mean over sequences of log |dL/d(carry)| by lag minus
      that at lag 0; `error_before` and `error_after` on fresh sequences; `losses`, `[updates]`, of every batch.
    """
    first = asked[0]
    cell = CELLS[first["cell"]](first["hidden_size"])
    key_draw, key_train, key_test = jax.random.split(jax.random.key(first["seed"]), 3)

    def draw(key: Array, scale: float) -> Model:
        key_cell, key_recurrent, key_out = jax.random.split(key, 3)
        params = redraw(cell.init(key_cell, INPUT_SIZE, "float64"), [".w_h"], key_recurrent, "orthogonal")
        w_out = jax.random.normal(key_out, (first["hidden_size"], 1), "float64") / first["hidden_size"] ** 0.5
        return Model(params._replace(w_h=params.w_h * scale), w_out, jnp.zeros(1, "float64"))

    keys = jax.random.split(key_draw, max(each["network"] for each in asked) + 1)
    drawn = [draw(keys[each["network"]], each["scale"]) for each in asked]  # LAPACK's QR apart from the time loops
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    sizes = (first["steps"], first["updates"], first["batch"], first["learning_rate"])
    trained, losses = _train(cell, models, key_train, *sizes, mesh)
    before, error_before = _evaluate(cell, models, key_test, first["steps"])
    after, error_after = _evaluate(cell, trained, key_test, first["steps"])
    names = ("before", "after", "losses", "error_before", "error_after")
    columns = map(np.asarray, (before, after, losses, error_before, error_after))
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _loss(model: Model, ys: Array, targets: Array) -> Array:
    return (((ys[-1] @ model.w_out)[:, 0] + model.b_out - targets) ** 2).mean()


@functools.partial(jax.jit, static_argnums=(0, 3))
@functools.partial(jax.vmap, in_axes=(None, 0, None, None))
def _evaluate(cell: rnnjax.Cell, model: Model, key: Array, steps: int) -> tuple[Array, Array]:
    xs, targets = sequences(key, steps, TESTED)
    error = _loss(model, rnnjax.unroll(cell, model.cell, xs)[1], targets)
    xs, targets = xs[:, :MEASURED], targets[:MEASURED]
    found = gradients.adjoint(cell, model.cell, xs, lambda ys: _loss(model, ys, targets)).log_norm[::-1]
    return (found - found[0]).mean(axis=1), error


def _train(
    cell: rnnjax.Cell, models: Model, key: Array, steps: int, updates: int, batch: int, learning_rate: float,
    mesh: Mesh | None,
) -> tuple[Model, Array]:  # fmt: skip
    """The trained models, and `[N, updates]` losses; all models read the same batches."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))

    def train(model: Model) -> tuple[Model, Array]:
        def update(carry: tuple[Model, Any], key: Array) -> tuple[tuple[Model, Any], Array]:
            xs, targets = sequences(key, steps, batch)

            def loss(model: Model) -> Array:
                return _loss(model, rnnjax.unroll(cell, model.cell, xs)[1], targets)

            model, state = carry
            value, gradient = jax.value_and_grad(loss)(model)
            step, state = optimizer.update(gradient, state, model)
            return (optax.apply_updates(model, step), state), value  # pyright: ignore[reportReturnType]

        (model, _), losses = jax.lax.scan(update, (model, optimizer.init(model)), jax.random.split(key, updates))  # pyright: ignore[reportArgumentType]
        return model, losses

    return jax.tree.map(np.asarray, spread(train, mesh)(models))


def closed_form(name: str, scales: tuple[float, ...], steps: int, seed: int) -> np.ndarray | None:
    """log gradient before training at lags 0..T relative to lag 0, `[scales, T + 1]` nats.

    Exact for linear; for tanh the mean field, for the very sequences that are measured: that of each sequence's own
    drive, |x_t|²/D as W_x ~ N(0, 1/D), and then a mean over sequences. None for other cells.
    """
    if name == "linear":
        return np.log(scales)[:, None] * np.arange(steps + 1)
    if name != "tanh":
        return None
    key_test = jax.random.split(jax.random.key(seed), 3)[2]  # as in `networks`
    xs = sequences(key_test, steps, TESTED)[0][:, :MEASURED]
    drives = (xs**2).sum(axis=-1) / INPUT_SIZE
    rates = np.array([_mean_rates(jnp.asarray(scale, drives.dtype), drives) for scale in scales])
    return np.concatenate([np.zeros((len(scales), 1)), np.cumsum(rates[:, ::-1], axis=1)], axis=1)


@jax.jit
def _mean_rates(scale: Array, drives: Array) -> Array:
    """`[T]`: mean over sequences."""
    return jax.vmap(theory.tanh_mean_field_rates, in_axes=(None, 1), out_axes=1)(scale, drives).mean(axis=1)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    names = ("hidden_size", "steps", "updates", "batch", "learning_rate", "seed")
    common = {name: getattr(options, name) for name in names}
    asked = [
        {"cell": cell, "scale": scale, "network": network, **common}
        for cell in options.cells
        for scale in options.scales
        for network in range(options.seeds)
    ]
    return run.rows(networks, asked, "networks", together=("cell",), given={"mesh": run.mesh})


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    o, lag, residuals, maps, contours = page.options, page.options.steps - 1, [], {}, {}
    for name in o.cells:
        own = [row for row in rows if row["cell"] == name]
        for what in ("before", "after"):
            by_scale = np.reshape([row[what] for row in own], (len(o.scales), o.seeds, o.steps + 1))
            maps[name, what] = by_scale.mean(axis=1) / math.log(10)
        closed = closed_form(name, o.scales, o.steps, o.seed)
        if closed is not None:
            contours[name] = closed / math.log(10)
            for scale, expected in zip(o.scales, closed[:, -1] / o.steps, strict=True):
                samples = np.array([row["before"][-1] / o.steps for row in own if row["scale"] == scale])
                quantity = f"{name}, scale {scale:g}: rate"
                residuals.append(lab.residual(quantity, samples.mean(), expected, unit="nats/step", samples=samples))
    table = [
        {
            "cell": row["cell"],
            "scale": row["scale"],
            "seed": row["network"],
            "log10_gradient_before": row["before"][lag] / math.log(10),  # lag T - 1: the carry after the first input
            "log10_gradient_after": row["after"][lag] / math.log(10),
            "error_before": row["error_before"],
            "error_after": row["error_after"],
        }
        for row in rows
    ]
    lines = []
    for name in contours:
        off = max(abs(each["residual"]) for each in residuals if each["quantity"].startswith(name))
        lines.append(f"{name}: the rate before training is within {off:.1e} nats per step of theory.")
    for name in o.cells:
        learned = [row["error_after"] < LEARNED for row in table if row["cell"] == name]
        lines.append(f"{name}: {sum(learned)} of {len(learned)} networks bring the error below {LEARNED:g}.")
    ends = {learned: [row["log10_gradient_after"] for row in table if (row["error_after"] < LEARNED) == learned]
            for learned in (True, False)}  # fmt: skip
    if ends[True] and ends[False]:
        lines.append(
            f"In networks that learn, the gradient at lag {lag} after training is at least 10^{min(ends[True]):.1f} of "
            f"that at lag 0; in those that fail its median is 10^{np.median(ends[False]):.1f}."
        )
    page.text("Results", lines)
    page.figure(
        "waterfall",
        _waterfall_figure(o, maps, contours),
        alt="Heat maps of the log gradient by lag and scale for each cell, before and after training: dark where it "
        "has vanished. Contours of theory follow the colours.",
        caption="Mean over sequences and seeds. Contours (black): closed form for the linear cell, mean field for "
        "tanh, in decades. Where a network has learned, training has rebuilt a path to the first input; where it "
        "failed, it stays dark.",
    )
    page.figure(
        "success",
        _success_figure(o.cells, table),
        alt="Error after training against the gradient at the longest lag: low errors only where it is near one.",
        caption="One network per pair of scale and seed: open, the gradient before training; filled, after it. Errors "
        "below a tenth are found only where the gradient at the longest lag is of order one after training.",
    )
    page.residuals(residuals, "Rate over all lags before training, measured and in theory")
    page.table(table, caption=f"Every network: gradient at lag {lag}, and error")
    page.summary |= {"rows": table, "residuals": residuals, "learned_below_error": LEARNED}


def _waterfall_figure(
    options: Options, maps: dict[tuple[str, str], np.ndarray], contours: dict[str, np.ndarray]
) -> style.Figure:
    """`maps[cell, "before" or "after"]` and `contours[cell]` are `[scales, T + 1]` in decades."""
    cells, lags, ys = options.cells, np.arange(options.steps + 1), np.arange(len(options.scales))
    fig, axes = style.figures(2, len(cells), 2.5 * len(cells) + 1.2, 5.6, sharex=True, sharey=True)
    for (cell, what), values in maps.items():
        ax = axes[int(what == "after"), cells.index(cell)]
        image = ax.pcolormesh(lags, ys, values, vmin=-8, vmax=2, shading="nearest", rasterized=True)
        if what == "before" and cell in contours:
            drawn = ax.contour(lags, ys, contours[cell], levels=LEVELS, colors="k", linestyles="-", linewidths=1.2)
            drawn.set_path_effects([withStroke(linewidth=2.6, foreground="white")])
            for text in ax.clabel(drawn, fmt="%d", fontsize=8):
                text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        ax.set_yticks(ys, [f"{scale:g}" for scale in options.scales])
        ax.grid(False)
        ax.set_title(f"{cell}, {what}")
    for ax in axes[1]:
        ax.set_xlabel("lag T − t [steps]")
    for ax, what in zip(axes[:, 0], ("before", "after"), strict=True):
        ax.set_ylabel(f"{what} training\nscale of W2")
    label = "log10 |dL/d(carry)|, relative to lag 0 [decades]"
    fig.colorbar(image, ax=axes, label=label, extend="both", pad=0.01)
    style.letters(axes)
    return fig


def _success_figure(cells: tuple[str, ...], table: list[dict[str, Any]]) -> style.Figure:
    """Final error against the gradient that reaches the first input, before (open) and after training (filled)."""
    fig, ax = style.figure(7, 4.4)
    for i, cell in enumerate(cells):
        marker, color = style.line(i)["marker"], style.line(i)["color"]
        for row in (row for row in table if row["cell"] == cell):
            before, after, error = row["log10_gradient_before"], row["log10_gradient_after"], row["error_after"]
            ax.plot([before, after], [error, error], color=color, linewidth=0.8, alpha=0.7)
            ax.plot(before, error, marker, color=color, markerfacecolor="white")
            ax.plot(after, error, marker, color=color)
        ax.plot([], [], marker, color=color, label=cell)
    ax.plot([], [], "ko", markerfacecolor="white", label="before training")
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ax.annotate("best constant", (0.01, 1), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                fontsize=8)  # fmt: skip
    ax.set(title="Error and the gradient that reaches the first input", yscale="log")
    ax.set_xlabel("log10 of the gradient at the first input, relative to lag 0 [decades]")
    ax.set_ylabel("mean squared error after training")
    ax.legend()
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

"""Does the gradient's rate decide what is learned? Adjoint, Lyapunov exponent, closed form, and success on one axis.

Question: is the rate at which a task's own gradient decays the Lyapunov exponent of the same run, and is what a network
learns a function of rate times lag alone, over cells, scales, lengths and tasks?
Command: python -m experiments.collapse
Minutes: 10 on one core; with --quick two.
Expected: in solvable cases all three rates agree to 1e-14. In drawn networks adjoint and exponent agree to 0.004 nats
per step (root mean square); the closed forms are limits: mean field is off by 0.03 at H = 32, log σ(bias) by up to 0.6
where W2 is not small. The latch collapses: one curve of rate × lag, half of success at -9.2 nats, R² = 0.95 over all
cells. Temporal order does not (R² = 0.49): GRU and LSTM reach further, and Elman fails at T = 40 though little
gradient is lost, as it cannot hold a symbol against the distractors. All together R² = 0.69; the lag alone 0.16, the
rate alone 0.26.

Part one: for Elman, LSTM and GRU over scales of W2 and gate biases, on the inputs of two tasks, before training, in
float64: the slope of log ‖dL/d(carry_t)‖ over lags 40 to 300, the leading Lyapunov exponent of the same rows, and the
closed form where there is one. Part two: the same networks trained, at several lengths, with Adam and a fixed budget;
success is the share of what chance leaves, and the axis is the rate from part one times the lag of the task, in nats.
"""

import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge
from jax import Array
from jax.sharding import Mesh
from matplotlib.lines import Line2D
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax import tasks
from rnnjax.gradients import adjoint, leading_exponent, theory
from rnnjax.initializers import Normal
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many

from . import lab
from .lab import style
from .temporal_order import Network


@lab.options(quick={"lengths": (10, 20), "seeds": 1, "updates": 100, "hidden_size": 16})
class Options(lab.ProcessOptions):
    """Rates of decay before training, and success after it."""

    lengths: lab.Distinct[Annotated[int, Ge(10)]] = (10, 20, 40)
    """Sequence lengths T [steps]."""
    hidden_size: PositiveInt = 32
    """H [units]."""
    seeds: PositiveInt = 3
    """Networks per setting."""
    updates: PositiveInt = 600
    """Updates of Adam."""
    batch: PositiveInt = 32
    """Sequences in a batch."""
    rate: PositiveFloat = 3e-3
    """Learning rate of Adam."""


class Task(NamedTuple):
    """A task that is scored at its last step."""

    draw: Any  # (key, steps, batch_shape) -> Batch
    features: int
    classes: int
    lag_share: float  # steps from the last one back to the first informative one, on average, over T
    input_variance: float  # of x W1 over units, on average over steps


TASKS = {
    "latch": Task(tasks.latch, 1, 2, 1.0, 0.2**2),
    "temporal order": Task(tasks.temporal_order, 6, 4, 0.85, 1 / 6),
}

SETTINGS = {
    "elman": tuple((gain, 0.0) for gain in (0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.5)),
    "lstm": (*((0.5, bias) for bias in (-1.0, 0.0, 1.0, 2.0, 4.0)), (1.5, 1.0), (3.0, 1.0)),
    "gru": (*((0.5, bias) for bias in (-1.0, 0.0, 1.0, 2.0, 4.0)), (1.5, 0.0), (3.0, 0.0)),
}
"""Gain and bias: W2 ~ N(0, gain²/H) in every gate, and the bias of the gate that holds (LSTM: forget, GRU: z)."""

STEPS, ROWS = 340, 4
NEAR, FAR = 40, 300  # lags between which the slope is taken: past the readout's transient, short of the start
HELD_OUT = 1000


def cell_of(name: str, size: int) -> Any:
    if name == "elman":
        return rnnjax.Elman(size, w_h=Normal())
    return rnnjax.LSTM(size, forget_bias=0.0, w_h=Normal()) if name == "lstm" else rnnjax.GRU(size, w_h=Normal())


def init_network(cell: Any, task: Task, key: Array, gain: Any, bias: Any, dtype: str = "float32") -> Network:
    """A network at one setting; gain and bias may be traced."""
    key_rnn, key_out = jax.random.split(key)
    rnn = cell.init(key_rnn, task.features, jnp.dtype(dtype))
    size = cell.hidden_size
    rnn = rnn._replace(w_h=rnn.w_h * jnp.asarray(gain, dtype))
    if rnn.b.size > size:  # in both gated cells the second block is the gate that holds
        rnn = rnn._replace(b=rnn.b.at[size : 2 * size].set(jnp.asarray(bias, dtype)))
    w_out = jax.random.normal(key_out, (size, task.classes), dtype) / np.sqrt(size).astype(dtype)
    return Network(rnn, w_out, jnp.zeros(task.classes, dtype))


def closed_form(cell: str, task: Task, gain: float, bias: float) -> float | None:
    """Nats per step, where a formula holds: mean field for Elman; for small W2, log σ(bias) of a gate that holds."""
    if cell == "elman":
        return float(theory.tanh_lyapunov_exponent(gain, task.input_variance))
    return float(theory.forget_gate_exponent(bias)) if gain <= 0.5 else None


def rates(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Before training, in float64: the adjoint's rate and the Lyapunov exponent of the same rows.

    The networks differ in gain, bias and index; cell, task, hidden_size and seed are the same for all.
    """
    first = asked[0]
    cell, task = cell_of(first["cell"], first["hidden_size"]), TASKS[first["task"]]
    index = np.array([each["index"] for each in asked])
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(first["seed"]), index.max() + 1)
        gains, biases = (jnp.array([each[name] for each in asked]) for name in ("gain", "bias"))
        init = jax.vmap(lambda key, gain, bias: init_network(cell, task, key, gain, bias, "float64"))
        networks = jax.jit(init)(keys[index], gains, biases)
        batch = task.draw(jax.random.fold_in(keys[0], 1), STEPS, (ROWS,), dtype="float64")

        @jax.jit
        @jax.vmap
        def both(network: Network):
            def loss(ys: Array) -> Array:
                return tasks.cross_entropy(ys @ network.w_out + network.b_out, batch)

            found = adjoint(cell, network.rnn, batch.xs, loss).log_norm
            lags = jnp.arange(NEAR, FAR + 1)
            curve = found[STEPS - lags].mean(axis=1)
            centred = (lags - lags.mean()) / jnp.sum((lags - lags.mean()) ** 2)
            exponent = leading_exponent(cell, network.rnn, batch.xs, transient=STEPS - FAR).exponent
            return (centred * curve).sum(), exponent.mean(), found.mean(axis=1)

        slopes, exponents, curves = map(np.asarray, both(networks))
    return [
        {"adjoint_rate": slopes[i], "exponent": exponents[i], "log_norm_at_every_20th_lag": curves[i, ::-20]}
        | {"closed_form": closed_form(each["cell"], task, each["gain"], each["bias"])}
        for i, each in enumerate(asked)
    ]


@functools.partial(jax.jit, static_argnums=0)
def _exact_rates(cell: Any, params: Any) -> tuple[Array, Array]:
    xs = jnp.zeros((STEPS, 1))
    weights = jnp.cos(jnp.arange(cell.hidden_size, dtype=xs.dtype))
    found = adjoint(cell, params, xs, lambda ys: ys[-1] @ weights).log_norm
    exponent = leading_exponent(cell, params, xs, transient=STEPS - FAR).exponent
    return (found[STEPS - FAR] - found[STEPS - NEAR]) / (FAR - NEAR), exponent


def solvable(case: str, value: float, hidden_size: int) -> dict[str, Any]:
    """All three where they are known: a rotation scaled by `value`, or a gate of bias `value`, W2 = 0 and no input."""
    with jax.enable_x64(True):
        if case == "linear, scaled rotation":
            cell: Any = rnnjax.Elman(hidden_size, "linear")
            rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(hidden_size, hidden_size)))[0]
            w_x, b = jnp.ones((1, hidden_size)), jnp.zeros(hidden_size)
            params: Any = rnnjax.ElmanParams(w_x, jnp.asarray(value * rotation), b)
            known = np.log(value)
        else:
            cell = rnnjax.LSTM(hidden_size) if case.startswith("lstm") else rnnjax.GRU(hidden_size)
            shapes = jax.eval_shape(lambda key: cell.init(key, 1, jnp.float64), jax.random.key(0))
            zeros: Any = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            params = zeros._replace(b=zeros.b.at[hidden_size : 2 * hidden_size].set(value))
            known = theory.forget_gate_exponent(value)
        rate, exponent = _exact_rates(cell, params)
        return {"closed_form": float(known), "adjoint_rate": float(rate), "exponent": float(exponent)}


def train(asked: list[dict[str, Any]], mesh: Mesh | None = None) -> list[dict[str, Any]]:
    """Held-out accuracy after the budget of updates, and whether NaN or inf was met.

    The networks differ in gain, bias and index; all other arguments, and steps (T), are the same for all.
    """
    first = asked[0]
    cell, task, steps = cell_of(first["cell"], first["hidden_size"]), TASKS[first["task"]], first["steps"]
    index = np.array([each["index"] for each in asked])

    def outputs(network: Any, batch: Any) -> Array:
        return rnnjax.unroll(cell, network.rnn, batch.xs)[1] @ network.w_out + network.b_out

    fitted = fit_many(
        lambda network, batch: tasks.cross_entropy(outputs(network, batch), batch),
        lambda key, setting: init_network(cell, task, key, setting["gain"], setting["bias"]),
        optax.chain(clip_by_global_norm(1.0), optax.adam(first["rate"])),
        lambda key, step: task.draw(key, steps, (first["batch"],)),
        {name: jnp.array([each[name] for each in asked]) for name in ("gain", "bias")}
        | {"key": jax.random.split(jax.random.key(first["seed"]), index.max() + 1)[index]},
        FitOptions(steps=first["updates"], chunk=first["updates"]),
        key=jax.random.key(first["seed"]),
        held_out=lambda key, index: task.draw(key, steps, (HELD_OUT,)),
        measure=lambda network, batch: {"accuracy": tasks.accuracy(outputs(network, batch), batch)},
        mesh=mesh,
    )
    reached = fitted.history["held_out_accuracy"][-1]
    return [{"accuracy": reached[i], "failed": fitted.faults[i] is not None} for i in range(len(asked))]


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    cases = [{"case": "linear, scaled rotation", "value": scale, "hidden_size": 8} for scale in (0.5, 0.8, 0.95, 1.1)]
    for name in ("lstm", "gru"):
        cases += [{"case": f"{name}, W2 = 0", "value": bias, "hidden_size": 8} for bias in (-1.0, 0.0, 1.0, 3.0)]
    networks = [
        {"cell": cell, "task": task, "gain": gain, "bias": bias, "index": index}
        | {"hidden_size": options.hidden_size, "seed": options.seed}
        for cell, settings in SETTINGS.items()
        for task in TASKS
        for gain, bias in settings
        for index in range(options.seeds)
    ]
    budget = {name: getattr(options, name) for name in ("updates", "batch", "rate")}
    trained = [{"steps": steps} | network | budget for steps in options.lengths for network in networks]
    return [
        *run.rows(solvable, cases, "solvable cases"),
        *run.rows(rates, networks, "rates", together=("cell", "task")),
        *run.rows(train, trained, "trained", together=("steps", "cell", "task"), given={"mesh": run.mesh}),
    ]


def logistic(x: np.ndarray, centre: Any, width: Any) -> np.ndarray:
    """Success at x: 1 for x far above the centre."""
    return 1 / (1 + np.exp(np.clip(-(x - centre) / width, -500, 500)))


def fit(x: np.ndarray, success: np.ndarray) -> dict[str, float]:
    """The best centre and width on a grid, refined twice, and R²: the share of the variance that the curve explains."""
    low, high = float(x.min()), float(x.max())
    span = max(high - low, 1e-9)
    centres, widths = np.linspace(low, high, 81), np.geomspace(span / 400, 4 * span, 61)
    best = (np.inf, low, span)
    for _ in range(3):
        curves = logistic(x[None, None], centres[:, None, None], widths[None, :, None])
        errors = ((curves - success) ** 2).mean(-1)
        i, j = np.unravel_index(errors.argmin(), errors.shape)
        best = min(best, (float(errors[i, j]), float(centres[i]), float(widths[j])))
        step = centres[1] - centres[0]
        centres = np.linspace(best[1] - step, best[1] + step, 41)
        widths = np.geomspace(best[2] / 1.2, best[2] * 1.2, 41)
    error, centre, width = best
    variance = float(success.var())
    r_squared = 1 - error / variance if variance > 0 else float("nan")
    return {"centre": centre, "width": width, "rms_residual": float(np.sqrt(error)), "r_squared": r_squared}


def _grouped(rows: list[lab.Row], *names: str) -> list[tuple[dict[str, Any], list[lab.Row]]]:
    """The rows that share these arguments, after the arguments."""
    groups: dict[tuple[Any, ...], list[lab.Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return [(dict(zip(names, key, strict=True)), found) for key, found in groups.items()]


def rate_lines(rows: list[lab.Row]) -> list[dict[str, Any]]:
    """A line for each cell, task and setting, from rows of `rates`."""
    lines = []
    for line, found in _grouped(rows, "cell", "task", "gain", "bias"):
        for name in ("adjoint_rate", "exponent"):
            values = [row[name] for row in found]
            line |= {name: float(np.mean(values)), f"{name}_by_seed": values}
        lines.append(line | {"closed_form": found[0]["closed_form"]})
    return lines


def points_of(rows: list[lab.Row], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Success and rate × lag for each length, cell, task and setting, from rows of `train` and `rate_lines`."""
    rate_of = {(line["cell"], line["task"], line["gain"], line["bias"]): line["adjoint_rate"] for line in lines}
    points = []
    for point, found in _grouped(rows, "cell", "task", "steps", "gain", "bias"):
        task, rate = TASKS[point["task"]], rate_of[point["cell"], point["task"], point["gain"], point["bias"]]
        chance, lag = 1 / task.classes, task.lag_share * point["steps"]
        reached = [row["accuracy"] for row in found]
        known = np.array([chance if a is None else a for a in reached], float)  # a run that met NaN knows nothing
        success = float((known.mean() - chance) / (1 - chance))
        point |= {"lag_steps": lag, "rate": rate, "rate_times_lag": rate * lag}
        points.append(point | {"success": success, "accuracy_by_seed": reached})
    return points


def fits_of(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all points one curve of rate × lag, of the rate and of the lag alone; and of rate × lag group by group."""

    def of(axis: Any = "rate_times_lag", **which: str) -> dict[str, float]:
        some = [p for p in points if all(p[name] == value for name, value in which.items())]
        x = np.array([p[axis] for p in some])
        return fit(-np.log(x) if axis == "lag_steps" else x, np.array([p["success"] for p in some]))

    fits: dict[str, Any] = {"rate times lag": of(), "rate alone": of("rate"), "lag alone": of("lag_steps")}
    fits |= {f"rate times lag, {cell}": of(cell=cell) for cell in SETTINGS}
    fits |= {f"rate times lag, {task}": of(task=task) for task in TASKS}
    panels = {f"{cell}, {task}": of(cell=cell, task=task) for cell in SETTINGS for task in TASKS}
    return fits | {"by cell and task": panels}


def _residuals(lines: list[dict[str, Any]], exact: list[dict[str, Any]]) -> dict[str, Any]:
    by_seed = np.concatenate([np.subtract(line["adjoint_rate_by_seed"], line["exponent_by_seed"]) for line in lines])
    off = [(of["cell"], of["adjoint_rate"] - of["closed_form"]) for of in lines if of["closed_form"] is not None]
    rms = {cell: float(np.sqrt(np.mean([difference**2 for of, difference in off if of == cell]))) for cell in SETTINGS}
    return {
        "adjoint_minus_exponent_rms": float(np.sqrt(np.mean(by_seed**2))),
        "adjoint_minus_exponent_largest": float(np.abs(by_seed).max()),
        "adjoint_minus_closed_form_rms": rms,
        "exact_adjoint_largest": max(abs(case["adjoint_rate"] - case["closed_form"]) for case in exact),
        "exact_exponent_largest": max(abs(case["exponent"] - case["closed_form"]) for case in exact),
    }


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    exact = [row.plain for row in rows if "case" in row]
    lines = rate_lines([row for row in rows if "index" in row and "exponent" in row])
    points = points_of([row for row in rows if "accuracy" in row], lines)
    fits, residuals = fits_of(points), _residuals(lines, exact)
    closed = ", ".join(f"{cell} {value:.3f}" for cell, value in residuals["adjoint_minus_closed_form_rms"].items())
    sentences = [
        f"In the solvable cases the adjoint's rate equals the closed form to {residuals['exact_adjoint_largest']:.1e}, "
        f"and the Lyapunov exponent to {residuals['exact_exponent_largest']:.1e} nats per step.",
        "Network by network, the adjoint's rate and the exponent of the same rows differ by "
        f"{residuals['adjoint_minus_exponent_rms']:.4f} nats per step (root mean square; at most "
        f"{residuals['adjoint_minus_exponent_largest']:.3f}). From the closed form, root mean square: {closed}.",
    ]
    page.text("Results", sentences)
    _rates_figure(page, lines, exact)
    _collapse_figure(page, points, fits)
    _groups_figure(page, points, fits)
    shown = [{"axis": name} | found for name, found in fits.items() if name != "by cell and task"]
    shown += [{"axis": f"rate times lag: {name}"} | found for name, found in fits["by cell and task"].items()]
    headings = {"axis": "axis", "r_squared": "R²", "rms_residual": "rms residual"}
    headings |= {"centre": "centre [nats; or of the axis]", "width": "width"}
    page.table(shown, headings, "Logistic curves of success")
    page.summary |= {"exact_cases": exact, "rates": lines, "points": points, "fits": fits, "residuals": residuals}


FLOAT32 = -24 * np.log(2)  # nats: below it a far gradient is under the rounding of a near one
_COLORS = dict(zip(SETTINGS, (style.BLUE, style.ORANGE, style.BLACK), strict=True))
_MARKERS = dict(zip(TASKS, ("o", "^"), strict=True))
_OPEN: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white"}


def _look(of: dict[str, Any]) -> dict[str, Any]:
    return {"color": _COLORS[of["cell"]], "marker": _MARKERS[of["task"]]} | _OPEN


def _legend(fig: Any, others: list[Any]) -> None:
    """Below the panels: colours of cells, markers of tasks, and the other lines."""
    looks: list[Any] = [{"color": color, "marker": "o", "label": name} for name, color in _COLORS.items()]
    looks += [{"color": "0.4", "marker": marker, "label": name} for name, marker in _MARKERS.items()]
    handles = [Line2D([], [], **look, **_OPEN) for look in looks]
    fig.legend(handles=handles + others, loc="outside lower center", ncols=7)


def _rates_figure(page: lab.Page, lines: list[dict[str, Any]], exact: list[dict[str, Any]]) -> None:
    fig, axes = style.figures(2, 2, 9.2, 6.8, height_ratios=[3, 1.25], sharex="col")
    ends = [min(line["adjoint_rate"] for line in lines) - 0.1, max(line["adjoint_rate"] for line in lines) + 0.1]
    cross: dict[str, Any] = {"color": style.VERMILLION, "marker": "x", "linestyle": "none", "markersize": 6}
    diagonal: dict[str, Any] = {"color": "0.4", "linewidth": 1.0}
    names = {"exponent": "leading Lyapunov exponent", "closed_form": "closed form"}
    for column, (against, name) in enumerate(names.items()):
        upper, lower = axes[:, column]
        for line in lines + exact:
            if line[against] is not None:
                look = _look(line) | {"markersize": 5} if "cell" in line else cross
                spread = np.std(line.get("adjoint_rate_by_seed", 0.0))
                upper.errorbar(line[against], line["adjoint_rate"], spread, elinewidth=0.8, **look)
                lower.plot(line[against], line["adjoint_rate"] - line[against], **look)
        upper.plot(ends, ends, **diagonal)
        upper.set_title(f"Against the {name}")
        lower.axhline(0, **diagonal)
        lower.set(xlabel=f"{name} [nats per step]", title="Difference")
    axes[0, 0].set_ylabel("adjoint's rate [nats per step]")
    axes[1, 0].set_ylabel("difference\n[nats per step]")
    style.letters(axes)
    _legend(fig, [Line2D([], [], label="exactly solvable", **cross), Line2D([], [], label="y = x", **diagonal)])
    alt = "The adjoint's rate against Lyapunov exponent and closed form: points on the diagonal; differences below."
    caption = (
        "Before training, float64: how fast the task's own gradient shrinks with the lag, against the Lyapunov "
        "exponent of the same run (a, c) and against theory (b, d: mean field for Elman, log σ(bias) for gates with "
        "gain 0.5). Bars: one standard deviation over seeds. Crosses: linear rotations, and gates with W2 = 0."
    )
    page.figure("rates", fig, alt=alt, caption=caption)


def _collapse_figure(page: lab.Page, points: list[dict[str, Any]], fits: dict[str, Any]) -> None:
    fig, axes = style.figures(1, 2, 10.4, 4.4, width_ratios=[1.7, 1], sharey=True)
    main, side = axes[0]
    for point in points:
        main.plot(point["rate_times_lag"], point["success"], markersize=4.5, **_look(point))
        side.plot(point["lag_steps"], point["success"], markersize=4.5, alpha=0.8, **_look(point))
    along = [point["rate_times_lag"] for point in points]
    x = np.linspace(min(along), max(*along, 0), 400)
    whole, latch = fits["rate times lag"], fits["rate times lag, latch"]
    curves = {"one logistic curve": (whole, "-", 1.5), "the latch's": (latch, "--", 1.2)}
    for label, (found, dashes, width) in curves.items():
        main.plot(x, logistic(x, found["centre"], found["width"]), dashes, color="0.3", linewidth=width, label=label)
    main.axvline(FLOAT32, color="0.5", linestyle=":", linewidth=1.2)
    main.text(FLOAT32, 1.02, "float32\nrounding ", ha="right", va="top", fontsize=8)
    main.axvline(0, color="0.5", linewidth=0.8)
    main.set_title(f"One curve of all: R² = {whole['r_squared']:.2f}; of the latch: {latch['r_squared']:.2f}")
    main.set(
        xlabel="rate × lag before training [nats]", ylabel="success: share of what chance leaves", ylim=(-0.08, 1.08)
    )
    side.set(xscale="log", xlabel="lag [steps]", title=f"Lag alone: R² = {fits['lag alone']['r_squared']:.2f}")
    lags = sorted({point["lag_steps"] for point in points})
    side.set_xticks(lags, [f"{lag:g}" for lag in lags])
    side.minorticks_off()
    style.letters(axes)
    _legend(fig, main.get_legend_handles_labels()[0])
    alt = "Success of all cells and tasks against rate times lag, with one logistic curve; beside it against the lag."
    caption = (
        "Mean success over seeds after a fixed budget, against the gradient lost (negative) or gained over the lag, "
        "before training. Left of the dotted line the far gradient is below float32's rounding of the near one."
    )
    page.figure("collapse", fig, alt=alt, caption=caption)


def _groups_figure(page: lab.Page, points: list[dict[str, Any]], fits: dict[str, Any]) -> None:
    """The same points, one panel per cell and task, each with its own curve and the common one."""
    fig, axes = style.figures(len(TASKS), len(SETTINGS), 10.2, 5.8, sharex=True, sharey=True)
    along = [p["rate_times_lag"] for p in points]
    x = np.linspace(min(along), max(along), 600)
    panels = [(cell, task) for task in TASKS for cell in SETTINGS]
    for ax, (cell, task) in zip(axes.flat, panels, strict=True):
        here = [p for p in points if (p["cell"], p["task"]) == (cell, task)]
        for i, steps in enumerate(sorted({p["steps"] for p in here})):
            some = sorted((p["rate_times_lag"], p["success"]) for p in here if p["steps"] == steps)
            ax.plot(*zip(*some, strict=True), label=f"T = {steps}", **style.markers(i) | {"markersize": 4.5})
        own = fits["by cell and task"][f"{cell}, {task}"]
        common = fits["rate times lag"]
        ax.plot(x, logistic(x, common["centre"], common["width"]), color="0.6", linewidth=1.0, label="common curve")
        ax.plot(x, logistic(x, own["centre"], own["width"]), "k--", linewidth=1.0, label="own curve")
        ax.set(title=f"{cell}, {task}: half at {own['centre']:.1f}", xlabel="rate × lag [nats]", ylabel="success")
        ax.label_outer()
    style.letters(axes)
    fig.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=7)
    alt = "The same in one panel per cell and task, with the common curve and the panel's own."
    caption = "Cell by cell: where the panel's own curve leaves the common one, more than rate × lag decides."
    page.figure("groups", fig, alt=alt, caption=caption)


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

"""The cliff: the error surface of one unit, and what clipping does there.

Question: what does an exploding gradient look like on the error surface, and why does clipping help?
Command: python -m experiments.cliff
Minutes: half of one on one core; with --quick a quarter.
Expected: a wall along b = x_0 - w σ(x_0), where the gradient's norm, up to 2e9, equals the closed form to within
rounding (relative error 2e-5 where w is 6.7; 1e-10 where w is 5). Of 144 descents that start around the wall, 78% of
the plain ones take a step longer than one unit and 67% reach an error below 1e-3. With the gradient clipped, or the
adjoint clipped at each step, none takes such a step and all reach it.

Figure 6 of Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013:

    x_t = w σ(x_{t-1}) + b        E = (σ(x_T) - 0.7)²        x_0 = 0.5, T = 50

Where b = x_0 - w σ(x_0), the state does not move: x_0 is a fixed point. With slope μ = w σ'(x_0) > 1 it repels, so it
is the border between two basins, and the derivatives there are sums of powers:

    dx_T/db = (μ^T - 1)/(μ - 1)        dx_T/dw = σ(x_0) dx_T/db        dx_T/dx_0 = μ^T

So the wall is that line for w above 1/σ'(x_0) = 4.26, and it is as steep as μ^T is large. Below it, for smaller b, the
upper of the two basins ends at a fold, b = x - w σ(x) where w σ'(x) = 1.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge
from jax import Array, lax
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax.gradients import ClippedAdjoint
from rnnjax.training import clip_by_global_norm

from . import lab
from .lab import style

START, TARGET = 0.5, 0.7
THROWN, REACHED = 1.0, 1e-3  # a step in w and b longer than the first, an error below the second
DRAWN = ((4.9, -2.2), (5.5, -3.1))  # w and b where the descents of the figures start: above the wall and below it
WINDOW = ((4.0, 6.4), (-3.6, -1.4))  # w and b of the picture


@lab.options(quick={"points": 81, "updates": 60, "starts": 4})
class Options(lab.Options):
    """The error surface of one unit, and gradient descent on it."""

    steps: PositiveInt = 50
    """T [steps]."""
    points: Annotated[int, Ge(3)] = 281
    """Points of the grid along each axis."""
    starts: PositiveInt = 12
    """Descents start at this number squared of points around the wall."""
    rate: PositiveFloat = 0.5
    """Learning rate of plain gradient descent."""
    max_norm: PositiveFloat = 0.1
    """Norm at which the gradient is clipped."""
    adjoint_max_norm: PositiveFloat = 0.01
    """Norm at which the adjoint is clipped, at each of the T steps: the gradient is then at most T √1.4 times that."""
    updates: PositiveInt = 200
    """Steps of gradient descent."""


class Unit(NamedTuple):
    w: Array  # []
    b: Array  # []


@dataclasses.dataclass(frozen=True)
class SigmoidUnit(rnnjax.Cell):
    """x_t = w σ(x_{t-1}) + b, without input; y_t = σ(x_t)."""

    def init(self, key: Array, input_size: int, dtype: Any = None) -> Unit:
        return Unit(jnp.ones((), dtype), jnp.zeros((), dtype))

    def initial_carry(self, params: Unit, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.full((*batch_shape, 1), START, params.w.dtype)

    def step(self, params: Unit, carry: Array, x: Array) -> tuple[Array, Array]:
        state = params.w * jax.nn.sigmoid(carry) + params.b
        return state, jax.nn.sigmoid(state)


def error(params: Unit, steps: int, cell: Any = SigmoidUnit()) -> Array:
    """E = (σ(x_T) - 0.7)²."""
    _, ys = rnnjax.unroll(cell, params, jnp.zeros((steps, 1), params.w.dtype))
    return (ys[-1, 0] - TARGET) ** 2


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def wall(ws: np.ndarray) -> np.ndarray:
    """b at which x_0 is a fixed point."""
    return START - ws * sigmoid(START)


def gradient_on_wall(ws: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(dE/dw, dE/db) on the wall, closed form."""
    y = sigmoid(START)
    mu = ws * y * (1 - y)
    by_b = np.where(np.abs(mu - 1) < 1e-9, steps, (mu**steps - 1) / (mu - 1 + (mu == 1)))
    by_b = 2 * (y - TARGET) * y * (1 - y) * by_b
    return y * by_b, by_b


def fold(ws: np.ndarray) -> np.ndarray:
    """b below which there is no upper basin; NaN for w < 4, where there is only one basin."""
    with np.errstate(invalid="ignore"):
        y = (1 + np.sqrt(1 - 4 / ws)) / 2
    return np.log(y / (1 - y)) - ws * y


def value_and_gradient(ws: np.ndarray, bs: np.ndarray, steps: int) -> tuple[np.ndarray, Unit]:
    """E, and dE/dw and dE/db, at pairs of points `[N]`."""
    each = jax.jit(jax.vmap(jax.value_and_grad(lambda p: error(p, steps))))
    return each(Unit(jnp.asarray(ws), jnp.asarray(bs)))


def descend(
    starts: np.ndarray, clip: str, max_norm: float, rate: float, updates: int, steps: int
) -> dict[str, np.ndarray]:
    """Gradient descent from each of `starts` `[N, 2]`: w, b and E `[N, updates + 1]`, and the length of each step.

    `clip` is "none"; "gradient", at norm `max_norm`; or "adjoint", at `max_norm` in every step of the backward pass.
    """
    cell: Any = ClippedAdjoint(SigmoidUnit(), max_norm) if clip == "adjoint" else SigmoidUnit()
    rule = optax.sgd(rate)
    if clip == "gradient":
        rule = optax.chain(clip_by_global_norm(max_norm), rule)

    @jax.jit
    @jax.vmap
    def run(start: Array):
        def one(state: Any, _: None):
            params, memory = state
            value, gradient = jax.value_and_grad(lambda p: error(p, steps, cell))(params)
            change, memory = rule.update(gradient, memory)
            moved: Any = optax.apply_updates(params, change)
            return (moved, memory), (params, value)

        params = Unit(start[0], start[1])
        return lax.scan(one, (params, rule.init(params)), None, length=updates + 1)[1]

    points, values = run(jnp.asarray(starts))
    w, b = np.asarray(points.w), np.asarray(points.b)
    return {"w": w, "b": b, "error": np.asarray(values), "moved": np.hypot(np.diff(w), np.diff(b))}


def surface(steps: int, points: int) -> dict[str, Any]:
    """E and ‖∇E‖ in the window, and the distance in b between the jump of E and the wall."""
    ws, bs = (np.linspace(*ends, points) for ends in WINDOW)
    w, b = np.meshgrid(ws, bs)
    value, gradient = value_and_gradient(w.ravel(), b.ravel(), steps)
    height, norm = (np.reshape(each, (points, points)) for each in (value, np.hypot(gradient.w, gradient.b)))
    steep = ws >= 4.6  # from there on μ^50 is above 50
    jumps = np.abs(np.diff(height[:, steep], axis=0)).argmax(axis=0)
    distance = np.abs((bs[jumps] + bs[jumps + 1]) / 2 - wall(ws[steep])).max()
    return {"largest_norm": norm.max(), "jump_distance": distance, "w": ws, "b": bs, "error": height, "norm": norm}


def along_the_wall(steps: int) -> dict[str, Any]:
    """‖∇E‖ on the wall, and its relative difference from the closed form."""
    ws = np.linspace(3.6, 6.9, 67)
    _, found = value_and_gradient(ws, wall(ws), steps)
    norm, closed = np.hypot(found.w, found.b), np.hypot(*gradient_on_wall(ws, steps))
    residual = np.abs(norm / closed - 1)
    largest = {"largest_norm": norm.max(), "largest_relative_residual": residual.max()}
    return largest | {"w": ws, "norm": norm, "closed_form": closed, "relative_residual": residual}


def descents(starts: int, **how: Any) -> dict[str, Any]:
    """Shares of the descents that start within 0.5 of the wall in b; the paths of those that the figures show."""
    w, off = np.meshgrid(np.linspace(4.6, 6.0, starts), np.linspace(-0.5, 0.5, starts))
    found = descend(np.concatenate([DRAWN, np.stack([w, wall(w) + off], axis=-1).reshape(-1, 2)]), **how)
    moved, value = found["moved"][len(DRAWN) :], found["error"][len(DRAWN) :]
    shares = {"thrown_share": (moved > THROWN).any(1).mean(), "reached_share": (value < REACHED).any(1).mean()}
    ends = {"longest_step": moved.max(), "median_last_error": np.median(value[:, -1])}
    return shares | ends | {name: values[: len(DRAWN)] for name, values in found.items()}


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    lengths = sorted({max(1, options.steps // 5), max(1, options.steps // 2), options.steps})
    limits = {"none": options.max_norm, "gradient": options.max_norm, "adjoint": options.adjoint_max_norm}
    common = {name: getattr(options, name) for name in ("rate", "updates", "steps", "starts")}
    return [
        *run.rows(surface, [{"steps": options.steps, "points": options.points}], "surface"),
        *run.rows(along_the_wall, [{"steps": steps} for steps in lengths], "walls"),
        *run.rows(descents, [{"clip": clip, "max_norm": limit} | common for clip, limit in limits.items()], "descents"),
    ]


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    (whole,) = (row for row in rows if "jump_distance" in row)
    walls = [row for row in rows if "largest_relative_residual" in row]
    paths = [row for row in rows if "clip" in row]
    worst = max(row["largest_relative_residual"] for row in walls)
    sentences = [
        f"On the wall the gradient's norm equals the closed form with a relative error of at most {worst:.1e}. Its "
        f"largest value in the picture is {whole['largest_norm']:.3g}.",
        f"For w above 4.6 the jump of E lies within {whole['jump_distance']:.4f} of the theoretical line in b; the "
        f"grid spacing is {whole['b'][1] - whole['b'][0]:.4f}.",
    ]
    page.text("Results", sentences)
    _surface_figure(page, whole, paths)
    _above_figure(page, whole, paths)
    _wall_figure(page, walls)
    headings = {"clip": "clipped", "max_norm": "at norm", "thrown_share": f"share with a step above {THROWN:g}"}
    headings |= {"reached_share": f"share that reaches an error below {REACHED:g}"}
    headings |= {"longest_step": "longest step", "median_last_error": "median last error"}
    cells = [row.plain | ({"max_norm": None} if row["clip"] == "none" else {}) for row in paths]
    page.table(cells, headings, "Gradient descent from points around the wall")
    page.summary |= {"surface": whole.plain, "walls": [row.plain for row in walls]}
    page.summary |= {"descents": [row.plain for row in paths]}
    page.summary |= {"thrown_is_a_step_above": THROWN, "reached_is_an_error_below": REACHED}


LOOKS: dict[str, dict[str, Any]] = {
    "none": {"label": "gradient descent", "color": style.VERMILLION, "linestyle": "-", "marker": "o"},
    "gradient": {"label": "gradient clipped", "color": style.BLUE, "linestyle": "-", "marker": "s"},
    "adjoint": {"label": "adjoint clipped at each step", "color": style.BLACK, "linestyle": ":", "marker": "^"},
}
EDGE = 1 / (sigmoid(START) * (1 - sigmoid(START)))  # w where μ = 1
SHOWN, SHOWN_IN_3D = 30, 16  # updates drawn


def _inside(w: np.ndarray, b: np.ndarray) -> int:
    """How many points, up to `SHOWN`, come before the first one outside the window."""
    out = (w < WINDOW[0][0]) | (w > WINDOW[0][1]) | (b < WINDOW[1][0]) | (b > WINDOW[1][1])
    return min(int(np.argmax(out)) if out.any() else len(out), SHOWN)


def _surface_figure(page: lab.Page, whole: lab.Row, paths: list[lab.Row]) -> None:
    ws, bs, height = whole["w"], whole["b"], whole["error"]
    fig = Figure(figsize=(8.5, 6.2))
    ax: Any = fig.add_subplot(projection="3d", computed_zorder=False)
    every = slice(None, None, max(1, len(ws) // 120))
    shade = {"cmap": "cividis", "rcount": 120, "ccount": 120, "linewidth": 0, "alpha": 0.75, "zorder": 1}
    ax.plot_surface(*np.meshgrid(ws[every], bs[every]), height[every, every], **shade)
    for path in paths[:2]:
        w, b, up = (path[name][0] for name in ("w", "b", "error"))  # of the first start; more would hide each other
        look = {"markersize": 4, "zorder": 5, "linewidth": 1.2} | LOOKS[path["clip"]]
        count = min(_inside(w, b), SHOWN_IN_3D)
        ax.plot(w[:count], b[:count], up[:count] + 0.006, **look)  # a little above the surface, so that it is visible
        if count < min(SHOWN_IN_3D, len(b)) and b[count] > bs[-1]:  # thrown out of the picture: drawn up to its edge
            edge = w[count - 1] + (bs[-1] - b[count - 1]) / (b[count] - b[count - 1]) * (w[count] - w[count - 1])
            ends = up[count - 1] + 0.006, height[-1, np.abs(ws - edge).argmin()]
            ax.plot([w[count - 1], edge], [b[count - 1], bs[-1]], ends, **look | {"marker": "", "label": ""})
    ax.set(xlabel="w", ylabel="b", zlabel="error E", title="Error of one unit, and two descents")
    ax.view_init(elev=36, azim=68)
    ax.legend(loc="upper left")
    alt = "A surface over w and b: a plain on one side, a steep wall, a hollow below it, and descent paths."
    caption = (
        f"E over w and b, with the first {SHOWN_IN_3D} updates of two descents. A step that meets the wall is as long "
        "as the wall is steep: without clipping one of them soon leaves the picture."
    )
    page.figure("surface", fig, alt=alt, caption=caption)


def _above_figure(page: lab.Page, whole: lab.Row, paths: list[lab.Row]) -> None:
    ws, bs = whole["w"], whole["b"]
    fig, ax = style.figure(8.5, 5.6)
    image = ax.pcolormesh(ws, bs, whole["error"], cmap="cividis", rasterized=True, shading="nearest")
    fig.colorbar(image, ax=ax, label="error E")
    bent = ws[ws >= EDGE]
    ax.plot(bent, wall(bent), "w--", linewidth=1.2)
    ax.plot(ws, fold(ws), "w:", linewidth=1.4)
    for start in range(len(DRAWN)):
        for path in paths:
            w, b = path["w"][start], path["b"][start]
            shown = slice(0, _inside(w, b) + 1)
            ax.plot(w[shown], b[shown], color="white", linewidth=3.0, zorder=3)
            ax.plot(w[shown], b[shown], markersize=3, zorder=4, linewidth=1.2, **LOOKS[path["clip"]])
            ax.plot(w[0], b[0], "o", color="white", markeredgecolor="black", markersize=8, zorder=5)
    ax.set(xlim=(ws[0], ws[-1]), ylim=(bs[0], bs[-1]), xlabel="w", ylabel="b", title="The error from above")
    ax.grid(False)
    handles = [Line2D([], [], markersize=4, **look) for look in LOOKS.values()]
    handles += [Line2D([], [], color="0.5", linestyle="--", label="theory: $x_0$ is a repelling fixed point")]
    handles += [Line2D([], [], color="0.5", linestyle=":", label="theory: the upper fixed point ends (fold)")]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    alt = "The error from above: it jumps along the theoretical line, and paths stay there or are thrown off."
    caption = f"The first {SHOWN} updates. White circles: starts of the descents. E jumps where the closed form says."
    page.figure("above", fig, alt=alt, caption=caption)


def _wall_figure(page: lab.Page, walls: list[lab.Row]) -> None:
    fig, axes = style.figures(2, 1, 7.0, 5.8, sharex=True)
    upper, lower = axes[:, 0]
    for i, row in enumerate(walls):
        ws, some = row["w"], slice(i % 3, None, 5)
        upper.semilogy(ws, row["closed_form"], label=f"T = {row['steps']} steps", **style.curve(i))
        upper.semilogy(ws[some], row["norm"][some], **style.markers(i))
        small: Any = style.line(i) | {"linestyle": "none", "markersize": 3}
        lower.semilogy(ws, np.maximum(row["relative_residual"], 1e-17), **small)
    upper.axvline(EDGE, color="0.4", linewidth=0.8)
    upper.annotate("μ = 1", (EDGE, upper.get_ylim()[1]), (4, -12), textcoords="offset points")
    upper.plot([], [], label="measured", **style.markers(0) | {"color": "black"})
    upper.legend()
    upper.set(ylabel="norm of ∇E on the wall", title="Steepness of the wall")
    lower.set(ylabel="relative residual", xlabel="w, with b = $x_0$ − w σ($x_0$)", title="Measured against closed form")
    style.letters(axes)
    alt = "Along the wall the norm rises exponentially with w, marks on theoretical lines; residuals near rounding."
    caption = (
        "(a) Lines: closed form; marks: automatic differentiation. (b) Their relative difference. It grows with μ^T, "
        "as every rounding error of the state does here; 0 is drawn at 1e-17."
    )
    page.figure("wall", fig, alt=alt, caption=caption)


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

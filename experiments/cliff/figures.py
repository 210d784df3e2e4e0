"""The surface in three dimensions, the same from above, and the wall's height against its closed form."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import harness
from experiments.cliff.surface import fold, gradient_on_wall, wall
from experiments.harness import style

LOOKS: dict[str, tuple[str, str, Any, str]] = {
    "none": ("gradient descent", style.VERMILLION, "-", "o"),
    "gradient": ("gradient clipped", style.BLUE, "-", "s"),
    "adjoint": ("adjoint clipped at each step", style.BLACK, ":", "^"),
}

Paths = list[tuple[str, dict[str, np.ndarray]]]
"""How it was clipped, and the path."""

SHOWN, SHOWN_IN_3D = 30, 16  # updates drawn


def surface_figure(
    run: harness.Run, ws: np.ndarray, bs: np.ndarray, surface: np.ndarray, paths: Paths
) -> harness.Figure:
    fig = Figure(figsize=(8.5, 6.2))
    ax: Any = fig.add_subplot(projection="3d", computed_zorder=False)
    every = max(1, len(ws) // 120)
    grid_w, grid_b = np.meshgrid(ws[::every], bs[::every])
    ax.plot_surface(
        grid_w,
        grid_b,
        surface[::every, ::every],
        cmap="cividis",
        rcount=120,
        ccount=120,
        linewidth=0,
        alpha=0.75,
        zorder=1,
    )
    for clip, path in paths[:2]:  # of the first start; more would hide each other
        color, look = LOOKS[clip][1], _look(clip)
        shown = slice(0, min(_inside(path, ws, bs), SHOWN_IN_3D))
        height = path["error"][shown] + 0.006  # above the surface, not in it
        ax.plot(path["w"][shown], path["b"][shown], height, color=color, markersize=4, zorder=5, **look)
        last = shown.stop - 1
        if last + 1 < SHOWN_IN_3D and path["b"][last + 1] > bs[-1]:  # thrown out of the picture: as far as it goes
            part = (bs[-1] - path["b"][last]) / (path["b"][last + 1] - path["b"][last])
            w = path["w"][last] + part * (path["w"][last + 1] - path["w"][last])
            end = surface[-1, np.abs(ws - w).argmin()]
            ax.plot([path["w"][last], w], [path["b"][last], bs[-1]], [height[-1], end], color=color, zorder=5)
    ax.set_xlabel("w")
    ax.set_ylabel("b")
    ax.set_zlabel("error E")
    ax.view_init(elev=36, azim=68)
    ax.legend(handles=_handles()[:2], loc="upper left")
    return run.figure(
        "surface",
        fig,
        alt="A surface over w and b: a plain on one side, a steep wall, a hollow below it, and descent paths.",
        caption=f"E over w and b, with the first {SHOWN_IN_3D} updates of two descents. A step that meets the wall is "
        "as long as the wall is steep: without clipping one of them soon leaves the picture.",
    )


def above_figure(run: harness.Run, ws: np.ndarray, bs: np.ndarray, surface: np.ndarray, paths: Paths) -> harness.Figure:
    fig, ax = style.figure(8.5, 5.6)
    image = ax.pcolormesh(ws, bs, surface, cmap="cividis", rasterized=True, shading="nearest")
    fig.colorbar(image, ax=ax, label="error E")
    edge = 1 / 0.2350037122
    bent = ws[ws >= edge]
    ax.plot(bent, wall(bent), color="white", linestyle="--", linewidth=1.2)
    ax.plot(ws, fold(ws), color="white", linestyle=":", linewidth=1.4)
    for clip, path in paths:
        color, look = LOOKS[clip][1], _look(clip)
        shown = slice(0, _inside(path, ws, bs) + 1)
        ax.plot(path["w"][shown], path["b"][shown], color="white", linewidth=3.0, zorder=3)
        ax.plot(path["w"][shown], path["b"][shown], color=color, markersize=3, zorder=4, **look)
        ax.plot(path["w"][0], path["b"][0], "o", color="white", markeredgecolor="black", markersize=8, zorder=5)
    ax.set_xlim(ws[0], ws[-1])
    ax.set_ylim(bs[0], bs[-1])
    ax.set_xlabel("w")
    ax.set_ylabel("b")
    ax.grid(False)
    walls = [
        Line2D([], [], color="0.5", linestyle="--", label="theory: $x_0$ is a repelling fixed point"),
        Line2D([], [], color="0.5", linestyle=":", label="theory: the upper fixed point ends (fold)"),
    ]
    fig.legend(handles=[*_handles(), *walls], loc="outside lower center", ncols=3)
    return run.figure(
        "above",
        fig,
        alt="The error from above: it jumps along the line of theory, and paths stay there or are thrown off.",
        caption=f"From above, the first {SHOWN} updates. White circles: where the descents begin. The jump of E lies "
        "where the closed form has it.",
    )


def wall_figure(run: harness.Run, ws: np.ndarray, measured: dict[int, np.ndarray]) -> harness.Figure:
    """`measured[T]` is ‖∇E‖ along the wall."""
    fig, (upper, lower) = (made := style.figures(2, 1, 7.0, 5.6, sharex=True))[0], made[1][:, 0]
    for i, (steps, norm) in enumerate(measured.items()):
        closed = np.hypot(*gradient_on_wall(ws, steps))
        look = style.line(i)
        upper.semilogy(ws, closed, color=look.color, linestyle=look.linestyle, label=f"T = {steps} steps")
        some = slice(i % 3, None, max(1, len(ws) // 14))
        upper.semilogy(ws[some], norm[some], look.marker, color=look.color, markerfacecolor="white")
        lower.semilogy(ws, np.maximum(np.abs(norm / closed - 1), 1e-17), look.marker, color=look.color, markersize=3)
    upper.axvline(1 / 0.2350037122, color="0.4", linewidth=0.8)
    upper.annotate("μ = 1", (1 / 0.2350037122, upper.get_ylim()[1]), (4, -12), textcoords="offset points")
    upper.set_ylabel("norm of ∇E on the wall")
    lower.set_ylabel("relative residual")
    lower.set_xlabel("w, with b = $x_0$ − w σ($x_0$)")
    marks = Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="none", label="measured")
    upper.legend(handles=[*upper.get_legend_handles_labels()[0], marks])
    return run.figure(
        "wall",
        fig,
        alt="The gradient's norm along the wall rises exponentially with w, lines of theory under open measured marks; "
        "below, residuals near rounding.",
        caption="How steep the wall is: lines the closed form, marks automatic differentiation; below their relative "
        "difference. It grows with μ^T, as every rounding of the state does here; 0 is drawn at 1e-17.",
    )


def _look(clip: str) -> dict[str, Any]:
    _, _, line, marker = LOOKS[clip]
    return {"linestyle": line, "marker": marker, "linewidth": 1.2}


def _handles() -> list[Line2D]:
    return [
        Line2D([], [], color=color, linestyle=line, marker=marker, markersize=4, label=label)
        for label, color, line, marker in LOOKS.values()
    ]


def _inside(path: dict[str, np.ndarray], ws: np.ndarray, bs: np.ndarray) -> int:
    """How many points come before the first one outside the picture."""
    out = (path["w"] < ws[0]) | (path["w"] > ws[-1]) | (path["b"] < bs[0]) | (path["b"] > bs[-1])
    return min(int(np.argmax(out)) if out.any() else len(out), SHOWN)

"""Three rates on y = x, and success against rate times lag."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from experiments import harness
from experiments.collapse.fit import logistic
from experiments.collapse.networks import CELLS, TASKS
from experiments.harness import style

Rates = list[dict[str, Any]]
Points = list[dict[str, Any]]

FLOAT32 = -24 * np.log(2)  # nats: below it a far gradient is under the rounding of a near one

_COLORS = dict(zip(CELLS, (style.BLUE, style.ORANGE, style.BLACK), strict=True))
_MARKERS = dict(zip(TASKS, ("o", "^"), strict=True))


def _look(of: dict[str, Any]) -> dict[str, Any]:
    look = {"color": _COLORS[of["cell"]], "marker": _MARKERS[of["task"]]}
    return look | {"linestyle": "none", "markerfacecolor": "white"}


def _names() -> list[Line2D]:
    plain: dict[str, Any] = {"markerfacecolor": "white", "linestyle": "none"}
    cells = [Line2D([], [], color=color, marker="o", label=name, **plain) for name, color in _COLORS.items()]
    return cells + [Line2D([], [], color="0.4", marker=m, label=name, **plain) for name, m in _MARKERS.items()]


def rates_figure(run: harness.Run, rates: Rates, exact: list[dict[str, Any]]) -> harness.Figure:
    fig, axes = style.figures(2, 2, 9.2, 6.6, height_ratios=[3, 1.25], sharex="col")
    for column, (against, label) in enumerate(
        (("exponent", "leading Lyapunov exponent [nats/step]"), ("closed_form", "closed form [nats/step]"))
    ):
        upper, lower = axes[:, column]
        known = [r for r in rates if r[against] is not None]
        for r in known:
            look = _look(r)
            spread = np.std(r["adjoint_rate_by_seed"])
            upper.errorbar(r[against], r["adjoint_rate"], spread, markersize=5, elinewidth=0.8, **look)
            lower.plot(r[against], r["adjoint_rate"] - r[against], markersize=5, **look)
        for case in exact:
            upper.plot(case[against], case["adjoint_rate"], "x", color=style.VERMILLION, markersize=6)
            lower.plot(case[against], case["adjoint_rate"] - case[against], "x", color=style.VERMILLION, markersize=6)
        ends = [min(r["adjoint_rate"] for r in rates) - 0.1, max(r["adjoint_rate"] for r in rates) + 0.1]
        upper.plot(ends, ends, color="0.4", linewidth=1.0)
        lower.axhline(0, color="0.4", linewidth=1.0)
        lower.set_xlabel(label)
    axes[0, 0].set_ylabel("adjoint's rate [nats/step]")
    axes[1, 0].set_ylabel("difference [nats/step]")
    handles = [
        *_names(),
        Line2D([], [], color=style.VERMILLION, marker="x", linestyle="none", label="exactly solvable"),
        Line2D([], [], color="0.4", linewidth=1.0, label="y = x"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=7)
    return run.figure(
        "rates",
        fig,
        alt="The adjoint's rate against the Lyapunov exponent and against the closed form, points on the diagonal; "
        "differences below.",
        caption="Before training, float64: how fast the task's own gradient shrinks with the lag, against the Lyapunov "
        "exponent of the same run (left) and against theory (right: mean field for Elman, log σ(bias) for gates with "
        "gain 0.5). Bars: one standard deviation over seeds. Crosses: linear rotations, and gates with W2 = 0.",
    )


def collapse_figure(run: harness.Run, points: Points, fits: dict[str, Any]) -> harness.Figure:
    fig, axes = style.figures(1, 2, 10.4, 4.4, width_ratios=[1.7, 1], sharey=True)
    main, side = axes[0]
    for point in points:
        look = _look(point)
        main.plot(point["rate_times_lag"], point["success"], markersize=4.5, **look)
        side.plot(point["lag_steps"], point["success"], markersize=4.5, alpha=0.8, **look)
    whole = fits["rate times lag"]
    low = min(point["rate_times_lag"] for point in points)
    high = max(point["rate_times_lag"] for point in points)
    x = np.linspace(low, max(high, 0), 400)
    main.plot(x, logistic(x, whole["centre"], whole["width"]), color="0.3", linewidth=1.5)
    main.axvline(FLOAT32, color="0.5", linestyle=":", linewidth=1.2)
    main.text(FLOAT32, 1.02, "float32\nrounding ", ha="right", va="top", fontsize=8)
    main.axvline(0, color="0.5", linewidth=0.8)
    main.set_xlabel("rate × lag before training [nats]")
    main.set_ylabel("success: share of what chance leaves")
    main.set_ylim(-0.08, 1.08)
    latch = fits["rate times lag, latch"]
    main.plot(x, logistic(x, latch["centre"], latch["width"]), color="0.3", linewidth=1.2, linestyle="--")
    main.set_title(f"one curve of all: R² = {whole['r_squared']:.2f}; of the latch: {latch['r_squared']:.2f}")
    side.set_xscale("log")
    side.set_xlabel("lag [steps]")
    side.set_title(f"lag alone: R² = {fits['lag alone']['r_squared']:.2f}")
    handles = [
        *_names(),
        Line2D([], [], color="0.3", linewidth=1.5, label="one logistic curve"),
        Line2D([], [], color="0.3", linewidth=1.2, linestyle="--", label="the latch's"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=7)
    return run.figure(
        "collapse",
        fig,
        alt="Success against rate times lag for all cells, scales, lengths and tasks with one logistic curve; beside "
        "it the same against the lag alone.",
        caption="Success after a fixed budget against the gradient lost (negative) or gained on its way over the lag, "
        "measured before training. Left of the dotted line the far gradient is below float32's rounding of the near "
        "one. Mean over seeds.",
    )


def groups_figure(run: harness.Run, points: Points, fits: dict[str, Any]) -> harness.Figure:
    """The same points, a panel a cell and task, each with its own curve and the common one."""
    fig, axes = style.figures(len(TASKS), len(CELLS), 9.4, 5.6, sharex=True, sharey=True)
    whole = fits["rate times lag"]
    for row, task in enumerate(TASKS):
        for column, cell in enumerate(CELLS):
            ax = axes[row, column]
            here = [p for p in points if (p["cell"], p["task"]) == (cell, task)]
            lengths = sorted({p["steps"] for p in here})
            for i, steps in enumerate(lengths):
                some = sorted((p["rate_times_lag"], p["success"]) for p in here if p["steps"] == steps)
                look = style.line(i)
                color = {"color": look.color, "markersize": 4.5, "markerfacecolor": "white"}
                ax.plot(*zip(*some, strict=True), look.marker, label=f"T = {steps}", **color)
            x = np.linspace(min(p["rate_times_lag"] for p in points), max(p["rate_times_lag"] for p in points), 600)
            ax.plot(x, logistic(x, whole["centre"], whole["width"]), color="0.6", linewidth=1.0)
            own = fits["by cell and task"][f"{cell}, {task}"]
            ax.plot(x, logistic(x, own["centre"], own["width"]), color="black", linewidth=1.0, linestyle="--")
            ax.set_title(f"{cell}, {task}: half at {own['centre']:.1f}", fontsize=9)
            if row == len(TASKS) - 1:
                ax.set_xlabel("rate × lag [nats]")
            if column == 0:
                ax.set_ylabel("success")
    curves = [
        Line2D([], [], color="0.6", label="common curve"),
        Line2D([], [], color="black", linestyle="--", label="own curve"),
    ]
    fig.legend(handles=[*axes[0, 0].get_legend_handles_labels()[0], *curves], loc="outside lower center", ncols=7)
    return run.figure(
        "groups",
        fig,
        alt="The same in a panel for each cell and task, with the common curve and the panel's own.",
        caption="Cell by cell: where the panel's own curve leaves the common one, more than rate × lag decides.",
    )

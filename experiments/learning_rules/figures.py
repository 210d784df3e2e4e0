"""What the rules have learned, what they cost, and how far their gradients are from the exact one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter

from .. import lab
from ..lab import style
from .training import CLAIM, MATCH, PARTS, RULES


def lines_of(rows: Sequence[lab.Row]) -> list[dict[str, Any]]:
    """For each task, lag, cell, optimizer and rule the best rate: median, lowest and highest success over seeds."""
    names = ("task", "lag", "cell", "optimizer", "rule")
    groups: dict[tuple[Any, ...], dict[float, list[lab.Row]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), {}).setdefault(row["rate"], []).append(row)
    lines = []
    for where, by_rate in groups.items():
        medians = {rate: float(np.median([row["success"] for row in own])) for rate, own in by_rate.items()}
        rate = max(medians, key=lambda rate: medians[rate])
        best, found = by_rate[rate], [row["success"] for row in by_rate[rate]]
        line = dict(zip(names, where, strict=True)) | {"rate": rate, "success": medians[rate]}
        line |= {"lowest": min(found), "highest": max(found), "length_steps": best[0]["length_steps"]}
        line |= {name: best[0][name] for name in ("flops", "step_flops", "trace_bytes")}
        shares = [row["balanced_share"] for row in best if row["balanced_share"] is not None]
        line |= {"balanced_share": float(np.median(shares)) if shares else None}
        curves = np.array([row["curve"] for row in best], float)
        lines.append(line | {"curve": np.median(curves, axis=0).tolist()})
    return lines


def pairs_of(lines: Sequence[dict[str, Any]], optimizer: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """RTRL and Immediate wherever both were run."""
    own = [line for line in lines if line["optimizer"] == optimizer]
    by_place = {(line["task"], line["lag"], line["cell"], line["rule"]): line for line in own}
    return [
        (line, by_place[(*place[:3], CLAIM[1])])
        for place, line in by_place.items()
        if place[3] == CLAIM[0] and (*place[:3], CLAIM[1]) in by_place
    ]


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    trained = [row for row in rows if "success" in row]
    gradient_rows = [row for row in rows if "cosine" in row]
    lines = lines_of(trained)
    first = [line for line in lines if line["optimizer"] == page.options.optimizers[0]]
    page.text("Results", _results(lines, first, page.options))
    _success_figure(page, first)
    _claim_figure(page, lines)
    _cost_figure(page, first)
    _bias_figure(page, gradient_rows)
    _curves_figure(page, [line for line in first if line["cell"] == page.options.cells[0]])
    columns = {"task": "task", "lag": "lag [steps]", "cell": "cell", "optimizer": "optimizer", "rule": "rule"}
    columns |= {"success": "success", "lowest": "lowest", "highest": "highest", "rate": "best rate"}
    columns |= {"balanced_share": "cart balanced", "flops": "FLOPs per step", "trace_bytes": "trace [bytes]"}
    page.table(lines, columns, "Every rule at its best learning rate; costs are of one row", terminal=False)
    compared = [
        {"cell": row["cell"], "rule": rule, **{name: row[name][i] for name in ("cosine", "norm_ratio", "deviation")}}
        for row in gradient_rows
        for i, rule in enumerate(row["rules"])
    ]
    heads = {"cell": "cell", "rule": "rule", "cosine": "cosine of the mean", "norm_ratio": "norm / exact"}
    heads |= {"deviation": "deviation of a draw / exact norm"}
    page.table(compared, heads, "The gradient of a sequence against the exact one, for networks as drawn")
    page.summary |= {"lines": lines, "gradients": compared, "by_lag": [row.plain for row in gradient_rows]}


def _results(lines: list[dict[str, Any]], first: list[dict[str, Any]], o: Any) -> list[str]:
    told = []
    for optimizer in o.optimizers:
        pairs = pairs_of(lines, optimizer)
        short = [pair for pair in pairs if pair[1]["success"] < pair[0]["success"] - MATCH]
        names = [f"{_titled(line['task'], line['lag'])}, {line['cell']}" for line, _ in short]
        if pairs:
            told.append(
                f"With {optimizer}, Immediate is within {MATCH} of RTRL's success or above in "
                f"{len(pairs) - len(short)} of {len(pairs)} settings"
                + (f"; it falls short in {len(names)}: {'; '.join(names)}." if names else ".")
            )
    means = {
        rule: np.mean([line["success"] for line in first if line["rule"] == rule])
        for rule in o.rules
        if any(line["rule"] == rule for line in first)
    }
    ordered = sorted(means.items(), key=lambda item: -item[1])
    told.append(
        "Mean success where a rule is defined: " + ", ".join(f"{rule} {value:.2f}" for rule, value in ordered) + "."
    )
    told.append(
        f"Budget: streams of some {o.steps} steps with {o.rows} rows and an update at every step; {o.seeds} seeds; H = "
        f"{o.hidden_size}; the best of {len(o.rates)} learning rates for each rule and setting."
    )
    return told


def _look(rule: str) -> dict[str, Any]:
    return style.line(list(RULES).index(rule))


def _places(lines: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((line["task"], line["lag"]) for line in lines))


def _titled(task: str, lag: int) -> str:
    return "cart-pole" if task == "cart_pole" else f"{task.replace('_', '-')}, lag {lag}"


def _panels(places: Sequence[Any], width: float, height: float, **share: Any) -> tuple[style.Figure, Any]:
    """A panel for each place, at most four in a row; those that are left are off."""
    columns = min(4, len(places))
    count = math.ceil(len(places) / columns)
    fig, axes = style.figures(count, columns, max(7.5, width * columns + 1.2), height * count + 1.2, **share)
    for ax in axes.flat[len(places) :]:
        ax.axis("off")
    return fig, axes


def _success_figure(page: lab.Page, lines: list[dict[str, Any]]) -> None:
    places, o = _places(lines), page.options
    fig, axes = _panels(places, 2.5, 3.4, sharex=True, sharey=True)
    rules = list(reversed(o.rules))
    for ax, (task, lag) in zip(axes.flat, places, strict=False):
        for i, cell in enumerate(o.cells):
            own = [line for line in lines if (line["task"], line["lag"], line["cell"]) == (task, lag, cell)]
            at = np.array([rules.index(line["rule"]) for line in own]) + 0.16 * ((len(o.cells) - 1) / 2 - i)
            low, middle, high = (np.array([line[name] for line in own]) for name in ("lowest", "success", "highest"))
            look = style.markers(i) | {"markersize": 4.5}
            ax.errorbar(middle, at, xerr=(middle - low, high - middle), label=cell, elinewidth=0.8, **look)
        ax.set(title=_titled(task, lag), xlim=(-0.05, 1.05), ylim=(-0.6, len(rules) - 0.4))
        ax.set_yticks(range(len(rules)), rules)
        ax.set_xlabel("success")
        ax.tick_params(labelbottom=True)
    style.letters(axes)
    fig.suptitle(f"What each rule learns, with {o.optimizers[0]}")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    page.figure(
        "success", fig,
        alt="A panel for each task and lag: success of every rule, one marker for each cell.",
        caption="Success, 1 - loss / loss of a predictor without memory, over the last tenth of the stream: median "
        f"over {o.seeds} seeds, bars from the lowest to the highest, at the best of {len(o.rates)} learning rates. A "
        "rule without a marker is not defined for the cell.",
    )  # fmt: skip


def _claim_figure(page: lab.Page, lines: list[dict[str, Any]]) -> None:
    o = page.options
    fig, axes = style.figures(
        1, len(o.optimizers), max(7.5, 3.6 * len(o.optimizers) + 1.0), 4.6, sharex=True, sharey=True
    )
    places = _places(lines)
    for ax, optimizer in zip(axes[0], o.optimizers, strict=True):
        ax.plot([0, 1], [0, 1], color="0.4", linewidth=1.0)
        ax.fill_between([0, 1], [-MATCH, 1 - MATCH], [0, 1], color="0.4", alpha=0.2, linewidth=0)
        for i, (task, lag) in enumerate(places):
            own = [pair for pair in pairs_of(lines, optimizer) if (pair[0]["task"], pair[0]["lag"]) == (task, lag)]
            x, y = ([line["success"] for line in each] for each in zip(*own, strict=True))
            ax.plot(x, y, **style.markers(i), label=_titled(task, lag))
        ax.set(title=optimizer, xlabel="success of RTRL", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal")
    axes[0, 0].set_ylabel("success of Immediate")
    style.letters(axes)
    fig.suptitle("Do immediate derivatives match RTRL?")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    page.figure(
        "claim", fig,
        alt="Success of Immediate against that of RTRL, one marker for each task, lag and cell, by optimizer.",
        caption=f"One mark for each cell, task and lag; grey: within {MATCH} below RTRL, which counts as a match.",
    )  # fmt: skip


def _cost_figure(page: lab.Page, lines: list[dict[str, Any]]) -> None:
    o = page.options
    fig, axes = style.figures(2, len(o.cells), max(7.5, 2.5 * len(o.cells) + 1.2), 6.2, sharex="row", sharey=True)
    least = 10.0
    for j, cell in enumerate(o.cells):
        for rule in o.rules:
            own = [line for line in lines if (line["cell"], line["rule"]) == (cell, rule)]
            for ax, name in zip(axes[:, j], ("flops", "trace_bytes"), strict=True):
                if own:
                    cost = max(least, float(np.mean([line[name] for line in own])))
                    ax.plot(cost, np.mean([line["success"] for line in own]), label=rule,
                            **_look(rule) | {"linestyle": "none", "markerfacecolor": "white"})  # fmt: skip
        axes[0, j].set(title=cell, xscale="log", xlabel="FLOPs per step", ylim=(-0.05, 1.05))
        axes[1, j].set(title=cell, xscale="log", xlabel="trace [bytes]")
        for ax in axes[:, j]:
            ax.xaxis.set_minor_formatter(NullFormatter())
    for ax in axes[:, 0]:
        ax.set_ylabel("mean success")
    style.letters(axes)
    fig.suptitle("Success against cost")
    shown = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(shown.values(), shown, loc="outside lower center", ncols=5)
    page.figure(
        "cost", fig,
        alt="For each cell, the mean success of each rule against its FLOPs per step and the bytes of its trace.",
        caption="Mean success over tasks and lags against the operations of a step (top) and the memory of the trace "
        f"(bottom), for one row, from `online.explain`. Immediate has no trace and is drawn at {least:.0f} bytes.",
    )  # fmt: skip


def _bias_figure(page: lab.Page, rows: list[lab.Row]) -> None:
    fig, axes = style.figures(2, len(rows), max(7.5, 2.6 * len(rows) + 1.2), 6.4, sharex=True, sharey=True)
    for (above, below), row in zip(axes.T, rows, strict=True):
        exact, adjoint = np.array(row["exact_by_lag"]), np.array(row["adjoint_by_lag"])
        lags, size = np.arange(len(exact)), exact[0]
        for ax, name in ((above, "bias_by_lag"), (below, "deviation_by_lag")):
            ax.plot(lags, exact / size, color="0.7", linewidth=5, label="exact gradient")
            for rule, values in zip(row["rules"], np.array(row[name]), strict=True):
                values = np.where(values > 1e-9 * size, values / size, np.nan)
                if rule != "DNI" and np.isfinite(values).any():  # its lags have no such meaning
                    ax.plot(lags, values, label=rule, markersize=3, linewidth=1.0, markevery=3, **_look(rule))
            scaled = adjoint[1:] / adjoint[1] * exact[1] / size
            ax.plot(lags[1:], scaled, color=style.BLACK, linewidth=1.8, label="adjoint")
            ax.set(title=row["cell"], yscale="log", xlabel="lag [steps]", ylim=(1e-5, 30.0))
    axes[0, 0].set_ylabel("bias / exact gradient of lag 0")
    axes[1, 0].set_ylabel("deviation / exact gradient of lag 0")
    style.letters(axes)
    fig.suptitle("Bias and deviation of each rule's gradient by lag")
    shown = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(shown.values(), shown, loc="outside lower center", ncols=6)
    page.figure(
        "bias", fig,
        alt="For each cell, the bias (top) and deviation (bottom) of each rule's gradient against lag, with the exact "
        "gradient and the adjoint, which fall alike.",
        caption="Top: distance of a rule's mean gradient from the exact one, by the lag from the use of a parameter to "
        "the loss; a rule that leaves a lag out lies on the exact gradient (grey). The mean of a random rule is over "
        f"{page.options.bias_seeds} draws, so its bias holds 1/√{page.options.bias_seeds} of its deviation (bottom). "
        "Black: |dL/d(carry)| at that lag, scaled to the exact gradient of lag 1. Networks as drawn, on flip-flop.",
    )  # fmt: skip


def _curves_figure(page: lab.Page, lines: list[dict[str, Any]]) -> None:
    places, o = _places(lines), page.options
    fig, axes = _panels(places, 2.5, 2.4, sharey=True)
    for ax, (task, lag) in zip(axes.flat, places, strict=False):
        for line in (line for line in lines if (line["task"], line["lag"]) == (task, lag)):
            at = (np.arange(PARTS) + 0.5) * line["length_steps"] / PARTS
            ax.plot(at, line["curve"], label=line["rule"], markersize=3, linewidth=1.1, **_look(line["rule"]))
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(title=_titled(task, lag), xlabel="steps", ylim=(-0.5, 1.05))
    for ax in axes[:, 0]:
        ax.set_ylabel("success")
    style.letters(axes)
    fig.suptitle(f"Success along the stream: {o.cells[0]}, {o.optimizers[0]}")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    page.figure(
        "curves", fig,
        alt="A panel for each task and lag: success of each rule against the length of the stream so far.",
        caption=f"Success over each tenth of the stream, median over {o.seeds} seeds; a step is an update.",
    )  # fmt: skip

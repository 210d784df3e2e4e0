"""What StatLand shows: the unrolled network with every number in its box, how training went, and the LSTM."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from .. import lab
from ..lab import style
from . import published
from .published import RULES, THREE_DAYS, WEIGHTS
from .training import curve_steps

LONGEST, HEAD, TAIL = 12, 6, 4  # rows of more days are drawn with their middle left out
WIDTH, LINE = 6.6, 1.12  # inches, of the drawing and per copy
DAY, SUM, RELU = 0.8, 3.4, 5.85  # centres of the boxes across, inches

FATES = {  # colour, line style and hatch of each
    "learned": (style.BLUE, "-", ""),
    "stuck": (style.ORANGE, "--", "///"),
    "dead": (style.SKY, ":", "..."),
    "diverged": (style.VERMILLION, "-.", "xxx"),
}
DRAWN_SEEDS = 256  # more curves than this are a smear and a large file; medians and counts are over all
FLOOR = 1e-16  # losses below are drawn here; they are rounding


def draw_days(page: lab.Page) -> None:
    """The published network, unrolled over the rules, over three days, and over the user's days."""
    named = {"two_days": ("low", "medium"), "three_days": THREE_DAYS}
    if page.options.days not in (None, *named.values()):
        named["your_days"] = page.options.days
    numbers = ", ".join(f"{name} = {value:g}" for name, value in WEIGHTS.items())
    text = (
        f"Every copy uses the same five numbers, {numbers}: W1 weighs the day (low is 0, medium 0.5, high 1), W2 the "
        "output of the copy before, b1 is added, and W3 and b2 turn the last output into a prediction."
    )
    page.text("1. The published network, unrolled", [text])
    for name, days in named.items():
        trace = published.trace(days)
        said = f"{', '.join(days)}: the network predicts {trace['prediction']:.6g}, {trace['reads_as']}."
        outputs = ", ".join(f"{step['h']:.6g}" for step in trace["steps"])
        alt = f"The unrolled network, one copy per day; their outputs are {outputs}. {said}"
        page.figure(f"unrolled_{name}", unrolled(trace), alt=alt, caption=said)
    traces = [published.trace(days) for days in dict.fromkeys([*dict(RULES), *named.values()])]
    for trace in traces:
        published.show_copies(page, trace)
    page.summary |= {"published_rnn": {"weights": WEIGHTS, "rows": traces}}


def number(value: float, brackets: bool = False) -> str:
    """Six digits at most, with a true minus sign; what is negative perhaps in brackets."""
    text = f"{value + 0.0:.6g}".replace("-", "−")
    return f"({text})" if brackets and value < 0 else text


def unrolled(trace: Mapping[str, Any]) -> Figure:
    """The network of `published.trace`, one line per copy: day, sum and ReLU, whose output goes down to the next."""
    steps = list(enumerate(trace["steps"], 1))
    lines = steps if len(steps) <= LONGEST else [*steps[:HEAD], (0, None), *steps[-TAIL:]]
    height = LINE * (len(lines) + 1)
    fig, ax = style.figure(WIDTH, height + 0.4)
    ax.set(xlim=(0, WIDTH), ylim=(0, height), title=f"The network unrolled over {len(steps)} days")
    ax.axis("off")
    out: Any = None  # the box of the last ReLU, which feeds the next copy
    for y, (day, step) in zip(height - LINE * (np.arange(len(lines)) + 0.5), lines, strict=True):
        if step is None:
            ax.text(
                SUM, y, f"⋮   {len(steps) - HEAD - TAIL} more copies, the same weights   ⋮", ha="center", va="center"
            )
            out = None
            continue
        given = _box(ax, DAY, y, f"day {day}: {step['day']}\nx = {number(step['x'])}", "#f2f2f2")
        parts = f"{number(step['x_w1'])} + {number(step['h_w2'], True)} + {number(step['b1'], True)}"
        total = _box(ax, SUM, y, f"x·W1 + h·W2 + b1\n{parts}\n= {number(step['sum'])}", "#fff3d6")
        _arrow(ax, given, total, f"× W1 = {number(WEIGHTS['W1'])}", lift=0.14)
        if out is not None:
            _arrow(ax, out, total, f"× W2 = {number(WEIGHTS['W2'])}")
        out = _box(ax, RELU, y, f"ReLU\nh = {number(step['h'])}", "#d9f2e6" if step["h"] > 0 else "#ffffff")
        _arrow(ax, total, out)
    formula = f"{number(steps[-1][1]['h'])}·{number(WEIGHTS['W3'], True)} + {number(WEIGHTS['b2'], True)}"
    said = f"h·W3 + b2\n{formula} = {number(trace['prediction'])}\nreads as {trace['reads_as']}"
    _arrow(ax, out, _box(ax, SUM, LINE / 2, said, "#d5ecff"), f"× W3 = {number(WEIGHTS['W3'])}")
    return fig


def _box(ax: Axes, x: float, y: float, text: str, color: str) -> Text:
    box = {"boxstyle": "round,pad=0.35", "linewidth": 1.1, "facecolor": color, "edgecolor": "#333333"}
    return ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)


def _arrow(ax: Axes, start: Text, end: Text, label: str = "", lift: float = 0.0) -> None:
    """From the edge of one box to the edge of another, with a label beside its middle."""
    look = {"arrowstyle": "-|>", "color": "#333333", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 2}
    look |= {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=look, zorder=4)
    white = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"} if label and not lift else None
    ax.text((x0 + x1) / 2, (y0 + y1) / 2 + lift, label, ha="center", va="center", fontsize=9, bbox=white, zorder=5)


def draw_training(rows: Sequence[lab.Row], first: lab.Row, page: lab.Page) -> None:
    """The same network trained from scratch, with and without clipping."""
    options, runs = page.options, {}
    for row in rows:
        clip = "no clipping" if row["clip_norm"] is None else f"clipped to norm {row['clip_norm']:g}"
        runs.setdefault(f"{'SGD' if row['optimizer'] == 'sgd' else 'Adam'}, {clip}", []).append(row)
    outcomes = {name: outcome(own) for name, own in runs.items()}
    error = max(found["share_learned_standard_error"] for found in outcomes.values())
    paragraph = (
        "Weights start from N(0, 1), biases from 0; the loss is the sum of squared residuals over the four rules"
        f"{' and the row of three days' * options.train_three_days}. A dead unit outputs 0 after every rule (as with "
        "W1 < 0 at the start): the gradient of W1, W2, b1 and W3 is exactly 0, and b2 alone still moves, at best to "
        "0.5 for everything, a loss of 1. Stuck means alive, but meeting only some rules; diverged, a loss above 1e6 "
        f"or not finite. The standard error of the share that learned is at most {100 * error:.0f} points."
    )
    page.text("2. The same network, trained from scratch", [paragraph])
    shares = "; ".join(
        f"{name}: " + ", ".join(f"{100 * found[f'share_{fate}']:.0f}% {fate}" for fate in FATES)
        for name, found in outcomes.items()
    )
    alt = f"Share of seeds by how they ended: {shares}."
    caption = "How the seeds ended. Every bar starts from the same initial networks."
    page.figure("training_fates", fates(outcomes), alt=alt, caption=caption)
    alt = f"Loss against update for every seed in four panels. {shares}."
    caption = (
        f"Loss of every seed (at most {DRAWN_SEEDS}), median and middle half (of all). Below 1e-16 is only rounding."
    )
    page.figure("training_loss", loss_curves(options.steps, runs), alt=alt, caption=caption)
    rules = [f"{', '.join(days)} → {tomorrow}" for days, tomorrow in RULES]
    updates = [
        update["weights"]
        | dict(zip(rules, update["predictions"], strict=True))
        | {"loss, Σ residual²": update["loss"]}
        | {f"dL/d{name}": value for name, value in update["gradient"].items()}
        | {"gradient norm": update["gradient_norm"], "clip factor": update["clip_factor"]}
        | {f"{name} after": value for name, value in update["weights_after"].items()}
        for update in first["updates"]
    ]
    caption = f"The first updates of seed {first['index']} by gradient descent, clipped to norm {options.clip_norm:g}"
    show_across(page, updates, ".5g", "update", caption)
    heads = {"name": "trained with"} | {f"share_{fate}": fate for fate in FATES}
    heads |= {"share_dead_at_start": "dead at start", "share_reads_right": "right if rounded"}
    heads |= {"share_learned_and_three_days_high": "learned, three days high"}
    heads |= {"loss_final_median": "median final loss", "gradient_norm_max": "largest gradient norm"}
    caption = f"Shares of {options.seeds} seeds; learned: all four rules within {options.tolerance:g}"
    page.table([{"name": name, **found} for name, found in outcomes.items()], heads, caption)
    shown = {"seed_index": first["index"], "optimizer": "sgd", "clip_norm": first["clip_norm"]}
    page.summary |= {"rows": list(outcomes.values()), "first_updates": {**shown, "updates": first["updates"]}}


def outcome(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the seeds of one optimizer ended, together."""
    names = ("fate", "three_days_read_as", "gradient_norm_max", "dead_at_start", "reads_right")
    fate, three_days, norms, dead_at_start, right = (np.array([row[name] for row in rows]) for name in names)
    learned, losses = fate == "learned", np.array([row["loss"][-1] for row in rows])
    same = ("optimizer", "learning_rate", "clip_norm", "steps", "seed", "tolerance", "train_three_days")
    shares = {name: fate == name for name in FATES} | {"dead_at_start": dead_at_start, "reads_right": right}
    shares |= {"learned_and_three_days_high": learned & (three_days == "high")}
    return {
        **{name: rows[0][name] for name in same},
        "seeds": len(rows),
        **{f"share_{name}": float(share.mean()) for name, share in shares.items()},
        "learned_count": int(learned.sum()),
        "share_learned_standard_error": math.sqrt(learned.mean() * (1 - learned.mean()) / len(learned)),
        "loss_final_median": float(np.sort(np.where(np.isfinite(losses), losses, np.inf))[len(rows) // 2]),
        "gradient_norm_max": float(norms.astype(float).max()),
    }


def show_across(page: lab.Page, columns: Sequence[Mapping[str, float]], digits: str, name: str, caption: str) -> None:
    """A table with quantities down, and updates or days across, so that it fits a narrow page."""
    lines = [[key.replace("_", " "), *(format(each[key] + 0.0, digits) for each in columns)] for key in columns[0]]
    page.table(lines, ("quantity", *(f"{name} {i}" for i in range(1, len(columns) + 1))), caption)


def loss_curves(steps: int, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Loss against update for every seed, one panel per optimizer, with the median and the middle half over them."""
    fig, panels = style.figures(2, 2, 8.0, 6.4, sharex=True, sharey=True)
    updates = np.append(curve_steps(steps), steps) + 1
    for ax, (name, rows) in zip(panels.flat, runs.items(), strict=True):
        losses, ends = np.array([row["loss"] for row in rows]), [row["fate"] for row in rows]
        drawn = np.clip(np.where(np.isfinite(losses), losses, np.nan), FLOOR, 1e4)
        for fate, (color, linestyle, _) in FATES.items():
            for curve in [drawn[i] for i, each in enumerate(ends[:DRAWN_SEEDS]) if each == fate]:
                ax.plot(updates, curve, color=color, linestyle=linestyle, linewidth=0.7, alpha=0.55)
            if fate in ends:
                ax.plot([], [], color=color, linestyle=linestyle, label=f"{fate}: {ends.count(fate)}")
        ranked = np.where(np.isfinite(losses), losses, np.inf)
        low, middle, high = np.clip(np.quantile(ranked, [0.25, 0.5, 0.75], axis=0, method="nearest"), FLOOR, 1e4)
        ax.fill_between(updates, low, high, color="#808080", alpha=0.25, linewidth=0, label="middle half")
        ax.plot(updates, middle, color=style.BLACK, linewidth=2.2, label="median")
        ax.set(title=name, xscale="log", yscale="log")
        ax.set(xlabel="update + 1 [count]", ylabel="sum of squared residuals [1]")
        ax.legend(loc="lower left")
        ax.label_outer()
    style.letters(panels)
    return fig


def fates(outcomes: Mapping[str, Mapping[str, float]]) -> Figure:
    """Share of seeds by how they ended, one bar per optimizer."""
    fig, ax = style.figure(7.0, 0.55 * len(outcomes) + 1.8)
    left, white = np.zeros(len(outcomes)), {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
    for fate, (color, _, hatch) in FATES.items():
        shares = np.array([100 * outcome[f"share_{fate}"] for outcome in outcomes.values()])
        look = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.8, "label": fate}
        bars = ax.barh(list(outcomes), shares, left=left, **look)
        said = [f"{share:.0f}%" if share >= 4 else "" for share in shares]
        ax.bar_label(bars, said, label_type="center", fontsize=9, bbox=white)
        left += shares
    ax.set(xlim=(0, 100), xlabel="share of seeds [%]")
    ax.set_title("How training from scratch ends", pad=26)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=len(FATES), loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return fig


def draw_lstm(page: lab.Page) -> None:
    """Memories and gates of the published LSTM on companies A and B."""
    text = (
        "Both companies have the same prices on days 2, 3 and 4; the cell state c carries the difference of day 1 to "
        "the prediction for day 5. In the tables c = forget · c before + input · candidate, h = output · tanh(c)."
    )
    page.text("3. The published LSTM: companies A and B", [text])
    traces = {name: published.lstm_trace(prices) for name, prices in published.COMPANIES.items()}
    fig, panels = style.figures(2, len(traces), 8.0, 5.6, sharex=True, sharey="row")
    memories = {"c": "long-term memory c", "h": "short-term memory h", "x": "price x"}
    gates = {"forget": "forget σ(f)", "input": "input σ(i)", "output": "output σ(o)", "candidate": "candidate tanh(g)"}
    for column, (company, days) in zip(panels.T, traces.items(), strict=True):
        titles = f"company {company}, day {len(days) + 1}: {days[-1]['h']:.4f}", f"company {company}, gates"
        ylabels, numbers = ("memory and price [1]", "gate [1]"), range(1, len(days) + 1)
        for ax, names, title, ylabel in zip(column, (memories, gates), titles, ylabels, strict=True):
            for i, (name, label) in enumerate(names.items()):
                ax.plot(numbers, [day[name] for day in days], label=label, **style.line(i))
            ax.set(title=title, xticks=numbers, xlabel="day [count]", ylabel=ylabel)
            ax.label_outer()
    for line in panels:
        line[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    style.letters(panels)
    ends = ", ".join(f"company {name} ends at {days[-1]['h']:.4f}" for name, days in traces.items())
    alt = f"Memories and gates of the LSTM over four days: {ends}."
    caption = "Memories (above) and gates (below), day by day; the last short-term memory is the prediction."
    page.figure("lstm", fig, alt=alt, caption=caption)
    for name, days in traces.items():
        show_across(page, days, ".6f", "day", f"LSTM, company {name}: the prediction for day 5 is {days[-1]['h']:.6f}")
    companies = [{"company": name, "prediction": days[-1]["h"], "days": days} for name, days in traces.items()]
    page.summary |= {"published_lstm": {"companies": companies}}

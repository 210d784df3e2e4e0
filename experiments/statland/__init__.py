"""StatLand: one recurrent unit unrolled number by number, trained from scratch, and one LSTM unit.

In StatLand stocks are low, medium or high, and four rules say how two days lead to the next. A published network with
a single ReLU unit meets the rules; a published LSTM unit tells two companies apart by their first day.

Question: what passes through every copy of the published network, and how often does training from scratch find the
rules again?
Command: python -m experiments.statland
Minutes: 0.3 on two CPU cores; 0.2 with --quick (fewer updates).
Expected: the network predicts 0, 0.99, 0, 0.99 for the four rules (low, high, low, high) and 0.99 for high, medium,
medium; the LSTM predicts 0.0064 for company A and 0.9694 for B. Of 64 seeds learn all four rules: 19% by gradient
descent, 25% with clipping, 31% by Adam, 33% with clipping (of 4,096 seeds 20%, 28%, 29%, 29%); about two thirds die,
because the only ReLU unit outputs 0 for everything and no gradient passes.

With --days low medium high the published network reads these days and answers at once, without training. --out DIR adds
the drawing, and --train the rest of the experiment.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from experiments import lab
from experiments.statland import published
from experiments.statland.published import RULES, THREE_DAYS, WEIGHTS


@lab.options(quick={"steps": 1000})
class Options(lab.ProcessOptions):
    """Options of StatLand."""

    days: tuple[Literal["low", "medium", "high"], ...] = ()
    """Days for the published network to read, oldest first. Nothing is trained then, except with --train."""
    train: bool = False
    """Train as well where --days is given."""
    seeds: PositiveInt = 64
    """How many networks to train at once [count]."""
    steps: PositiveInt = 5000
    """Updates of each network [count]."""
    sgd_learning_rate: PositiveFloat = 0.1
    """Learning rate of gradient descent [1]."""
    adam_learning_rate: PositiveFloat = 0.01
    """Learning rate of Adam [1]."""
    clip_norm: PositiveFloat = 1.0
    """Global norm that gradients are clipped to, in the runs with clipping [1]."""
    tolerance: PositiveFloat = 0.1
    """A seed has learned if each of its four predictions is within this of its rule [1; low is 0, high is 1]."""
    train_three_days: bool = False
    """Train on high, medium, medium -> high as well (what the published network predicts), beside the four rules."""
    show_updates: PositiveInt = 4
    """How many first updates the table shows [count]."""


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    """A row for each seed and optimizer, then one with the first updates of a seed; with days alone one for them."""
    from experiments.statland.training import first_updates, train

    if options.days and not options.train:
        return run.rows(published.trace, [{"days": options.days}])
    shared = {name: getattr(options, name) for name in ("seed", "steps", "tolerance", "train_three_days")}
    asked = [
        {"optimizer": optimizer, "learning_rate": rate, "clip_norm": clip, "index": index, **shared}
        for optimizer, rate in (("sgd", options.sgd_learning_rate), ("adam", options.adam_learning_rate))
        for clip in (None, options.clip_norm)
        for index in range(options.seeds)
    ]
    together = [name for name in asked[0] if name != "index"]
    rows = run.rows(train, asked, "networks", together=together, given={"mesh": run.mesh})
    clipped = rows[options.seeds : 2 * options.seeds]
    shown = next((row["index"] for row in clipped if row["fate"] == "learned"), 0)
    first = {"learning_rate": options.sgd_learning_rate, "clip_norm": options.clip_norm, "count": options.show_updates}
    return rows + run.rows(first_updates, [{"seed": options.seed, "index": shown, **first}], "first updates")


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    draw_days(page)
    trained = [row for row in rows if "fate" in row]
    if trained:
        draw_training(trained, rows[-1], page)
    draw_lstm(page)


def draw_days(page: lab.Page) -> None:
    """The published network, unrolled over the rules, over three days, and over the user's days."""
    from experiments.statland.figures import unrolled

    rows = {"two_days": ("low", "medium"), "three_days": THREE_DAYS}
    if page.options.days not in ((), *rows.values()):
        rows["your_days"] = page.options.days
    page.text(
        "1. The published network, unrolled",
        [
            "Every copy uses the same five numbers: W1 weighs the day, W2 weighs the output of the copy before, b1 is "
            "added, ReLU cuts off what is negative; W3 and b2 turn the last output into a prediction. low is 0, medium "
            f"0.5, high 1. Here {', '.join(f'{name} = {value:g}' for name, value in WEIGHTS.items())}."
        ],
    )
    for name, days in rows.items():
        trace = published.trace(days)
        text = f"{', '.join(days)}: the network predicts {trace['prediction']:.6g}, {trace['reads_as']}."
        outputs = ", ".join(f"{step['h']:.6g}" for step in trace["steps"])
        alt = f"The unrolled network, one copy per day; their outputs are {outputs}. {text}"
        page.figure(f"unrolled_{name}", unrolled(trace), alt=alt, caption=text)
    traces = [published.trace(days) for days in dict.fromkeys([*dict(RULES), *rows.values()])]
    for trace in traces:
        show_copies(page, trace)
        trace["rule"] = dict(RULES).get(tuple(trace["days"]))
    page.summary |= {"published_rnn": {"weights": WEIGHTS, "rows": traces}}


def show_copies(page: lab.Page, trace: Mapping[str, Any]) -> None:
    """One row of days as a table, one line per copy, and the prediction as the last line."""

    def exact(value: float) -> str:
        return f"{value + 0.0:.10g}"  # shows 1e-6, and hides that 0.99 is stored as 0.9900000000000001

    numbers = ("x", "x_w1", "h_before", "h_w2", "b1", "sum", "h")
    lines = [[i, step["day"], *(exact(step[name]) for name in numbers)] for i, step in enumerate(trace["steps"], 1)]
    said = exact(trace["prediction"])
    lines.append(["out", "", "", "", lines[-1][-1], "", "", "h·W3 + b2", said])
    rule = f"rule: {dict(RULES)[tuple(trace['days'])]}" if tuple(trace["days"]) in dict(RULES) else "no rule"
    caption = f"{', '.join(trace['days'])} → {said}, {trace['reads_as']} ({rule})"
    page.table(lines, ("copy", "day", "x", "x·W1", "h before", "h·W2", "b1", "sum", "h = relu(sum)"), caption)


def draw_training(rows: list[lab.Row], first: lab.Row, page: lab.Page) -> None:
    """The same network trained from scratch, with and without clipping."""
    from experiments.statland.figures import DRAWN_SEEDS, FATES, fates, loss_curves
    from experiments.statland.training import curve_steps

    options, runs = page.options, {}
    for row in rows:
        clip = "no clipping" if row["clip_norm"] is None else f"clipped to norm {row['clip_norm']:g}"
        runs.setdefault(f"{row['optimizer'].replace('sgd', 'SGD').replace('adam', 'Adam')}, {clip}", []).append(row)
    outcomes = {name: outcome(own) for name, own in runs.items()}
    shares = "; ".join(
        f"{name}: " + ", ".join(f"{100 * found[f'share_{fate}']:.0f}% {fate}" for fate in FATES)
        for name, found in outcomes.items()
    )
    page.text("2. The same network, trained from scratch", findings(list(outcomes.values()), shares, options))
    page.figure(
        "training_fates",
        fates(outcomes),
        alt=f"Share of seeds by how they ended: {shares}.",
        caption="How the seeds ended. Every bar starts from the same initial networks.",
    )
    page.figure(
        "training_loss",
        loss_curves(np.append(curve_steps(options.steps), options.steps), runs),
        alt=f"Loss against update for every seed in four panels. {shares}.",
        caption=f"Loss of every seed (at most the first {DRAWN_SEEDS}) by how it ended; median and middle "
        "half are of all. Below 1e-16 is only rounding.",
    )
    caption = f"The first updates of seed {first['index']} by gradient descent, clipped to norm {options.clip_norm:g}"
    show_updates(page, first["updates"], caption)
    headings = {
        "name": "trained with",
        **{f"share_{fate}": fate for fate in FATES},
        "share_dead_at_start": "dead at start",
        "share_reads_right": "right if rounded",
        "share_learned_and_three_days_high": "learned, three days high",
        "loss_final_median": "median final loss",
        "gradient_norm_max": "largest gradient norm",
    }
    caption = f"Shares of {options.seeds} seeds; learned: all four rules within {options.tolerance:g}"
    page.table([{"name": name, **found} for name, found in outcomes.items()], headings, caption)
    shown = {"seed_index": first["index"], "optimizer": "sgd", "clip_norm": first["clip_norm"]}
    page.summary |= {"rows": list(outcomes.values()), "first_updates": {**shown, "updates": first["updates"]}}


def outcome(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the seeds of one optimizer ended, together."""
    fates = [row["fate"] for row in rows]
    learned = np.array(fates) == "learned"
    high = np.array([row["three_days_read_as"] == "high" for row in rows])
    losses = np.array([row["loss"][-1] for row in rows])
    same = ("optimizer", "learning_rate", "clip_norm", "steps", "seed", "tolerance", "train_three_days")
    return {
        **{name: rows[0][name] for name in same},
        "seeds": len(rows),
        **{f"share_{fate}": fates.count(fate) / len(rows) for fate in ("learned", "stuck", "dead", "diverged")},
        "learned_count": int(learned.sum()),
        "share_learned_standard_error": math.sqrt(learned.mean() * (1 - learned.mean()) / len(learned)),
        "share_dead_at_start": float(np.mean([row["dead_at_start"] for row in rows])),
        "share_reads_right": float(np.mean([row["reads_right"] for row in rows])),
        "share_learned_and_three_days_high": float(np.mean(learned & high)),
        "loss_final_median": float(np.sort(np.where(np.isfinite(losses), losses, np.inf))[len(rows) // 2]),
        "gradient_norm_max": float(np.max(np.array([row["gradient_norm_max"] for row in rows], float))),
    }


def findings(outcomes: list[dict[str, Any]], shares: str, options: Options) -> list[str]:
    def between(name: str) -> str:
        percent = [100 * found[name] for found in outcomes]
        return f"{min(percent):.0f}% to {max(percent):.0f}%"

    error = max(found["share_learned_standard_error"] for found in outcomes)
    return [
        "Weights start from N(0, 1), biases from 0; the loss is the sum of squared residuals over the four "
        f"rules{' and the row of three days' if options.train_three_days else ''}. Optax updates all five numbers "
        f"{options.steps} times, for {options.seeds} seeds in one compiled program.",
        f"{shares}. The standard error of the share that learned is at most {100 * error:.0f} points.",
        "Dead means that the only unit outputs 0 after every rule: the gradient of W1, W2, b1 and W3 is then exactly "
        "0, and stays so; only b2 still moves, and the best it can do is 0.5 for everything, a loss of 1. "
        f"{100 * outcomes[0]['share_dead_at_start']:.0f}% of the seeds are dead before the first update (those with "
        f"W1 < 0, one half on average), and {between('share_dead')} after training.",
        "Stuck means alive, but in a valley that meets only some of the rules, or not finished; diverged means that "
        "the loss passed 1e6 or a weight became infinite or NaN.",
        f"No rule covers three days, {', '.join(THREE_DAYS)}. {between('share_learned_and_three_days_high')} of the "
        "seeds learn the rules and, like the published network, predict high after them.",
    ]


def show_updates(page: lab.Page, updates: list[dict[str, Any]], caption: str) -> None:
    """Forward, loss, backward, update: quantities down, updates across, so that it fits a narrow page."""
    lines: dict[str, list[float]] = {name: [u["weights"][name] for u in updates] for name in WEIGHTS}
    for i, (days, tomorrow) in enumerate(RULES):
        lines[f"{', '.join(days)} → {tomorrow}"] = [u["predictions"][i] for u in updates]
    lines["loss, Σ residual²"] = [u["loss"] for u in updates]
    lines |= {f"dL/d{name}": [u["gradient"][name] for u in updates] for name in WEIGHTS}
    lines |= {name.replace("_", " "): [u[name] for u in updates] for name in ("gradient_norm", "clip_factor")}
    lines |= {f"{name} after": [u["weights_after"][name] for u in updates] for name in WEIGHTS}
    table = [[label, *(f"{value + 0.0:.5g}" for value in values)] for label, values in lines.items()]
    page.table(table, ("quantity", *(f"update {k}" for k in range(1, len(updates) + 1))), caption)


def draw_lstm(page: lab.Page) -> None:
    """The published LSTM on companies A and B."""
    from experiments.statland.figures import lstm

    traces = {name: published.lstm_trace(prices) for name, prices in published.COMPANIES.items()}
    ends = " ".join(f"Company {name} ends at {days[-1]['h']:.4f}." for name, days in traces.items())
    page.text(
        "3. The published LSTM: companies A and B",
        [
            "Both companies have the same prices on days 2, 3 and 4; only day 1 differs, and the prediction for day 5 "
            "depends on it. The cell state c carries the difference: a gate multiplies it from day to day, no weight. "
            "In the tables c = forget · c before + input · candidate, and h = output · tanh(c)."
        ],
    )
    page.figure(
        "lstm",
        lstm(traces),
        alt=f"Memories and gates of the LSTM over four days. {ends}",
        caption="Memories (above) and gates (below), day by day; the last short-term memory is the prediction.",
    )
    names = ("x", "h_before", "c_before", "forget", "input", "candidate", "c", "output", "h")
    for company, days in traces.items():
        lines = [[name.replace("_", " "), *(f"{day[name]:.6f}" for day in days)] for name in names]
        caption = f"LSTM, company {company}: the prediction for day 5 is {days[-1]['h']:.6f}"
        page.table(lines, ("quantity", *(f"day {i}" for i in range(1, len(days) + 1))), caption)
    companies = [{"company": name, "prediction": days[-1]["h"], "days": days} for name, days in traces.items()]
    page.summary |= {"published_lstm": {"companies": companies}}


experiment = lab.Experiment(Options, measure, draw, x64=True)

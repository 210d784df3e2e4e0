"""The experiment itself: options, the three sections, the outcome."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import harness, statland
from experiments.harness.rows import Row
from experiments.statland import published, training
from experiments.statland.training import FATES

if TYPE_CHECKING:
    from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.ProcessOptions):
    """Options of StatLand."""

    days: tuple[str, ...] = published.THREE_DAYS
    """A row of days for the published network to read, oldest first; words: low, medium, high."""
    seeds: int = 64
    """How many networks to train at once [count]."""
    steps: int = 5000
    """Updates of each network [count]."""
    sgd_learning_rate: float = 0.1
    """Learning rate of gradient descent [1]."""
    adam_learning_rate: float = 0.01
    """Learning rate of Adam [1]."""
    clip_norm: float = 1.0
    """Global norm that gradients are clipped to, in the runs with clipping [1]."""
    tolerance: float = 0.1
    """A seed has learned if each of its four predictions is within this of its rule [1; low is 0, high is 1]."""
    train_three_days: bool = False
    """Train on high, medium, medium -> high as well (what the published network says), beside the four rules."""
    show_updates: int = 4
    """How many first updates the table shows [count]."""

    def check(self) -> None:
        super().check()
        if not self.days:
            raise harness.UsageError("--days is empty; give at least one of low, medium, high.")
        for day in self.days:
            if day not in published.DAYS:
                raise harness.UsageError(f"--days has {day!r}; the words are {', '.join(published.DAYS)}.")
        harness.positive("--seeds", self.seeds)
        harness.positive("--steps", self.steps)
        harness.positive("--sgd-learning-rate", self.sgd_learning_rate)
        harness.positive("--adam-learning-rate", self.adam_learning_rate)
        harness.positive("--clip-norm", self.clip_norm)
        harness.positive("--tolerance", self.tolerance)
        harness.positive("--show-updates", self.show_updates)


def measure(run: harness.Run[Options]) -> harness.Outcome:
    """All three sections, in the order of the lecture."""
    parts = [read_days(run), learn(run), remember(run)]
    summary: dict[str, Any] = {}
    blocks: list[harness.Block] = []
    for numbers, content in parts:
        summary |= numbers
        blocks += content
    return harness.Outcome(summary, blocks)


Section = tuple[dict[str, Any], list[harness.Block]]


def read_days(run: harness.Run[Options]) -> Section:
    """(a) The published network, unrolled over the rules, over three days, and over the user's row."""
    from experiments.statland import diagram, tables

    network = published.published_network()
    weights = published.weights(network)
    expected: dict[tuple[str, ...], str | None] = dict(published.RULES)
    expected |= {row: None for row in (published.THREE_DAYS, run.options.days) if row not in expected}
    traces: dict[tuple[str, ...], dict[str, Any]] = {
        row: {**published.trace(network, row), "rule": rule} for row, rule in expected.items()
    }
    shown = [run.show(tables.unrolled(trace, trace["rule"])) for trace in traces.values()]
    rows = {"two_days": ("low", "medium"), "three_days": published.THREE_DAYS, "your_days": run.options.days}
    if run.options.days in (rows["two_days"], rows["three_days"]):
        del rows["your_days"]
    figures = []
    with harness.plotting():
        for name, row in rows.items():
            trace = traces[row]
            text = f"{', '.join(row)}: the network says {trace['prediction']:.6g}, {trace['reads_as']}."
            boxes = " ".join(
                f"Day {i}, {s['day']}: sum {s['sum']:.6g}, h {s['h']:.6g}." for i, s in enumerate(trace["steps"], 1)
            )
            fig = diagram.unrolled(trace, weights)
            figures.append(
                run.figure(f"unrolled_{name}", fig, alt=f"The unrolled network. {boxes} {text}", caption=text)
            )
    words = (
        "The same five numbers serve every copy: W1 weighs the day, W2 weighs what the copy before put out, b1 is "
        "added, ReLU cuts off what is negative; W3 and b2 turn the last output into a prediction. low is 0, medium "
        f"0.5, high 1. Here {', '.join(f'{name} = {value:g}' for name, value in weights.items())}."
    )
    summary = {"published_rnn": {"weights": weights, "rows": list(traces.values())}}
    return summary, [harness.Text("1. The published network, unrolled", [words]), *figures, *shown]


def training_rows(options: Options) -> list[dict[str, Any]]:
    """What the training rows are: two optimizers, each without and with clipping."""
    common = {"seeds": options.seeds, "steps": options.steps, "seed": options.seed}
    common |= {"tolerance": options.tolerance, "train_three_days": options.train_three_days}
    rates = {"sgd": options.sgd_learning_rate, "adam": options.adam_learning_rate}
    return [
        {"optimizer": name, "learning_rate": rate, "clip_norm": clip, **common}
        for name, rate in rates.items()
        for clip in (None, options.clip_norm)
    ]


def train_row(row: Mapping[str, Any], mesh: "Mesh | None" = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One training row: all seeds, judged. Values for the summary, arrays for the figures."""
    trained = training.train_seeds(
        row["seed"],
        row["seeds"],
        row["steps"],
        row["optimizer"],
        row["learning_rate"],
        row["clip_norm"],
        row["train_three_days"],
        mesh,
    )
    judged = training.judge(trained.network, row["tolerance"])
    before = training.judge(training.draw_seeds(row["seed"], row["seeds"]), row["tolerance"])
    losses = np.asarray(trained.losses)
    learned = judged.fates == FATES.index("learned")
    high = np.array([published.reading(value) == "high" for value in judged.three_days])
    ranked = np.sort(np.where(np.isfinite(losses[:, -1]), losses[:, -1], np.inf))
    values = {f"share_{fate}": float(np.mean(judged.fates == index)) for index, fate in enumerate(FATES)}
    values |= {
        "learned_count": int(learned.sum()),
        "share_learned_standard_error": math.sqrt(learned.mean() * (1 - learned.mean()) / len(learned)),
        "share_dead_at_start": float(np.mean(before.fates == FATES.index("dead"))),
        "share_reads_right": float(np.mean(judged.reads_right)),
        "share_learned_and_three_days_high": float(np.mean(learned & high)),
        "loss_final_median": float(ranked[len(ranked) // 2]),
        "gradient_norm_max": float(np.max(np.asarray(trained.largest_gradient_norm))),
    }
    updates = np.append(training.curve_steps(row["steps"]), row["steps"])
    return values, {"update": updates, "loss": losses, "fate": judged.fates, "predictions": judged.predictions}


def learn(run: harness.Run[Options]) -> Section:
    """(b) The same network trained from scratch, with and without clipping."""
    from experiments.statland import plots, tables

    options = run.options
    todo = training_rows(options)
    rows: list[Row] = []
    with run.progress("trainings", len(todo)) as advance:
        for row in todo:
            rows.append(run.rows.compute(row, lambda row=row: train_row(row, run.mesh)))
            advance(note=plots.row_name(row))

    clipped = rows[1].arrays["fate"] == FATES.index("learned")
    index = int(np.argmax(clipped))  # the first seed that learned, or seed 0
    updates = training.first_updates(
        options.seed, options.seeds, index, options.sgd_learning_rate, options.clip_norm, options.show_updates
    )
    which = f"seed {index} of {options.seeds}" + (
        ", the first that learned" if clipped.any() else ", which did not learn"
    )
    caption = f"The first updates of gradient descent, clipped to norm {options.clip_norm:g}; {which}"
    shown = [
        run.show(tables.first_updates(updates, caption)),
        run.show(tables.outcomes(rows, options.tolerance)),
    ]
    with harness.plotting():
        curves = run.figure(
            "training_loss",
            plots.loss_curves(rows),
            alt="Loss against update for every seed in four panels: " + "; ".join(map(_sentence, rows)),
            caption=f"Loss of every seed (at most the first {plots.DRAWN_SEEDS}) by how it ended; median and middle "
            "half are of all. Below 1e-16 is only rounding.",
        )
        bars = run.figure(
            "training_fates",
            plots.fates(rows),
            alt="Share of seeds by how they ended: " + "; ".join(map(_sentence, rows)),
            caption="How the seeds ended. The same initial networks in every bar.",
        )
    summary = {
        "rows": [row.flat for row in rows],
        "first_updates": {"seed_index": index, "optimizer": "sgd", "clip_norm": options.clip_norm, "updates": updates},
    }
    text = harness.Text("2. The same network, trained from scratch", _findings(rows, options))
    return summary, [text, bars, curves, *shown]


def _sentence(row: Row) -> str:
    from experiments.statland.plots import row_name

    shares = ", ".join(f"{100 * row.values[f'share_{fate}']:.0f}% {fate}" for fate in FATES)
    return f"{row_name(row.options)}: {shares}"


def _range(name: str, rows: Sequence[Row]) -> str:
    shares = [100 * row.values[name] for row in rows]
    return f"{min(shares):.0f}% to {max(shares):.0f}%"


def _findings(rows: Sequence[Row], options: Options) -> list[str]:
    best = max(rows, key=lambda row: row.values["share_learned"])
    error = best.values["share_learned_standard_error"]
    return [
        "Weights start from N(0, 1), biases from 0; the loss is the sum of squared residuals over the four "
        f"rules{' and the row of three days' if options.train_three_days else ''}; the gradient goes back "
        f"through the unrolled copies, and Optax updates all five numbers, {options.steps} times, for {options.seeds} "
        "seeds in one compiled program.",
        ". ".join(map(_sentence, rows))
        + f". The most that any of them learns is {100 * best.values['share_learned']:.0f}% "
        f"of seeds, with a standard error of {100 * error:.0f} points.",
        "Dead means that the only unit puts out 0 after every rule: the gradient of W1, W2, b1 and W3 is then exactly "
        "0, and stays so; only b2 still moves, and the best it can do is 0.5 for everything, a loss of 1. "
        f"{100 * rows[0].values['share_dead_at_start']:.0f}% of the seeds are dead before the first update (those with "
        f"W1 < 0, one half on average); after training {_range('share_dead', rows)} are.",
        "Stuck means alive, but in a valley that meets only some of the rules, or not there yet; diverged means that "
        "the loss passed 1e6 or a weight became infinite or NaN.",
        f"Of three days, {', '.join(published.THREE_DAYS)}, no rule speaks; "
        f"{_range('share_learned_and_three_days_high', rows)} of the seeds learn the rules and, like the published "
        "network, say high after them.",
    ]


def remember(run: harness.Run[Options]) -> Section:
    """(c) The published LSTM on companies A and B."""
    from experiments.statland import plots, tables

    traces = {name: published.lstm_trace(prices) for name, prices in published.COMPANIES.items()}
    shown = [run.show(tables.lstm(name, days)) for name, days in traces.items()]
    words = (
        "Both companies have the same prices on days 2, 3 and 4; only day 1 differs, and the prediction for day 5 must "
        "tell it. The cell state c carries the difference: a gate multiplies it from day to day, no weight does."
    )
    with harness.plotting():
        picture = run.figure(
            "lstm",
            plots.lstm(traces),
            alt="Memories and gates of the LSTM over four days. "
            + " ".join(f"Company {name} ends at {days[-1]['h']:.4f}." for name, days in traces.items()),
            caption="Memories (above) and gates (below), day by day; the last short-term memory is the prediction.",
        )
    companies = [{"company": name, "prediction": days[-1]["h"], "days": days} for name, days in traces.items()]
    return {"published_lstm": {"companies": companies}}, [
        harness.Text("3. The published LSTM: companies A and B", [words]),
        picture,
        *shown,
    ]


EXPERIMENT = harness.Experiment(
    "statland",
    statland.__doc__ or "",
    Options,
    measure,
    quick={"steps": 1000},
    code=("rnnjax", "experiments.statland.training", "experiments.statland.published"),
    x64=True,
)

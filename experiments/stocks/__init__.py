"""Stocks: tomorrow's price from the days before, walked forward, beside forecasts that need no network.

Question: does a recurrent network predict tomorrow's price of a stock better than today's price does?
Command: python -m experiments.stocks
Minutes: 2 (0.7 with --quick) on one core.
Expected: no network beats persistence. Over 16 half-years the squared error of the LSTM is 0.1% and of the GRU 0.3%
above it, no difference by either test; the Elman network (1.2%), linear AR (1.2%) and the moving average (4.9%) are
worse. Clipping matters to none of them. The same GRU gains 20% on the planted series, as AR does, and nothing on the
walk.

A forecast of tomorrow's log price is today's log price plus a forecast of tomorrow's log return, so all models predict
a return: persistence 0, drift the mean of the past, the moving average the mean of the last month, AR a linear function
of the last week by least squares, and a network (Elman, LSTM or GRU) reads the last `--steps` days. One network serves
all companies of a fold.

A fold is half a year. Everything that is fitted for it (weights, coefficients, means and standard deviations) is fitted
on the days before it, and a day is forecast from the days before that day. There are two controls: a planted series,
which can be predicted, and a random walk, which cannot.

A model's loss on a day is the mean over companies of its squared error over the variance of the company's past. The
difference of its loss to persistence's, day by day, is tested with Diebold and Mariano's statistic (Newey and West's
variance) and with a moving-block bootstrap, since volatile days come together.

Every trained network of the last fold is kept; it takes returns, standardised by the numbers in its `info`:

    carry, outputs = rnnjax.training.load_model("results/stocks/models/gru-clipped-0")(xs)
"""

from typing import Any, Literal

import numpy as np
from matplotlib.dates import DateFormatter, YearLocator
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from experiments import lab
from experiments.lab import style
from experiments.stocks import walk

CONTROL_CELL = "gru"
TITLES = {"stocks": "Daily prices", "planted": "Control: a planted series", "walk": "Control: a random walk"}


@lab.options(quick={"cells": ("gru",), "seeds": 2, "folds": 3, "control_folds": 2, "updates": 60, "hidden_size": 8})
class Options(lab.ProcessOptions):
    """Tomorrow's price, walked forward; the seeds are networks of each fold, cell and clipping."""

    cells: lab.Distinct[Literal["elman", "lstm", "gru"]] = ("elman", "lstm", "gru")
    """Cells that are trained."""
    clipping: lab.Distinct[bool] = (True, False)
    """Whether the gradient's global norm is clipped; by default once so and once not."""
    seeds: PositiveInt = 3
    """Networks trained for each cell and clipping."""
    folds: PositiveInt = 16
    """Half-years that are forecast, the last ones."""
    days: PositiveInt = 126
    """Trading days of a fold."""
    control_folds: NonNegativeInt = 6
    """Folds of the planted series and of the random walk; 0: no controls."""
    steps: PositiveInt = 30
    """Past returns that a forecast is made from [days]."""
    hidden_size: PositiveInt = 16
    """H [units]."""
    updates: PositiveInt = 200
    """Updates of each run."""
    batch: PositiveInt = 32
    """Sequences in a batch."""
    rate: PositiveFloat = 3e-3
    """Adam's learning rate at the first update; it falls to zero at the last, along half a cosine."""
    max_norm: PositiveFloat = 0.5
    """Where the gradient's global norm is clipped, in runs that clip."""

    def check(self) -> None:
        super().check()
        panel = walk.load("stocks")
        before = len(panel.dates) - max(self.folds, self.control_folds) * self.days
        least = walk.least_days(panel, self.steps)
        if before < least:
            raise lab.UsageError(
                f"--folds, --days and --steps leave {before} of {len(panel.dates)} days before the first fold; "
                f"at least {least} are needed: give fewer folds or days."
            )


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    """A program for each cell on the prices, and one for each control; a row for each of its networks."""
    from experiments.stocks.training import train

    names = ("seed", "days", "steps", "hidden_size", "updates", "batch", "rate")
    shared = {name: getattr(options, name) for name in names}
    programs = [("stocks", cell, options.folds, options.clipping) for cell in options.cells]
    if options.control_folds:
        programs += [(name, CONTROL_CELL, options.control_folds, (True,)) for name in walk.INPUTS[1:]]
    models = run.folder / "models" if run.folder and run.is_coordinator else None
    rows = []
    for name, cell, folds, clipping in programs:
        asked = [
            {"input": name, "cell": cell, "network": network, "max_norm": options.max_norm if clipped else None}
            | {"folds": folds, **shared}
            for clipped in clipping
            for network in range(options.seeds)
        ]
        given = {"mesh": run.mesh, "models": models if name == "stocks" else None}
        rows += run.rows(train, asked, "networks", together=("input",), given=given)
    return rows


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    programs: dict[tuple[str, str], list[lab.Row]] = {}
    for row in rows:
        programs.setdefault((row["input"], row["cell"]), []).append(row)
    lines, walks = {}, {}
    for name in dict.fromkeys(name for name, _ in programs):
        own = [row for row in rows if row["input"] == name]
        panel = walk.load(name, own[0]["seed"])
        folds = walk.walk_forward(panel, own[0]["folds"], own[0]["days"], own[0]["steps"])
        named: dict[str, Any] = {each: [walk.forecasts(each, panel, folds)] for each in walk.BASELINES}
        for row in own:
            clipping = "unclipped" if row["max_norm"] is None else "clipped"
            named.setdefault(f"{row['cell']}, {clipping}", []).append(row["forecast"])
        named = {model: np.array(said, float) for model, said in named.items()}  # [seeds, F, days, C]
        walks[name], lines[name] = (panel, folds, named), walk.lines_of(folds, named)
    panel, folds, named = walks["stocks"]
    ratios = {name: walk.by_fold(folds, said) for name, said in named.items() if name != "persistence"}
    page.text("Results", results(lines))
    draw_errors(page, panel, folds, {n: r for n, r in ratios.items() if n != "drift" and "unclipped" not in n})
    show_lines(page, "stocks", folds, lines["stocks"])
    draw_gains(page, lines)
    draw_curves(page, panel, folds, {cell: own for (name, cell), own in programs.items() if name == "stocks"})
    for name in [name for name in lines if name != "stocks"]:
        show_lines(page, name, walks[name][1], lines[name])
    page.summary |= {
        "input": {"source": walk.stocks.SOURCE, "first_test_day": str(panel.dates[folds.first[0]])},
        "lines": lines,
        "companies": list(panel.names),
        "rmse_over_persistence_by_fold_and_company": {name: ratio.tolist() for name, ratio in ratios.items()},
        "first_day_of_fold": [str(day) for day in panel.dates[folds.first]],
        "programs": [{**of_program(own), "input": name, "cell": cell} for (name, cell), own in programs.items()],
    }


def of_program(rows: list[lab.Row]) -> dict[str, Any]:
    """Networks that failed, and for each clipping the share of updates that were clipped."""
    norms = list(dict.fromkeys(row["max_norm"] for row in rows))
    clipped = [[row["clipped"] for row in rows if row["max_norm"] == norm] for norm in norms]
    return {
        "failed": sum(row["failed"] for row in rows),
        "clipped_share": [norm and float(np.nanmean(own)) for norm, own in zip(norms, clipped, strict=True)],
        "largest_gradient_norm": float(np.nanmax([row["gradient_norm_max"] for row in rows])),
    }


def results(lines: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The verdicts on the prices, and those on the controls, which test the method."""
    said = []
    for verdict in ("better", "worse", "no difference shown"):
        found = [line for line in lines["stocks"] if line["verdict"] == verdict]
        models = ", ".join(f"{line['model']} ({line['gain_over_persistence']:+.2%})" for line in found)
        said += [f"Against persistence, {verdict}: {models}."] if found else []
    for name in ("planted", "walk"):
        for line in [line for line in lines.get(name, ()) if line["model"].startswith(CONTROL_CELL)]:
            said.append(f"{TITLES[name]}, {line['model']}: {line['verdict']} ({line['gain_over_persistence']:+.2%}).")
    return said


def show_lines(page: lab.Page, name: str, folds: walk.Folds, lines: list[dict[str, Any]]) -> None:
    headings = {
        "model": "model",
        "seeds": "seeds",
        "rmse_log_return": "RMSE of log return",
        "loss": "loss",
        "gain_over_persistence": "gain",
        "right_direction_share": "right direction",
        "diebold_mariano": "DM",
        "difference_low": "95% from",
        "difference_high": "to",
        "verdict": "than persistence",
    }
    caption = (
        f"{TITLES[name]}, {len(folds.first)} folds. Loss: squared error in variances of the past; gain: 1 - loss / "
        "persistence's; DM and the interval: of loss - persistence's"
    )
    page.table(lines, headings, caption)


def draw_errors(page: lab.Page, panel: walk.Panel, folds: walk.Folds, ratios: dict[str, np.ndarray]) -> None:
    """A panel for each company: root mean squared error over persistence's, fold by fold, a line per model."""
    at, margin = panel.dates[folds.first] + np.timedelta64(90, "D"), np.timedelta64(200, "D")
    fig, axes = style.figures(1, len(panel.names), 9.0, 3.1)
    span = np.array(list(ratios.values()))
    many = np.isfinite(span[0]).sum(axis=0) > 1
    order = np.argsort(~many, kind="stable")  # a company of one fold, with little past, has a scale of its own
    for place, (ax, column) in enumerate(zip(axes[0], order, strict=True)):
        ax.axhline(1, color="0.35", linewidth=1.0)
        for i, (name, ratio) in enumerate(ratios.items()):
            ax.plot(at, ratio[:, column], label=name, **style.line(i), linewidth=1.1, markersize=4)
        ax.set(title=panel.names[column], xlim=(at[0] - margin, at[-1] + margin))
        if many[column]:
            ax.set_ylim(np.nanmin(span[:, :, many]) - 0.004, np.nanmax(span[:, :, many]) + 0.004)
            ax.tick_params(axis="y", labelleft=place == 0)
        ax.xaxis.set_major_locator(YearLocator(4 if len(at) > 8 else 1))
        ax.xaxis.set_major_formatter(DateFormatter("%Y"))
    axes[0, 0].set_ylabel("RMSE / RMSE of persistence [1]")
    axes[0, len(order) // 2].set_xlabel("middle of the fold [year]")
    fig.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=len(ratios))
    style.letters(axes)
    page.figure(
        "errors",
        fig,
        alt="For each company the error of each model over that of persistence, fold by fold.",
        caption="Root mean squared error of tomorrow's log return over that of persistence (below the line at 1 a "
        "model is better), by fold and company; networks clipped, all seeds together. GOOG and FB begin with the first "
        "fold that has enough of their past; FB, with one fold and 48 days to learn from, has a scale of its own.",
    )


def draw_gains(page: lab.Page, lines: dict[str, list[dict[str, Any]]]) -> None:
    """A panel for each input: difference of loss to persistence with its interval, a model per row."""
    fig, axes = style.figures(1, len(lines), 3.4 * len(lines) + 1.4, 3.9)
    for ax, (name, own) in zip(axes[0], lines.items(), strict=True):
        shown = [line for line in own if line["model"] != "persistence"]
        at = np.arange(len(shown))[::-1]
        middle = np.array([line["difference"] for line in shown])
        ends = np.array([[line["difference_low"], line["difference_high"]] for line in shown]).T
        ax.errorbar(middle, at, xerr=np.abs(ends - middle), fmt="o", color=style.BLACK, capsize=3, linewidth=1.2)
        ax.axvline(0, color="0.35", linewidth=1.0)
        ax.set_yticks(at, [line["model"] for line in shown])
        ax.set(title=TITLES[name], xlabel="loss − loss of persistence\n[variances of the past]")
        ax.set_ylim(-0.7, len(shown) - 0.3)
        ax.locator_params(axis="x", nbins=5)
        ax.grid(axis="y", visible=False)
    style.letters(axes)
    page.figure(
        "gains",
        fig,
        alt="For prices, a planted series and a random walk, each model's loss less persistence's, with intervals.",
        caption="Mean daily loss less that of persistence, with the 95% interval of a moving-block bootstrap; left of "
        "zero a model is better.",
    )


def draw_curves(page: lab.Page, panel: walk.Panel, folds: walk.Folds, cells: dict[str, list[lab.Row]]) -> None:
    """A panel for each cell: loss on what is trained on, and on the month after it, over folds and seeds."""
    known = zip(folds.cut, folds.std, folds.served, strict=True)
    days = walk.CURVE_DAYS
    month = [np.nanmean((panel.values[cut : cut + days] / std)[:, served] ** 2) for cut, std, served in known]
    fig, axes = style.figures(1, len(cells), max(3.3 * len(cells), 6.5) + 0.8, 3.9, sharey=True)
    for ax, (cell, rows) in zip(axes[0], cells.items(), strict=True):
        updates = rows[0]["updates"]
        for i, norm in enumerate(dict.fromkeys(row["max_norm"] for row in rows)):
            own, words = [row for row in rows if row["max_norm"] == norm], "clipped" if norm else "not clipped"
            shown = {"trained on": [r["loss"] for r in own], "month after": [r["held_out_loss"] / month for r in own]}
            for j, (name, losses) in enumerate(shown.items()):
                values, look = np.concatenate(losses, axis=1), style.line(2 * j)
                look |= {"linestyle": "-" if norm else "--", "markerfacecolor": look["color"] if norm else "white"}
                median = np.nanmedian(values, axis=1)
                ax.plot(updates, median, label=f"{name}, {words}", markevery=(3 * i, 6), **look)
                if norm:
                    low, high = np.nanquantile(values, (0.25, 0.75), axis=1)
                    ax.fill_between(updates, low, high, color=look["color"], alpha=0.12, linewidth=0)
        ax.axhline(1, color="0.35", linewidth=0.8)
        ax.set(title=cell, xlabel="updates [count]")
    axes[0, 0].set_ylabel("squared error / persistence's [1]")
    handles = axes[0, 0].get_legend_handles_labels()[0]
    fig.legend(handles=handles, loc="outside lower center", ncols=4 if len(cells) > 1 else 2)
    if len(cells) > 1:
        style.letters(axes)
    page.figure(
        "curves",
        fig,
        alt="For each cell squared error against updates, on the training days and on the month after them.",
        caption="Learning curves, squared error over that of persistence on the same days: median over folds and "
        "seeds; the bands, of clipped runs, hold half of them. The month lies after the days that weights and scales "
        "are fitted to, and before the fold.",
    )


experiment = lab.Experiment(Options, measure, draw)

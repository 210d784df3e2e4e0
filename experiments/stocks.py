"""Stocks: tomorrow's price from the days before, walked forward, beside forecasts that need no network.

Question: does a recurrent network predict tomorrow's price of a stock better than today's price does?
Command: python -m experiments.stocks
Minutes: 2 (0.7 with --quick) on one core.
Expected: no network beats persistence. Over 16 half-years the squared error of the LSTM is 0.1% and of the GRU 0.3%
above it, no difference by either test; the Elman network (1.2%), linear AR (1.2%) and the moving average (4.9%) are
worse. Clipping matters to none. The same GRU gains 20% on the planted series, as AR does, and nothing on the walk.

A forecast of tomorrow's log price is today's log price plus a forecast of tomorrow's log return, so all models predict
a return: persistence 0, drift the mean of the past, the moving average the mean of the last month, AR a linear function
of the last week by least squares, and a network reads the last `--steps` days of any company. There are two controls: a
planted series, which can be predicted, and a random walk, which cannot.

A fold is half a year. Everything that is fitted for it (weights, coefficients, means and standard deviations) is fitted
on the days before its cut, and a day is forecast from the days before that day:

| start ... trained on ... cut | learning curve ... first | forecast ... |      then the next fold's forecast begins

Every trained network of the last fold is kept; it takes returns, standardised by the numbers in its `info`:

    carry, outputs = rnnjax.training.load_model("results/stocks/models/gru-clipped-0")(xs)
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

import rnnjax
from rnnjax.tasks import Batch, squared_error
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many, save_model

from . import lab
from .data import stocks
from .lab import style

CONTROL_CELL = "gru"
PLANTED = (0.5, -0.3)  # of the last two returns: a quarter and more of the variance can be known the day before
TITLES = {"stocks": "Daily prices", "planted": "Control: a planted series", "walk": "Control: a random walk"}

CURVE_DAYS = 21  # before a fold's first; no weight is fitted to them, learning curves are measured on them
LEAST_DAYS = 40  # a company with fewer returns to train on is not forecast in the fold
ORDER, AVERAGED = 5, 20  # past returns that AR sees, a week, and that the moving average is over, a month
RESAMPLES, BLOCK_DAYS = 2000, 21  # of the bootstrap
CELLS: dict[str, Callable[[int], rnnjax.Cell]] = {"elman": rnnjax.Elman, "lstm": rnnjax.LSTM, "gru": rnnjax.GRU}
INPUT_SIZE = 1  # the return of the day, standardised
POINTS = 20  # of a learning curve


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
        panel = load("stocks")
        before = len(panel.dates) - max(self.folds, self.control_folds) * self.days
        least = panel.starts.min() + max(LEAST_DAYS, self.steps + 1) + CURVE_DAYS
        if before < least:
            raise lab.UsageError(
                f"--folds, --days and --steps leave {before} of {len(panel.dates)} days before the first fold; "
                f"at least {least} are needed: give fewer folds or days."
            )


class Panel(NamedTuple):
    """Log returns of C companies on the same N days; a company that is not yet listed has NaN."""

    names: tuple[str, ...]  # C
    dates: np.ndarray  # [N]
    values: np.ndarray  # [N, C] float64, dimensionless
    starts: np.ndarray  # [C] the first day of each


def load(name: str, seed: int = 0) -> Panel:
    """The real returns ("stocks"), or a control of the same days, companies and standard deviations.

    "planted" is x_t = 0.5 x_{t-1} - 0.3 x_{t-2} + noise; the returns of "walk" are noise alone; `seed` is theirs.
    """
    prices = stocks.load()
    dates = max((p.dates for p in prices.values()), key=len)
    values = np.full((len(dates) - 1, len(prices)), np.nan)
    for column, p in enumerate(prices.values()):
        if not np.array_equal(p.dates, dates[-len(p.dates) :]):
            raise lab.UsageError(f"{p.ticker} misses days that others have; this experiment needs the file as it is.")
        values[len(dates) - len(p.dates) :, column] = np.diff(np.log(p.adjusted_close))
    real = Panel(tuple(prices), dates[1:], values, np.isnan(values).sum(axis=0))
    if name == "stocks":
        return real
    noise = np.random.default_rng(seed).standard_normal(values.shape)
    if name == "planted":
        for t in range(2, len(noise)):
            noise[t] += PLANTED[0] * noise[t - 1] + PLANTED[1] * noise[t - 2]
    scaled = noise / noise.std(axis=0) * np.nanstd(values, axis=0)
    return real._replace(values=np.where(np.isnan(values), np.nan, scaled))


class Folds(NamedTuple):
    """F folds; all but `truth` comes from days before `cut` alone."""

    cut: np.ndarray  # [F] days
    first: np.ndarray  # [F]
    mean: np.ndarray  # [F, C] of the returns before `cut`; 0 where a company is not served
    std: np.ndarray  # [F, C] likewise; 1 where a company is not served
    served: np.ndarray  # [F, C] whether the company is trained on and forecast
    truth: np.ndarray  # [F, days, C] what is forecast; NaN where a company is not served


def walk_forward(panel: Panel, count: int, days: int, steps: int) -> Folds:
    """The last `count` times `days` days, one fold each; `steps` is T, what a window needs of a company's past."""
    first = len(panel.dates) - days * np.arange(count, 0, -1)
    cut = first - CURVE_DAYS
    served = cut[:, None] - panel.starts >= max(LEAST_DAYS, steps + 1)
    mean, std = np.zeros(served.shape), np.ones(served.shape)
    for fold, company in np.argwhere(served):
        past = panel.values[panel.starts[company] : cut[fold], company]
        mean[fold, company], std[fold, company] = past.mean(), past.std()
    truth = np.where(served[:, None], panel.values[first[:, None] + np.arange(days)], np.nan)
    return Folds(cut, first, mean, std, served, truth)


def baselines(panel: Panel, folds: Folds) -> dict[str, np.ndarray]:
    """`[F, days, C]` returns by forecasts without a network; NaN where a company is not served."""
    names = ("persistence", "drift", "moving average", "linear AR")
    said = {name: np.full(folds.truth.shape, np.nan) for name in names}
    for fold, company in np.argwhere(folds.served):
        series = panel.values[:, company]
        past = series[panel.starts[company] : folds.cut[fold]]
        lagged = [past[ORDER - i : len(past) - i] for i in range(1, ORDER + 1)]
        design = np.stack([np.ones(len(past) - ORDER), *lagged], axis=1)
        weights, *_ = np.linalg.lstsq(design, past[ORDER:], rcond=None)  # r_t = a + Σ_i b_i r_{t-i}
        days = folds.first[fold] + np.arange(len(folds.truth[0]))
        known = series[days[:, None] + np.arange(-AVERAGED, 0)]  # ends the day before
        linear = weights[0] + known[:, : -ORDER - 1 : -1] @ weights[1:]
        for name, forecast in zip(names, (0.0, past.mean(), known.mean(axis=1), linear), strict=True):
            said[name][fold, :, company] = forecast
    return said


def losses(folds: Folds, said: np.ndarray | float) -> np.ndarray:
    """Squared errors of forecasts `[..., F, days, C]` over the variance of the company's past."""
    return ((said - folds.truth) / folds.std[:, None]) ** 2


def lines_of(folds: Folds, named: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A line for each model, `[seeds, F, days, C]` forecasts: its errors, and whether it beats persistence."""
    base = np.nanmean(losses(folds, 0.0), axis=-1).ravel()  # [all days], the mean over companies
    lines = []
    for name, said in named.items():
        daily = np.nanmean(losses(folds, said), axis=-1).reshape(len(said), -1)
        counts = ~np.isnan(said) & (said != 0) & (folds.truth != 0)
        right = np.sign(said) == np.sign(folds.truth)
        line = {"model": name, "seeds": len(said), "loss": float(daily.mean())}
        line |= {"rmse_log_return": float(np.sqrt(np.nanmean((said - folds.truth) ** 2)))}
        line |= {"gain_over_persistence": 1 - float(daily.mean() / base.mean())}
        line |= {"gain_by_seed": (1 - daily.mean(axis=1) / base.mean()).tolist()}
        line |= {"right_direction_share": float(right[counts].mean()) if counts.any() else None}
        line |= compare(daily.mean(axis=0) - base)
        lines.append(line | ({"verdict": "–"} if name == "persistence" else {}))
    return lines


def compare(differences: np.ndarray) -> dict[str, Any]:
    """Tests whether daily differences of loss `[n]`, model minus persistence, have mean zero.

        DM = d̄ / sqrt(V / n)        V = γ_0 + 2 Σ_{k=1..m} (1 - k/(m+1)) γ_k,   m = floor(4 (n/100)^(2/9))

    Returns:
      `difference`, the mean, below zero where the model is better; `difference_low`, `difference_high`, its 95%
      interval by the moving-block bootstrap (volatile days come together); `diebold_mariano`, about N(0, 1) if the two
      are equally good; `verdict`, what both tests say together at the level of 5%. All are 0 if the losses are equal.

    Reference: Diebold and Mariano, Comparing predictive accuracy, J. Business & Economic Statistics 13 (1995); Newey
    and West, Econometrica 55 (1987), with a lag of the order in their Review of Economic Studies 61 (1994); Künsch, The
    jackknife and the bootstrap for general stationary observations, Annals of Statistics 17 (1989).
    """
    d = np.asarray(differences, np.float64)
    n, statistic, low, high = len(d), 0.0, 0.0, 0.0
    if d.any():
        centred, lags = d - d.mean(), int(4 * (n / 100) ** (2 / 9))
        variance = centred @ centred / n
        for k in range(1, lags + 1):
            variance += 2 * (1 - k / (lags + 1)) * (centred[k:] @ centred[:-k]) / n
        statistic = d.mean() / np.sqrt(variance / n)
        block = min(BLOCK_DAYS, n)
        starts = np.random.default_rng(0).integers(0, n - block + 1, (RESAMPLES, -(-n // block)))
        days = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :n]
        low, high = np.quantile(d[days].mean(axis=1), (0.025, 0.975))
    better, worse = statistic < -1.96 and high < 0, statistic > 1.96 and low > 0
    verdict = "better" if better else "worse" if worse else "no difference shown"
    found = {"difference": float(d.mean()), "difference_low": float(low), "difference_high": float(high)}
    return found | {"diebold_mariano": float(statistic), "verdict": verdict}


def train(asked: Sequence[dict[str, Any]], mesh: Any = None, models: Path | None = None) -> list[dict[str, Any]]:
    """Networks of one cell on one input, each once per fold. Clipped or not, a seed starts from the same weights.

    Args:
      asked: `network` (its index) and `max_norm` (None: not clipped) of each; the rest is the same for all.
      mesh: devices over which the networks are split.
      models: where the networks of the last fold are saved.
    Returns:
      For each row `failed` folds; `forecast` `[F, days, C]` log returns, NaN where a company is not served; `updates`
      `[points]`; `loss`, `held_out_loss`, `gradient_norm`, `gradient_norm_max`, `clipped` (share of updates)
      `[points, F]`, losses in units of the past's variance.
    """
    first, count = asked[0], asked[0]["folds"]
    steps, days = first["steps"], first["days"]
    panel = load(first["input"], first["seed"])
    folds = walk_forward(panel, count, days, steps)
    model = rnnjax.Readout(CELLS[first["cell"]](first["hidden_size"]), output_size=1)
    series = jnp.asarray(np.nan_to_num(panel.values), jnp.float32)  # days before a company's first are never read
    rate = optax.cosine_decay_schedule(first["rate"], first["updates"])
    key = jax.random.key(first["seed"])

    def forecast(run: tuple[rnnjax.ReadoutParams, dict[str, Array]]) -> Array:
        params, setting = run
        batch = windows_before(series, setting, setting["first"], days, steps)
        said = rnnjax.unroll(model, params, batch.xs)[1][-1].reshape(days, -1)
        return jnp.where(setting["served"], said * setting["std"] + setting["mean"], jnp.nan)

    limits = [np.inf if each["max_norm"] is None else each["max_norm"] for each in asked]
    numbers = [each["network"] * count + fold for each in asked for fold in range(count)]
    settings = {
        "max_norm": jnp.asarray(np.repeat(limits, count), jnp.float32),
        "key": jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.asarray(numbers, jnp.uint32)),
        **jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(asked)), known(folds)),
    }
    fitted = fit_many(
        lambda params, batch: squared_error(rnnjax.unroll(model, params, batch.xs)[1], batch),
        lambda key, setting: model.init(key, INPUT_SIZE),
        lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.adam(rate)),
        functools.partial(training_windows, series, panel.starts, steps, first["batch"]),
        settings,
        FitOptions(steps=first["updates"], chunk=max(1, first["updates"] // POINTS)),
        key=key,
        held_out=lambda key, index, setting: windows_before(series, setting, setting["cut"], CURVE_DAYS, steps),
        has_setting=("data", "held_out"),
        mesh=mesh,
    )
    if models is not None:
        save(models, asked, panel, folds, model, fitted.state.params)
    said = jax.jit(functools.partial(jax.lax.map, forecast))((fitted.state.params, settings))
    names = ("loss", "held_out_loss", "gradient_norm", "gradient_norm_max", "clipped")
    rows = []
    for start in range(0, len(settings["key"]), count):  # a network in all folds
        own = slice(start, start + count)
        failed = sum(fault is not None for fault in fitted.faults[own])
        curves = {name: fitted.history[name][:, own] for name in names}
        rows.append({"failed": failed, "forecast": said[own], "updates": fitted.history["step"], **curves})
    return rows


def known(folds: Folds) -> dict[str, Array]:
    """What a network is told of its fold, `[F, ...]`."""
    kinds = {"cut": jnp.int32, "first": jnp.int32, "mean": jnp.float32, "std": jnp.float32, "served": jnp.bool_}
    return {name: jnp.asarray(getattr(folds, name), kind) for name, kind in kinds.items()}


def training_windows(
    series: Array, starts: np.ndarray, steps: int, rows: int, key: Array, step: Array, setting: dict[str, Array]
) -> Batch:
    """Windows of T returns and the T that follow each of them, evenly drawn from all that end before the fold's cut."""
    key_company, key_day = jax.random.split(key)
    begin = jnp.asarray(starts, jnp.int32)
    windows = jnp.where(setting["served"], setting["cut"] - begin - steps, 0)  # T returns and a last target
    company = jax.random.choice(key_company, len(starts), (rows,), p=windows / windows.sum())
    offset = jnp.floor(jax.random.uniform(key_day, (rows,)) * windows[company]).astype(jnp.int32)
    days = begin[company] + jnp.minimum(offset, windows[company] - 1) + jnp.arange(steps + 1, dtype=jnp.int32)[:, None]
    scaled = (series[days, company] - setting["mean"][company]) / setting["std"][company]
    lengths = jnp.full((rows,), steps, jnp.int32)
    return Batch(scaled[:-1, :, None], scaled[1:, :, None], jnp.ones((steps, rows), scaled.dtype), lengths)


def windows_before(series: Array, setting: dict[str, Array], first: Array, days: int, steps: int) -> Batch:
    """For each of `days` days from `first` on, and each company, the T returns before it; the day itself is the target.

    Rows are days times companies; only the last step is scored, and a company that is not served weighs nothing.
    """
    companies = series.shape[1]
    day = first + jnp.arange(days, dtype=jnp.int32)
    at = day + jnp.arange(-steps, 1, dtype=jnp.int32)[:, None]
    scaled = (series[at] - setting["mean"]) / setting["std"]
    scaled = jnp.where(setting["served"], scaled, 0).reshape(steps + 1, days * companies, 1)
    served = jnp.broadcast_to(setting["served"], (days, companies)).reshape(-1)
    weights = jnp.zeros((steps, days * companies), scaled.dtype).at[-1].set(served.astype(scaled.dtype))
    return Batch(scaled[:-1], scaled[1:], weights, jnp.full((days * companies,), steps, jnp.int32))


def save(folder: Path, asked: Sequence[dict[str, Any]], panel: Panel, folds: Folds, model: Any, params: Any) -> None:
    """Saves the networks of the last fold, with what they take and give."""
    by_company = zip(panel.names, folds.served[-1], folds.mean[-1].tolist(), folds.std[-1].tolist(), strict=True)
    scales = {name: {"mean": mean, "std": std} for name, served, mean, std in by_company if served}
    info = {"task": "the next daily log return, standardised", "fitted_before": str(panel.dates[folds.cut[-1]])}
    for i, each in enumerate(asked):
        own = jax.tree.map(lambda leaf, i=i: leaf[(i + 1) * len(folds.first) - 1], params)
        place = folder / f"{each['cell']}-{'unclipped' if each['max_norm'] is None else 'clipped'}-{each['network']}"
        save_model(place, model, own, info | each | {"standardised_by": scales}, input_size=INPUT_SIZE)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    """A program for each cell on the prices, and one for each control; a row for each of its networks."""
    names = ("seed", "days", "steps", "hidden_size", "updates", "batch", "rate")
    shared = {name: getattr(options, name) for name in names}
    programs = [("stocks", cell, options.folds, options.clipping) for cell in options.cells]
    if options.control_folds:
        programs += [(name, CONTROL_CELL, options.control_folds, (True,)) for name in ("planted", "walk")]
    models = run.folder / "models" if run.folder and run.is_coordinator else None
    rows = []
    for name, cell, folds, clipping in programs:
        own = {"input": name, "cell": cell, "folds": folds, **shared}
        norms = [options.max_norm if clipped else None for clipped in clipping]
        asked = [{"network": i, "max_norm": norm, **own} for norm in norms for i in range(options.seeds)]
        given = {"mesh": run.mesh, "models": models if name == "stocks" else None}
        rows += run.rows(train, asked, "networks", together=("input",), given=given)
    return rows


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    lines, walks, programs = {}, {}, {}
    for name in dict.fromkeys(row["input"] for row in rows):
        own = [row for row in rows if row["input"] == name]
        panel = load(name, own[0]["seed"])
        folds = walk_forward(panel, own[0]["folds"], own[0]["days"], own[0]["steps"])
        said = {model: [forecast] for model, forecast in baselines(panel, folds).items()}
        for row in own:
            model = f"{row['cell']}, {'clipped' if row['max_norm'] else 'unclipped'}"
            said.setdefault(model, []).append(row["forecast"])
            programs.setdefault((name, row["cell"]), []).append(row)
        named = {model: np.array(each, float) for model, each in said.items()}  # [seeds, F, days, C]
        walks[name], lines[name] = (panel, folds, named), lines_of(folds, named)
    results = [
        f"{TITLES[name]}, against persistence, {verdict}: {', '.join(models)}."
        for name, own in lines.items()
        for verdict in ("better", "worse", "no difference shown")
        if (models := [f"{e['model']} ({e['gain_over_persistence']:+.2%})" for e in own if e["verdict"] == verdict])
    ]
    page.text("Results", results)
    panel, folds, said = walks["stocks"]
    base = losses(folds, 0.0).mean(axis=1)
    del said["persistence"]
    ratios = {name: np.sqrt(losses(folds, each).mean(axis=(0, 2)) / base) for name, each in said.items()}  # [F, C]
    draw_errors(page, panel, folds, {n: r for n, r in ratios.items() if n != "drift" and "unclipped" not in n})
    draw_gains(page, lines)
    draw_curves(page, panel, folds, {cell: own for (name, cell), own in programs.items() if name == "stocks"})
    heads = {"model": "model", "seeds": "seeds", "rmse_log_return": "RMSE of log return", "loss": "loss"}
    heads |= {"gain_over_persistence": "gain", "right_direction_share": "right direction", "diebold_mariano": "DM"}
    heads |= {"difference_low": "95% from", "difference_high": "to", "verdict": "than persistence"}
    units = "Loss in variances of the past; gain: 1 - loss / persistence's; DM and interval: of loss - persistence's"
    for name, own in lines.items():
        page.table(own, heads, f"{TITLES[name]}, {len(walks[name][1].first)} folds. {units}")
    page.summary |= {
        "input": {"source": stocks.SOURCE, "first_test_day": str(panel.dates[folds.first[0]])},
        "lines": lines,
        "companies": list(panel.names),
        "rmse_over_persistence_by_fold_and_company": {name: ratio.tolist() for name, ratio in ratios.items()},
        "first_day_of_fold": [str(day) for day in panel.dates[folds.first]],
        "programs": [{"input": name, "cell": cell, **of_program(own)} for (name, cell), own in programs.items()],
    }


def of_program(rows: list[lab.Row]) -> dict[str, Any]:
    """Networks that failed, and for each clipping the share of updates that were clipped."""
    norms = dict.fromkeys(row["max_norm"] for row in rows)
    clipped = {norm: [row["clipped"] for row in rows if row["max_norm"] == norm] for norm in norms}
    shares = [norm and float(np.nanmean(own)) for norm, own in clipped.items()]
    failed, largest = sum(row["failed"] for row in rows), np.nanmax([row["gradient_norm_max"] for row in rows])
    return {"failed": failed, "clipped_share": shares, "largest_gradient_norm": float(largest)}


def draw_errors(page: lab.Page, panel: Panel, folds: Folds, ratios: Mapping[str, np.ndarray]) -> None:
    """A panel for each company: root mean squared error over persistence's, fold by fold, a line per model."""
    years = 1970.25 + panel.dates[folds.first].astype(float) / 365.25  # of the middle of each fold
    fig, axes = style.figures(1, len(panel.names), 9.0, 3.1, sharex=True)
    span = np.array(list(ratios.values()))
    many = np.isfinite(span[0]).sum(axis=0) > 1
    order = np.argsort(~many, kind="stable")  # a company of one fold, with little past, has a scale of its own
    for ax, column in zip(axes[0], order, strict=True):
        ax.axhline(1, color="0.35", linewidth=1.0)
        for i, (name, ratio) in enumerate(ratios.items()):
            ax.plot(years, ratio[:, column], label=name, **style.line(i), linewidth=1.1, markersize=4)
        ax.set(title=panel.names[column], xlim=(years[0] - 0.55, years[-1] + 0.55))
        if many[column]:
            ax.set_ylim(np.nanmin(span[:, :, many]) - 0.004, np.nanmax(span[:, :, many]) + 0.004)
            ax.tick_params(axis="y", labelleft=ax is axes[0, 0])
    axes[0, 0].locator_params(axis="x", nbins=3, integer=True)
    axes[0, 0].set_ylabel("RMSE / RMSE of persistence [1]")
    axes[0, len(order) // 2].set_xlabel("middle of the fold [year]")
    fig.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=len(ratios))
    style.letters(axes)
    alt = "For each company the error of each model over that of persistence, fold by fold."
    caption = (
        "Root mean squared error of tomorrow's log return over that of persistence (below the line at 1 a model is "
        "better), by fold and company; networks clipped, all seeds together. GOOG and FB begin with the first fold "
        "that has enough of their past; FB, with one fold and 48 days to learn from, has a scale of its own."
    )
    page.figure("errors", fig, alt=alt, caption=caption)


def draw_gains(page: lab.Page, lines: Mapping[str, list[dict[str, Any]]]) -> None:
    """A panel for each input: difference of loss to persistence with its interval, a model per row."""
    fig, axes = style.figures(1, len(lines), 3.4 * len(lines) + 1.4, 3.9)
    for ax, (name, own) in zip(axes[0], lines.items(), strict=True):
        at, models = np.arange(len(own) - 1, 0, -1), own[1:]  # without persistence
        middle, low, high = (np.array([e[f"difference{end}"] for e in models]) for end in ("", "_low", "_high"))
        ax.plot(middle, at, "o", color=style.BLACK)
        ax.errorbar((low + high) / 2, at, xerr=(high - low) / 2, fmt="none", ecolor=style.BLACK, capsize=3)
        ax.axvline(0, color="0.35", linewidth=1.0)
        ax.set_yticks(at, [each["model"] for each in models])
        ax.set_xlabel("loss − loss of persistence\n[variances of the past]")
        ax.set(title=TITLES[name], ylim=(0.3, len(own) - 0.3))
        ax.locator_params(axis="x", nbins=5)
        ax.grid(axis="y", visible=False)
    style.letters(axes)
    alt = "For prices, a planted series and a random walk, each model's loss less persistence's, with intervals."
    caption = "Mean daily loss less persistence's, with 95% moving-block bootstrap intervals; below zero is better."
    page.figure("gains", fig, alt=alt, caption=caption)


def draw_curves(page: lab.Page, panel: Panel, folds: Folds, cells: Mapping[str, list[lab.Row]]) -> None:
    """A panel for each cell: loss on what is trained on, and on the month after it, over folds and seeds."""
    known = zip(folds.cut, folds.std, folds.served, strict=True)
    month = [np.nanmean((panel.values[cut : cut + CURVE_DAYS] / std)[:, served] ** 2) for cut, std, served in known]
    fig, axes = style.figures(1, len(cells), max(3.3 * len(cells), 6.5) + 0.8, 3.9, sharey=True)
    for ax, (cell, rows) in zip(axes[0], cells.items(), strict=True):
        for i, norm in enumerate(dict.fromkeys(row["max_norm"] for row in rows)):
            own, words = [row for row in rows if row["max_norm"] == norm], "clipped" if norm else "not clipped"
            shown = {"trained on": [r["loss"] for r in own], "month after": [r["held_out_loss"] / month for r in own]}
            for j, (name, of_networks) in enumerate(shown.items()):
                look = style.line(2 * j) | {"linestyle": "-" if norm else "--"}
                look |= {} if norm else {"markerfacecolor": "white"}
                low, median, high = np.nanquantile(np.concatenate(of_networks, axis=1), (0.25, 0.5, 0.75), axis=1)
                ax.plot(rows[0]["updates"], median, label=f"{name}, {words}", markevery=(3 * i, 6), **look)
                if norm:
                    ax.fill_between(rows[0]["updates"], low, high, color=look["color"], alpha=0.12, linewidth=0)
        ax.axhline(1, color="0.35", linewidth=0.8)
        ax.set(title=cell, xlabel="updates [count]")
    axes[0, 0].set_ylabel("squared error / persistence's [1]")
    handles = axes[0, 0].get_legend_handles_labels()[0]
    fig.legend(handles=handles, loc="outside lower center", ncols=min(4, 2 * len(cells)))
    style.letters(axes if len(cells) > 1 else [])
    alt = "For each cell squared error against updates, on the training days and on the month after them."
    caption = (
        "Squared error over that of persistence on the same days: median over folds and seeds; bands (of clipped runs) "
        "hold half. The month lies after the days that weights and scales are fitted to, and before the fold."
    )
    page.figure("curves", fig, alt=alt, caption=caption)


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

"""What the training experiments share: one problem, learned by every cell, with and without clipping, by many seeds.

An experiment says what is to be learned by a `Problem`; `train`, `rows_of` and `draw` do the rest, as in
`experiments.adding`. `rnnjax.training.fit_many` trains the missing runs of one cell in one program; each is a row of
its own, with the same numbers to rounding as if it were trained alone. Every trained model is in the folder too:
`carry, outputs = training.load_model("results/adding/models/lstm-clipped-0")(xs)`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax.tasks import Batch, accuracy, cross_entropy
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many, labelled, save_model

from . import lab
from .data.labelled import Parts, Sequences, best_constant
from .lab import style
from .lab.options import plain
from .lab.strict_json import strict

CELLS: dict[str, Callable[[int], Any]] = {"elman": rnnjax.Elman, "lstm": rnnjax.LSTM, "gru": rnnjax.GRU}
"""As they draw themselves: orthogonal W2 (gate by gate), W1 of variance 1/D, the LSTM's forget bias 1."""

TEST_KEY = 2**31

Asked = Mapping[str, Any]  # what defines a row: "cell", "clipped", "index" of the seed, and what else it depends on
Score = Callable[[Array, Batch], Array]  # (outputs [T, *batch, K], batch) -> []


@lab.options
class Options(lab.ProcessOptions):
    """The grid: cells, with and without clipping, seeds; and how each run is trained (Adam)."""

    cells: lab.Distinct[Literal["elman", "lstm", "gru"]] = ("elman", "lstm", "gru")
    """elman, lstm, gru."""
    clipping: lab.Distinct[bool] = (True, False)
    """Whether the gradient's global norm is clipped; by default once with and once without."""
    seeds: PositiveInt = 3
    """Networks trained for each cell and clipping."""
    hidden_size: PositiveInt = 64
    """H [units]."""
    updates: PositiveInt = 2000
    """Updates of each run."""
    batch: PositiveInt = 64
    """Sequences in a batch."""
    rate: PositiveFloat = 3e-3
    """Adam's learning rate at the first update; it falls to zero at the last, along half a cosine."""
    max_norm: PositiveFloat = 1.0
    """Where the gradient's global norm is clipped, in runs that clip."""
    look_every: PositiveInt = 100
    """Updates between two evaluations on held-out sequences."""


def grid_of(options: Options, leave_out: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What defines each row of the grid: every option but those that only say which rows there are."""
    leave_out = ("quick", "cells", "clipping", "seeds", *leave_out)
    shared = {name: value for name, value in plain(options).items() if name not in leave_out}
    runs = itertools.product(options.cells, options.clipping, range(options.seeds))
    return [{"cell": cell, "clipped": clipped, "index": index, **shared} for cell, clipped, index in runs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem for the grid."""

    inputs: int  # D
    outputs: int  # K
    train: Callable[[Array, Array], Batch]  # (key, step), for the update of this step
    held_out: Callable[[Array, Array], Batch]  # (key, index), for the learning curves: neither trained on nor the test
    test: Callable[[], Batch]  # the sequences of the table, used once when all updates are done
    loss: Score  # what is minimised
    measures: Mapping[str, Score]  # what is reported, by name with its unit; curves and table show the first
    baseline: float  # the first measure of a predictor that ignores its input
    baseline_name: str  # how it predicts
    ragged: bool = False  # whether rows end before T
    higher_is_better: bool = False  # of the first measure, as for accuracy

    def outputs_of(self, model: rnnjax.Readout, params: Any, batch: Batch) -> Array:
        """`[T, *batch, K]`."""
        return rnnjax.unroll(model, params, batch.xs, lengths=batch.lengths if self.ragged else None)[1]


def fresh(draw: Callable[[Array, int], Batch], asked: Asked, held_out: int, test: int) -> dict[str, Any]:
    """Parts of a `Problem` from `draw(key, rows)`: new sequences at every update; `held_out` for each seed; `test` for
    the test, the same for all seeds."""
    return {
        "train": lambda key, step: draw(key, asked["batch"]),
        "held_out": lambda key, index: draw(key, held_out),
        "test": lambda: draw(jax.random.fold_in(jax.random.key(asked["seed"]), TEST_KEY), test),
    }


def batch_of(rows: Sequences, chosen: Array | None = None) -> Batch:
    """The rows with these indices (all, if None) as a batch; only the last step of each is scored."""
    xs, labels, lengths = (jnp.asarray(each) for each in rows)
    if chosen is not None:
        xs, labels, lengths = xs[:, chosen], labels[chosen], lengths[chosen]
    return labelled(xs, lengths, labels)


def labelled_problem(parts: Parts, classes: int, batch: int) -> Problem:
    """Classification at each row's last step. Training draws `batch` rows uniformly, with replacement."""

    rows = len(parts.train.labels)
    return Problem(
        inputs=parts.train.xs.shape[-1],
        outputs=classes,
        train=lambda key, step: batch_of(parts.train, jax.random.randint(key, (batch,), 0, rows, jnp.int32)),
        held_out=lambda key, index: batch_of(parts.validation),
        test=lambda: batch_of(parts.test),
        loss=cross_entropy,
        measures={"accuracy": accuracy, "cross_entropy_nats": cross_entropy},
        baseline=best_constant(parts.test),
        baseline_name="best single answer",
        ragged=any(len(set(part.lengths.tolist())) > 1 for part in parts),
        higher_is_better=True,
    )


def train(
    problem: Problem, asked: Sequence[Asked], mesh: Mesh | None = None, folder: Path | None = None
) -> list[dict[str, Any]]:
    """Trains runs of one cell; see `train_grid`. Models go into `folder`, such as `models/lstm-clipped-0`."""
    model = rnnjax.Readout(CELLS[asked[0]["cell"]](asked[0]["hidden_size"]), problem.outputs)

    def loss(params: rnnjax.ReadoutParams, batch: Batch) -> Array:
        return problem.loss(problem.outputs_of(model, params, batch), batch)

    def measure(params: rnnjax.ReadoutParams, batch: Batch) -> dict[str, Array]:
        outputs = problem.outputs_of(model, params, batch)
        return {name: score(outputs, batch) for name, score in problem.measures.items()}

    fitting = {"loss": loss, "data": problem.train, "held_out": problem.held_out, "measure": measure, "mesh": mesh}
    rows, params = train_grid(asked, model, problem.inputs, problem.test(), **fitting)
    if folder is not None:  # before its row is kept: where there is a row, there is a model
        for i, each in enumerate(asked):
            name = f"{each['cell']}-{'clipped' if each['clipped'] else 'unclipped'}-{each['index']}"
            values = {name: value for name, value in rows[i].items() if not isinstance(value, np.ndarray)}
            own = jax.tree.map(lambda leaf, i=i: leaf[i], params)
            save_model(folder / "models" / name, model, own, strict({**each, **values}), input_size=problem.inputs)
    return rows


def train_grid(
    asked: Sequence[Asked], model: rnnjax.Readout, inputs: int, test: Any, data_period: int = 1, **fitting: Any
) -> tuple[list[dict[str, Any]], Any]:
    """Trains runs of one cell in one program. A seed starts from the same weights and data, clipped or not.

    Args:
      asked: the runs; they differ in "clipped" and "index" alone.
      model, inputs: what is trained, D.
      test: what `measure` is given at the end, once.
      data_period, fitting: as for `fit_many`: loss, data, held_out, measure, carry, mesh.
    Returns:
      Rows and parameters `[R, ...]`. A row has test and last held-out measures, the number of updates, and where and on
      what it stopped if something was not finite (then the measures are those of the last finite step); and as arrays,
      with one entry per evaluation, "updates_curve", "loss_curve", "gradient_norm_curve", "gradient_norm_max_curve",
      "clipped_curve" (share of updates), and "held_out_<measure>_curve".
    """
    first, updates = asked[0], asked[0]["updates"]
    key, rate = jax.random.key(first["seed"]), optax.cosine_decay_schedule(first["rate"], updates)
    indices = jnp.array([each["index"] for each in asked], jnp.uint32)
    fitted = fit_many(
        init=lambda key, setting: model.init(key, inputs),
        optimizer=lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.adam(rate)),
        settings={
            "max_norm": jnp.array([each["max_norm"] if each["clipped"] else jnp.inf for each in asked]),
            "key": jax.vmap(jax.random.fold_in, (None, 0))(key, indices),
        },
        options=FitOptions(steps=updates, chunk=min(first["look_every"], updates), data_period=data_period),
        key=key,
        **fitting,
    )
    state, history = fitted.state, fitted.history
    # one run after the other, to need the memory of one
    test_all = jax.jit(lambda params: lax.map(lambda each: fitting["measure"](each, test), params))
    tested = jax.device_get(test_all(state.params))
    rows = []
    for i, fault in enumerate(fitted.faults):
        names = ("loss", "gradient_norm", "gradient_norm_max", "clipped", *(f"held_out_{name}" for name in tested))
        lines = {name: history[name][:, i] for name in names}
        clipped = lines["clipped"][np.isfinite(lines["clipped"])]
        values = {
            **{f"test_{name}": float(each[i]) for name, each in tested.items()},
            **{f"held_out_{name}": float(lines[f"held_out_{name}"][-1]) for name in tested},
            "updates_done": int(state.step[i]),
            "clipped_share": float(clipped.mean()) if len(clipped) else None,
            "largest_gradient_norm": float(lines["gradient_norm_max"].max()),
            "stopped_at_update": None if fault is None else fault[0],
            "not_finite": None if fault is None else list(fault[1]),
        }
        arrays = {f"{name}_curve": line for name, line in lines.items()}
        rows.append(values | {"updates_curve": history["step"]} | arrays)
    return rows, jax.device_get(state.params)


def rows_of(trained: Callable[..., Any], options: Options, run: lab.Run) -> list[lab.Row]:
    """Every row of the grid; those that the folder lacks are trained by `trained`, a cell at a time."""
    given = {"mesh": run.mesh, "folder": run.folder if run.is_coordinator else None}
    return run.rows(trained, grid_of(options), "runs", together=("cell",), given=given)


def draw(problem: Problem, rows: Sequence[lab.Row], page: lab.Page) -> None:
    """Learning curves, table and summary."""
    options, measures = page.options, list(problem.measures)
    lines, measure = lines_of(rows, measures), measures[0]
    best = (max if problem.higher_is_better else min)(lines, key=lambda line: line[f"test_{measure}_median"])
    clipped = "not clipped" if best["clipped_at_norm"] is None else "clipped"
    found = f"{best['cell']}, {clipped}: {best[f'test_{measure}_median']:.4g}"
    ignorant = f"Without reading the input: {problem.baseline_name}, {problem.baseline:.4g}."
    page.text("Results", [f"Best median test {_words(measure)}: {found}. {ignorant}"])
    curves(page, rows, measure, problem.baseline, problem.baseline_name, log_scale=not problem.higher_is_better)
    trained = f"{options.seeds} seeds, H = {options.hidden_size}, {options.updates} updates"
    table(page, lines, measures, f"Test part: {trained}")
    page.summary |= {"measure": measure, "baseline": problem.baseline, "baseline_name": problem.baseline_name}
    page.summary |= {"lines": lines, "rows": [row.plain for row in rows]}


def lines_of(rows: Sequence[lab.Row], measures: Sequence[str]) -> list[dict[str, Any]]:
    """One line for each cell and clipping: median, extremes, mean and standard deviation of the test measures.

    A run without a finite test measure makes its line's numbers NaN; it is never left out.
    """
    statistics, lines = {"median": np.median, "lowest": np.min, "highest": np.max, "mean": np.mean}, []
    for (cell, clipped), group in _groups(rows).items():
        line = {"cell": cell, "clipped_at_norm": group[0]["max_norm"] if clipped else None, "seeds": len(group)}
        for name in measures:
            tested = _numbers(group, f"test_{name}")
            line |= {f"test_{name}_{what}": float(of(tested)) for what, of in statistics.items()}
            line[f"test_{name}_std"] = float(tested.std(ddof=1)) if len(tested) > 1 else None
        line["held_out_median"] = float(np.median(_numbers(group, f"held_out_{measures[0]}")))
        line["updates_clipped_share"] = float(np.mean(_numbers(group, "clipped_share"))) if clipped else None
        line["largest_gradient_norm"] = float(_numbers(group, "largest_gradient_norm").max())
        line["stopped_not_finite"] = sum(row["stopped_at_update"] is not None for row in group)
        lines.append(line)
    return lines


def _groups(rows: Sequence[lab.Row]) -> dict[tuple[str, bool], list[lab.Row]]:
    """The seeds of each cell and clipping."""
    found: dict[tuple[str, bool], list[lab.Row]] = {}
    for row in rows:
        found.setdefault((row["cell"], row["clipped"]), []).append(row)
    return found


def _numbers(rows: Sequence[lab.Row], name: str) -> np.ndarray:
    """A value of every row, NaN where it is not finite (JSON has None there)."""
    return np.array([row[name] for row in rows], np.float64)


def table(page: lab.Page, lines: Sequence[Asked], measures: Sequence[str], caption: str) -> None:
    """The columns that a page has room for; the rest is in `summary.json`."""
    shown = {"cell": "cell", "clipped_at_norm": "clipped at norm", "seeds": "seeds"}
    for name in measures:
        shown |= {f"test_{name}_{what}": f"{_words(name)}, {what}" for what in ("median", "lowest", "highest")}
    shown |= {"updates_clipped_share": "share of updates clipped", "largest_gradient_norm": "largest gradient norm"}
    page.table(lines, {**shown, "stopped_not_finite": "stopped, not finite"}, caption)


def _words(measure: str) -> str:
    return measure.replace("_nats", " [nats]").replace("_", " ")


def curves(
    page: lab.Page, rows: Sequence[lab.Row], measure: str, baseline: float, baseline_name: str, log_scale: bool = True
) -> None:
    """A column for each cell: above the held-out measure, below the gradient's norm before clipping."""
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    max_norm, words = rows[0]["max_norm"], _words(measure)
    fig, axes = style.figures(2, len(cells), 2.5 * len(cells) + 1.0, 5.0, sharex=True, sharey="row")
    for (cell, clipped), group in _groups(rows).items():
        for ax, name in zip(axes[:, cells.index(cell)], (f"held_out_{measure}", "gradient_norm"), strict=True):
            _band(ax, group, name, cell, clipped)
    for cell, (above, below) in zip(cells, axes.T, strict=True):
        above.axhline(baseline, color="0.35", linewidth=1.2, linestyle=":")
        below.axhline(max_norm, color="0.35", linewidth=0.8)
        above.set_title(cell)
        below.set_xlabel("updates")
        for ax in (above, below) if log_scale else (below,):
            ax.set_yscale("log")
            low, high = ax.get_ylim()
            few = high / low < 20  # decades alone would hardly give a tick
            ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if few else range(2, 10)))
            ax.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if few else NullFormatter())
    axes[0, 0].set_ylabel(f"held-out\n{words}")
    axes[1, 0].set_ylabel("gradient norm,\nbefore clipping")
    style.letters(axes)
    handles = [Line2D([], [], color="0.35", linewidth=1.2, linestyle=":", label=baseline_name)]
    for clipped in dict.fromkeys(row["clipped"] for row in reversed(rows)):
        look = {"color": "0.2", "marker": "o", "label": "clipped" if clipped else "not clipped"}
        handles.insert(0, Line2D([], [], **look, **_of_clipping(clipped, "0.2")))
    fig.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=3.2)
    alt = f"For each cell, held-out {words} and gradient norm against updates, clipped (solid) and not (dashed)."
    caption = (
        f"Held-out {words} (top) and mean norm of the gradient before clipping (bottom) against updates: median of "
        f"{page.options.seeds} seeds, band from the lowest to the highest. Dotted: {baseline_name}, {baseline:.4g}. "
        f"Solid grey line (bottom): norm {max_norm:g}, where the clipped runs are clipped."
    )
    page.figure("curves", fig, alt=alt, caption=caption)


def _of_clipping(clipped: bool, color: str) -> dict[str, Any]:
    return {"linestyle": "-" if clipped else "--", "markerfacecolor": color if clipped else "white"}


def _band(ax: Any, rows: Sequence[lab.Row], name: str, cell: str, clipped: bool) -> None:
    """Median over seeds, and a band from the lowest to the highest; NaN where a run had stopped."""
    at = max((row["updates_curve"] for row in rows), key=len)
    values = np.array(list(itertools.zip_longest(*(row[f"{name}_curve"] for row in rows), fillvalue=np.nan))).T
    seen = np.isfinite(values).any(axis=0)
    values, at = values[:, seen], at[seen]
    look = style.line(list(CELLS).index(cell))
    look |= _of_clipping(clipped, look["color"])
    every = max(1, len(at) // 8)  # eight marks along a curve
    ax.fill_between(at, np.nanmin(values, 0), np.nanmax(values, 0), color=look["color"], alpha=0.12, linewidth=0)
    ax.plot(at, np.nanmedian(values, 0), linewidth=1.4, markevery=(every - 1 if clipped else every // 2, every), **look)

"""Runs `experiments.text`; see its docstring."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
from annotated_types import Ge, Le, MinLen
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from rnnjax.training import save_model

from .. import lab, learning
from ..data import shakespeare
from ..lab import identity, style
from ..lab.rows import key_of
from . import ngram, paired, sample
from .model import HELD_OUT, MEASURE, texts, train_grid, train_large, trained_model

TEST = f"test_{MEASURE}"
OF_THE_LARGE = ("hidden_size", "updates", "batch", "rate", "dropped", "restarted")
NOT_OF_THE_GRID = ("order", "sample", "prompt", "temperature", *(f"large_{name}" for name in OF_THE_LARGE))


_QUICK = {"hidden_size": 32, "updates": 60, "seeds": 1, "train_characters": 1_000_000, "test_characters": 20_000}


@lab.options(quick=_QUICK | {"large_hidden_size": 96, "large_updates": 300})
class Options(learning.Options):
    """The grid of small networks, one larger LSTM, and what it writes."""

    hidden_size: PositiveInt = 128
    updates: PositiveInt = 240
    """Updates of each run of the grid; 2276 are a pass over the text."""
    batch: PositiveInt = 32
    """Rows of the text that are read side by side, in the grid."""
    rate: PositiveFloat = 4e-3
    look_every: PositiveInt = 20
    max_norm: PositiveFloat = 0.25
    """Where the gradient's global norm is clipped: in the grid in runs that clip, and in the larger network."""
    steps: PositiveInt = 64
    """Characters per update of each row, and how far back its gradient reaches [steps]."""
    large_hidden_size: PositiveInt = 512
    """H of the larger LSTM [units]."""
    large_updates: PositiveInt = 5600
    """Its updates."""
    large_batch: PositiveInt = 32
    """Its rows."""
    large_rate: PositiveFloat = 8e-3
    """Adam's highest learning rate for it; it falls by a cosine."""
    large_dropped: lab.Share = 0.0
    """Share of its recurrent and readout weights that are absent at each update (DropConnect)."""
    large_restarted: lab.Share = 0.02
    """Share of its rows that begin an update with the initial carry; the others go on from the last update."""
    order: Annotated[int, Ge(2), Le(ngram.MAX_ORDER)] = 5
    """n of the n-gram that the networks are compared with."""
    train_characters: int | None = None
    """Train on no more than the first so many characters; None: on all of the 35 plays."""
    test_characters: Annotated[int, Ge(64)] | None = None
    """Test on no more than the first so many; None: on all of the held-out play."""
    sample: NonNegativeInt = 400
    """Characters to write when all is trained; 0: none."""
    prompt: Annotated[str, MinLen(1)] = "\n"
    """What the model reads before it writes."""
    temperature: PositiveFloat = 0.8
    """Of the sample: below 1 likelier, above 1 wilder."""

    def check(self) -> None:
        super().check()
        rows = max(self.batch, self.large_batch)
        if self.train_characters is not None and self.train_characters < 2 * self.steps * rows:
            need = f"{rows} rows in chunks of {self.steps} steps need {2 * self.steps * rows} or more"
            raise lab.UsageError(f"--train-characters is {self.train_characters}; {need}.")


def score_ngram(order: int, train_characters: int | None, test_characters: int | None) -> dict[str, Any]:
    """Bits per character of the test play, and of the part of the validation play that learning curves use."""
    size, train, look, test = texts(train_characters, test_characters)
    model = ngram.fit(train, order, size)
    tested = model.score(test)
    held_out = float(np.mean([model.score(row).mean() for row in look.T]))
    return {TEST: float(tested.mean()), HELD_OUT: held_out, "by_stretch": paired.by_stretch(tested)}


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    plays = shakespeare.load()
    plays.alphabet.encode(options.prompt)  # a character that the model cannot read is reported before any work
    parts = {"train_characters": options.train_characters, "test_characters": options.test_characters}
    orders = range(1, ngram.MAX_ORDER + 1)
    ngrams = run.rows(score_ngram, [{"order": order, **parts} for order in orders], "n-grams")

    asked = {"cell": "lstm", **{name: getattr(options, f"large_{name}") for name in OF_THE_LARGE}, **parts}
    asked |= {name: getattr(options, name) for name in ("steps", "max_norm", "seed")}
    given: dict[str, Any] = {"mesh": run.mesh, "progress": run.progress}
    if run.folder is not None and not options.several:  # in `rows`, which --fresh discards
        (run.folder / "rows").mkdir(exist_ok=True)
        key = key_of("large", {"code_sha256": identity.code_sha256(train_large)}, asked)
        given["checkpoints"] = run.folder / "rows" / f"{key}-steps"
    large = run.rows(train_large, [asked], "larger LSTM", given=given)
    if run.folder is not None and run.is_coordinator:
        info = {"experiment": "text", "alphabet": plays.alphabet.characters, "text_sha256": plays.record["sha256"]}
        model, params = trained_model(large[0])
        info |= {**large[0].plain, "asked": asked}
        save_model(run.folder / "model", model, params, info, input_size=len(plays.alphabet))

    mine = learning.grid_of(options, NOT_OF_THE_GRID)
    return ngrams + large + run.rows(train_grid, mine, "runs", together=("cell",), given={"mesh": run.mesh})


def draw(rows: Sequence[lab.Row], page: lab.Page) -> None:
    options, plays = page.options, shakespeare.load()
    ngrams = [row for row in rows if "order" in row.asked]
    large = next(row for row in rows if "dropped" in row.asked)
    grid = [row for row in rows if "clipped" in row.asked]
    chosen, lines = ngrams[options.order - 1], learning.lines_of(grid, [MEASURE])
    name = f"lstm, H = {large['hidden_size']}"
    of_ngrams = {f"{row['order']}-gram": paired.compared(large["by_stretch"], row["by_stretch"]) for row in ngrams}
    below = [{"model": name, "other": other, **found} for other, found in of_ngrams.items()]
    bits = {"uniform": math.log2(len(plays.alphabet)), **{f"{row['order']}-gram": row[TEST] for row in ngrams}}
    bits |= {**{_of_grid(line): line[f"{TEST}_median"] for line in lines}, name: large[TEST]}
    worst_first = sorted(bits.items(), key=lambda item: -item[1] if np.isfinite(item[1]) else -np.inf)
    compared = [{"model": model, MEASURE: found, "perplexity": 2**found} for model, found in worst_first]
    page.text("Results", [_sentence(below, options.order)])
    _draw_models(page, ngrams, lines, large, options.order)
    _draw_training(page, large, chosen, options.order)
    learning.curves(page, grid, MEASURE, chosen[HELD_OUT], f"{options.order}-gram")
    page.table(compared, ("model", MEASURE, "perplexity"), "The held-out play")
    learning.table(page, lines, [MEASURE], f"Grid, {options.seeds} seeds, H = {options.hidden_size}")
    written = None
    if options.sample:
        how = {"prompt": options.prompt, "temperature": options.temperature}
        drawn = sample.characters(*trained_model(large), plays.alphabet, jax.random.key(options.seed), **how)
        written = options.prompt + "".join(itertools.islice(drawn, options.sample))
        page.say(written.lstrip("\n"))
        page.text("A sample", [line for line in written.splitlines() if line])
    _, train, _, test = texts(options.train_characters, options.test_characters)
    page.summary |= {
        "input": {**plays.record, "train_characters_used": len(train), "test_characters_used": len(test)},
        "measure": MEASURE,
        "compared": compared,
        "ngrams": [{"model": "n-gram", **row.plain} for row in ngrams],
        "below": below,
        "well_under": {"least_share": paired.LEAST_SHARE, "least_standard_errors": paired.LEAST_ERRORS},
        "large": {"model": "large", **large.plain},
        "lines": lines,
        "rows": [row.plain for row in grid],
        "sample": written,
    }


def _of_grid(line: dict[str, Any]) -> str:
    return line["cell"] + ("" if line["clipped_at_norm"] is None else ", clipped")


def _sentence(below: Sequence[dict[str, Any]], order: int) -> str:
    chosen, nearest = below[order - 1], min(below, key=lambda line: line["bits_fewer"])

    def saved(line: dict[str, Any]) -> str:
        amount = f"{line['bits_fewer']:+.3f} ± {line['standard_error']:.3f}"
        return f"{amount} bits per character ({line['share_fewer']:.1%})"

    verdict = "well under it" if chosen["well_under"] else "not well under it"
    return (
        f"On the held-out play the larger LSTM saves {saved(chosen)} against the {order}-gram. It is {verdict}, which "
        f"takes {paired.LEAST_SHARE:.0%} and {paired.LEAST_ERRORS:g} standard errors (paired, over {paired.STRETCHES} "
        f"stretches of the play). Against the best n-gram, the {nearest['other']}, it saves {saved(nearest)}."
    )


def _draw_models(
    page: lab.Page, ngrams: Sequence[lab.Row], lines: Sequence[dict[str, Any]], large: lab.Row, order: int
) -> None:
    """n-grams against their order on the left, the networks beside them on the same scale."""
    fig, axes = style.figures(1, 2, 8.4, 4.2, sharey=True)
    left, right = axes[0]
    bits = np.array([row[TEST] for row in ngrams])
    left.plot([row["order"] for row in ngrams], bits, **style.line(3))
    left.set(title="n-grams, Kneser-Ney", xlabel="order n", ylabel="held-out play [bits per character]")
    for place, line in enumerate(lines):
        look = style.line(list(learning.CELLS).index(line["cell"]))
        low, middle, high = (line[f"{TEST}_{what}"] for what in ("lowest", "median", "highest"))
        fill = "white" if line["clipped_at_norm"] is None else look["color"]
        drawn = {"fmt": look["marker"], "color": look["color"], "markerfacecolor": fill, "capsize": 4}
        right.errorbar([place], [middle], [[middle - low], [high - middle]], **drawn)
    best, chosen = large[TEST], bits[order - 1]
    right.plot([len(lines)], [best], "*", color=style.VERMILLION, markersize=13)
    names = [*map(_of_grid, lines), "lstm, larger"]
    right.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    right.set(title="networks", xlim=(-0.6, len(lines) + 0.6))
    for ax in (left, right):
        ax.axhline(chosen, color="0.3", linewidth=1.0, linestyle=":")
        ax.axhline(best, color=style.VERMILLION, linewidth=1.0, linestyle="--")
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 9}
    above, below = (0, 4), (0, -11)  # the lower of the two labels is under its line
    places = (above, below) if chosen > best else (below, above)
    left.set_ylim(bottom=min(chosen, best) - 0.25)  # room for that label
    left.annotate(f"{order}-gram: {chosen:.2f}", (0.01, chosen), places[0], color="0.2", **at)
    left.annotate(f"larger LSTM: {best:.2f}", (0.01, best), places[1], color=style.VERMILLION, **at)
    style.letters(axes)
    alt = f"Bits per character fall to {bits.min():.2f} with the order of the n-gram; the larger LSTM: {best:.2f}."
    caption = (
        "Bits per character of the held-out play. Networks of the grid: median over seeds, bar from the lowest to the "
        "highest, filled where the gradient is clipped."
    )
    page.figure("models", fig, alt=alt, caption=caption)


def _draw_training(page: lab.Page, large: lab.Row, chosen: lab.Row, order: int) -> None:
    """Training and validation bits of the larger network against updates."""
    fig, ax = style.figure(6.4, 4.0)
    bits, held_out = large["loss_curve"] / np.log(2), large[f"{HELD_OUT}_curve"]
    curves = {"training text, as it is read": bits, "validation play": held_out}
    for i, (label, values) in enumerate(curves.items()):
        ax.plot(large["updates_curve"], values, label=label, markevery=max(1, len(values) // 8), **style.line(i))
    ax.axhline(chosen[HELD_OUT], color="0.3", linewidth=1.2, linestyle=":", label=f"{order}-gram, validation play")
    ax.set(title=f"LSTM, H = {large['hidden_size']}", xlabel="updates", ylabel="bits per character")
    ax.legend()
    alt = f"Bits per character of the larger LSTM against updates, beside those of the {order}-gram."
    where = "on the text that it trains on and on the beginning of the validation play"
    caption = f"The larger LSTM (H = {large['hidden_size']}), {where}."
    page.figure("training", fig, alt=alt, caption=caption)


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

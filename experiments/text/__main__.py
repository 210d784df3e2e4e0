"""Runs `experiments.text`; see its docstring."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np

from experiments import harness, learning, text
from experiments.text.options import Options

MODEL = "model"


def measure(run: harness.Run[Options]) -> harness.Outcome:
    from experiments.data import shakespeare
    from experiments.learning import figures as learning_figures
    from experiments.learning import table
    from experiments.text import figures, grid, paired

    options = run.options
    plays = shakespeare.load()
    plays.alphabet.encode(options.prompt)  # a character that the model cannot read is told before any work
    texts = grid.Texts.of(plays, options.train_characters, options.test_characters)
    counted = _ngrams(run, texts)
    ngrams = [row.flat for row in counted]
    large = _large(run, texts, plays)
    rows = _grid(run, texts)
    chosen = ngrams[options.order - 1]
    problem = _problem(texts, chosen, options.order)
    lines = table.lines_of(rows, problem)
    with harness.plotting():
        look = dataclasses.replace(problem, baseline=chosen["held_out_bits_per_character"])
        pictures = [figures.models(run, ngrams, lines, large.values), learning_figures.curves(run, rows, look)]
        pictures.insert(1, figures.training(run, large, chosen))
    compared = _compared(texts, ngrams, lines, large)
    below = _below(counted, large)
    shown = [
        run.show(harness.Table.of(compared, ("model", "bits_per_character", "perplexity"), "The held-out play")),
        run.show(table.table_of(lines, problem, f"Grid, {options.seeds} seeds, H = {options.hidden_size}")),
    ]
    written = _sample(run)
    return harness.Outcome(
        summary={
            "input": {
                **plays.record,
                "train_characters_used": len(texts.train),
                "test_characters_used": len(texts.test),
            },
            "measure": grid.MEASURE,
            "compared": compared,
            "ngrams": ngrams,
            "below": below,
            "well_under": {"least_share": paired.LEAST_SHARE, "least_standard_errors": paired.LEAST_ERRORS},
            "large": large.flat,
            "lines": lines,
            "rows": [row.flat for row in rows],
            "sample": written,
        },
        report=[harness.Text("What is to be seen", _reading(below, options)), *pictures, *shown]
        + ([harness.Text("A sample", [line for line in written.splitlines() if line])] if written else []),
    )


def _ngrams(run: harness.Run[Options], texts: Any) -> list[harness.Row]:
    """Order 1 .. 9: bits per character of the test play, and of what the learning curves are measured on."""
    from experiments.text import ngram, paired

    def work(order: int) -> tuple[dict[str, Any], dict[str, Any]]:
        model = ngram.fit(texts.train, order, texts.alphabet_size)
        look = [model.score(row).mean() for row in texts.look.T]
        tested = model.score(texts.test)
        values = {
            "test_bits_per_character": float(tested.mean()),
            "held_out_bits_per_character": float(np.mean(look)),
        }
        return values, {"by_stretch": paired.by_stretch(tested)}

    found = []
    of_text = {name: getattr(run.options, name) for name in ("train_characters", "test_characters")}
    orders = range(1, ngram.MAX_ORDER + 1)
    with run.progress("n-grams", len(orders)) as advance:
        for order in orders:
            row = run.rows.compute({"model": "n-gram", "order": order, **of_text}, lambda order=order: work(order))
            found.append(row)
            advance(note=f"order {order}")
    return found


def _grid(run: harness.Run[Options], texts: Any) -> list[harness.Row]:
    from experiments.text import grid

    options = run.options
    plan = {
        cell: [
            {"cell": cell, "clipped": clipped, "index": index, **options.of_a_row}
            for clipped in options.clipping
            for index in range(options.seeds)
        ]
        for cell in options.cells
    }
    with run.progress("updates of the grid", options.updates * len(plan)) as advance:
        for cell, asked in plan.items():
            missing = [dict(each) for each in run.rows.missing(asked)]
            if not missing:
                advance(options.updates, note=cell)
                continue
            at = [0]

            def report(line: dict[str, Any], cell: str = cell, at: list[int] = at) -> None:
                bits = line[f"held_out_{grid.MEASURE}"]
                advance(line["step"] - at[0], note=f"{cell}, {np.nanmedian(bits):.2f} bits a character")
                at[0] = line["step"]

            run.rows.put_many(grid.train(texts, missing, report, run.mesh))
    found = [run.rows.get(each) for asked in plan.values() for each in asked]
    return [row for row in found if row is not None]


def _large(run: harness.Run[Options], texts: Any, plays: Any) -> harness.Row:
    """The larger network: its row, if that and the saved model are there; else trained, from its last checkpoint."""
    from experiments.text import grid, large
    from rnnjax import processes

    asked = {"model": "large", **run.options.of_the_large}
    place = run.folder / MODEL
    row = run.rows.get(asked)
    lacks = row is None or (run.leads and not (place / "manifest.json").exists())
    if row is not None and not processes.largest(int(lacks)):  # all train, or none
        return row
    steps = run.folder / "rows" / f"{run.rows.key(asked)}-steps"  # --fresh discards it with the rows
    if run.leads:
        steps.parent.mkdir(exist_ok=True)
    info = {"experiment": "text", "alphabet": plays.alphabet.characters, "text_sha256": plays.record["sha256"]}
    total = asked["updates"]
    with run.progress("updates of the larger LSTM", total) as advance:
        at = [0]

        def report(line: dict[str, Any]) -> None:
            bits = line[f"held_out_{grid.MEASURE}"]
            advance(line["step"] - at[0], note=f"{bits:.3f} bits a character on the validation play")
            at[0] = line["step"]

        values, arrays = large.train(texts, run.options.of_the_large, steps, place, info, report, run.mesh)
    return run.rows.put(asked, values, arrays)


def _problem(texts: Any, chosen: dict[str, Any], order: int) -> learning.Problem:
    """What the shared table and figure need to know."""

    def unused(*_: Any) -> Any:
        raise NotImplementedError("the text has a grid of its own: a carry goes from update to update")

    return learning.Problem(
        inputs=texts.alphabet_size,
        outputs=texts.alphabet_size,
        train=unused,
        held_out=unused,
        test=unused,
        loss=unused,
        measures={"bits_per_character": unused},
        baseline=chosen["test_bits_per_character"],
        baseline_name=f"{order}-gram",
    )


def _compared(
    texts: Any, ngrams: list[dict[str, Any]], lines: list[dict[str, Any]], large: harness.Row
) -> list[dict[str, Any]]:
    """One line a model, worst first."""
    found = {"uniform": math.log2(texts.alphabet_size)}
    found |= {f"{row['order']}-gram": row["test_bits_per_character"] for row in ngrams}
    for line in lines:
        clip = "" if line["clipped_at_norm"] is None else ", clipped"
        found[f"{line['cell']}{clip}"] = line["test_bits_per_character_median"]
    found[f"lstm, H = {large.options['hidden_size']}"] = large.values["test_bits_per_character"]
    ordered = sorted(found.items(), key=lambda item: -item[1] if np.isfinite(item[1]) else -np.inf)
    return [{"model": name, "bits_per_character": bits, "perplexity": 2**bits} for name, bits in ordered]


def _below(ngrams: list[harness.Row], large: harness.Row) -> list[dict[str, Any]]:
    """How far the larger network lies below each n-gram, on the same characters."""
    from experiments.text import paired

    name = f"lstm, H = {large.options['hidden_size']}"
    own = large.arrays["by_stretch"]
    return [
        {"model": name, "other": f"{row.options['order']}-gram", **paired.compared(own, row.arrays["by_stretch"])}
        for row in ngrams
    ]


def _reading(below: list[dict[str, Any]], options: Options) -> list[str]:
    from experiments.text import paired

    chosen = below[options.order - 1]
    nearest = min(below, key=lambda line: line["bits_fewer"])

    def told(line: dict[str, Any]) -> str:
        return f"{line['bits_fewer']:+.3f} ± {line['standard_error']:.3f} bits, {line['share_fewer']:.1%} of them"

    verdict = "well under" if chosen["well_under"] else "not well under"
    return [
        f"On the held-out play the larger LSTM saves, of each character's bits by the {options.order}-gram, "
        f"{told(chosen)}: {verdict}, which takes {paired.LEAST_SHARE:.0%} and {paired.LEAST_ERRORS:g} standard errors "
        f"(paired, over {paired.STRETCHES} stretches of the play). Of those by the best n-gram, "
        f"{nearest['other']}: {told(nearest)}."
    ]


def _sample(run: harness.Run[Options]) -> str | None:
    """Streams what the model writes to the terminal."""
    from experiments.text import sample

    options = run.options
    if not options.sample or not run.leads:
        return None
    run.out.print()
    asked = sample.Options(
        length=options.sample, prompt=options.prompt, temperature=options.temperature, seed=options.seed
    )
    return sample.stream(run.folder, asked, run.out.file)


EXPERIMENT = harness.Experiment(
    "text",
    text.__doc__ or "",
    Options,
    measure,
    quick={
        "hidden_size": 32,
        "updates": 60,
        "look_every": 20,
        "seeds": 1,
        "large_hidden_size": 96,
        "large_updates": 300,
        "train_characters": 1_000_000,
        "test_characters": 20_000,
    },
    code=(
        *(
            f"rnnjax.{name}"
            for name in ("cell", "cells", "initializers", "_unroll", "compose", "readout", "tasks", "training")
        ),
        *(
            f"experiments.text.{name}"
            for name in ("dropping", "grid", "large", "ngram", "paired", "parallel", "score", "stream")
        ),
        "experiments.learning.network",
        "experiments.data.shakespeare",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))

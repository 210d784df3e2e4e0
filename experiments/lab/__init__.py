"""What all experiments share: options, kept rows, figures, a report. An experiment is one file:

    \"\"\"What is a square?

    Question: how fast does n squared grow?
    Command: python -m experiments.squares
    Minutes: 0.1
    Expected: 1, 4, 9.
    \"\"\"

    @lab.options(quick={"numbers": (1,)})
    class Options(lab.Options):
        numbers: lab.Distinct[int] = (1, 2, 3)
        \"\"\"What to square [1].\"\"\"

    def square(number: int) -> dict:                        # one row; pure
        return {"square": number**2}

    def measure(options, run):                              # which rows
        return run.rows(square, [{"number": n} for n in options.numbers])

    def draw(rows, page):                                   # what they show; free to change
        fig, ax = style.figure(7, 4)
        ax.plot([row["number"] for row in rows], [row["square"] for row in rows], **style.line(0))
        page.figure("squares", fig, alt="A rising parabola.", caption="Squares of whole numbers.")
        page.table(rows, {"number": "n", "square": "n²"}, "Squares")
        page.summary |= {"rows": [row.plain for row in rows]}

    experiment = lab.Experiment(Options, measure, draw)
    if __name__ == "__main__":
        experiment.main()

`python -m experiments.squares` leaves `results/squares` with `config.json`, `summary.json`, figures as PNG and SVG, and
`report.html`, each written whole or not at all. `experiment(numbers=(4, 5)).frame()` gives a DataFrame.

A row is kept with the code that its measuring function reaches (`experiments.lab.identity`), versions, platform and
precision, and is found again only if all are the same. So a figure may be redrawn, a run that was stopped goes on, and
a new number in a finished folder is computed alone. The harness itself imports neither JAX nor matplotlib before they
are needed.
"""

from .options import Distinct, Options, ProcessOptions, Share, UsageError, options
from .page import Page, residual
from .rows import Row, Rows
from .run import Experiment, Run

__all__ = [
    "Distinct",
    "Experiment",
    "Options",
    "Page",
    "ProcessOptions",
    "Row",
    "Rows",
    "Run",
    "Share",
    "UsageError",
    "options",
    "residual",
]

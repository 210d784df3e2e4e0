"""Options and measurement of what was tried."""

import dataclasses

from benchmarks import harness, tried
from benchmarks.problems import GATES, Point, make_problem
from benchmarks.tried import engine, orders, summary

CONTESTS = {"engine": engine.contestants, "order of the product": orders.contestants}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of tried."""

    cells: tuple[str, ...] = ("lstm", "gru")
    """lstm, gru, elman."""
    points: tuple[str, ...] = ("8,200,32,64", "32,100,64,128", "16,784,1,128", "64,100,256,256", "128,50,64,128")
    """Sizes, each as B,T,D,H."""

    def check(self) -> None:
        super().check()
        if wrong := [cell for cell in self.cells if cell not in GATES]:
            raise ValueError(f"--cells has {wrong[0]!r}; choose from {', '.join(GATES)}.")
        for point in self.points:
            Point.parse(point)


def measure(run: harness.Run[Options]) -> None:
    for text in run.options.points:
        for cell in run.options.cells:
            problem = make_problem(cell, Point.parse(text), seed=run.options.seed)
            for contest, contestants in CONTESTS.items():
                where = {"contest": contest, "cell": cell, "point": text}
                entries, _ = run.contest(where, list(contestants(problem)))
                run.add({**where, "contestants": [entry.row() for entry in entries]})
            run.say(f"{cell} {text}: done")
    for title, columns, rows in summary.tables(run.result):
        run.table(title, columns, rows)
    if run.options.figures is not None:
        from benchmarks.tried.figure import draw

        run.figure("tried", draw(run.result))


BENCHMARK = harness.Benchmark(
    "tried",
    tried.__doc__ or "",
    Options,
    measure,
    quick={"cells": ("lstm",), "points": ("8,200,32,64", "32,100,64,128"), "rounds": 3},
)

"""What the benchmarks share. A benchmark is a package whose docstring has the fields of `about`, and which has:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(harness.CommonOptions):          # brings --quick, --json, --figures, --rounds, --devices, ...
        steps: tuple[int, ...] = (10, 100)
        \"\"\"Lengths T to measure [steps].\"\"\"

    def measure(run: harness.Run[Options]) -> None:
        for T in run.options.steps:
            entries, floor = run.contest({"T": T}, contestants(T), floor=...)
            run.add({"T": T, "contestants": [entry.row() for entry in entries]})     # into the JSON file at once
        run.table("Title", columns, rows)
        run.figure("name", figure)

    BENCHMARK = harness.Benchmark("name", package.__doc__ or "", Options, measure, quick={"steps": (10,)})

    if __name__ == "__main__":                     # in its __main__.py
        sys.exit(harness.launch(BENCHMARK))

The rules, each in a file of its own:

* `equality`: contestants are compared with the reference, values and gradients, before anything is timed. Who differs
  is refused and gets no time; the exit status is then 1.
* `timing`: rounds in which everybody takes one turn, in an order shuffled anew; samples of 30 ms or more; minimum,
  median and middle half over the rounds; ratios are ratios of medians.
* `programs`: compile time and run time apart, and the temporary memory that the compiler planned.
* `process`: one setup of allocator, devices and threads, for everybody alike.
* `machine`: hardware, versions, threads and load, in every result.
* Nothing is dropped in silence: who does not take part is in the result with the reason.
"""

from benchmarks.harness.contest import Entry, contest
from benchmarks.harness.equality import Unequal
from benchmarks.harness.options import CommonOptions
from benchmarks.harness.programs import Contestant, Cost, LeftOut, Program, absent, compiled
from benchmarks.harness.run import Benchmark, Run, launch
from benchmarks.harness.statistics import Times, geomean, ratio
from benchmarks.harness.timing import Turn, interleave

__all__ = [
    "Benchmark",
    "CommonOptions",
    "Contestant",
    "Cost",
    "Entry",
    "LeftOut",
    "Program",
    "Run",
    "Times",
    "Turn",
    "Unequal",
    "absent",
    "compiled",
    "contest",
    "geomean",
    "interleave",
    "launch",
    "ratio",
]

"""What a time loop costs, to run, to compile and in memory, as the sequence grows.

Question: when is a Python loop over time good enough, and what do `scan` and the hoisted engine save?
Command: python -m benchmarks.scan_vs_loop --json benchmarks/results/scan_vs_loop.json --figures benchmarks/results
Minutes: about 70 on two cores, most of it in compiling unrolled loops and in the largest size; with --quick 2.
Expected: at T = 1,000 a jitted loop compiles at least 50 times longer than a scan (its forward pass half a minute, its
training step minutes at T = 100 already), and an eager loop runs hundreds of times longer where a step is small; where
a step takes 100 us or more, the matmuls are most of the time. Scan and hoisted compile in the same time at every T. The
parallel scan over time does more work in fewer steps: on two cores it is slower than the hoisted engine at every T, and
so is Newton's method, the more the larger H is.

Contestants, all of them `rnnjax.unroll`, all giving the same outputs and gradients:
  eager loop    a Python loop as written, one operation at a time
  jitted loop   the same under `jax.jit`: T copies of the step in one program
  scan, scan×4, scan×16    `jax.lax.scan`, with 1, 4 or 16 steps in the body
  and every other engine there is, on one device and with the batch split over --devices.
The engine "associative" is for cells that are linear in their carry: these have a contest of their own, of scan,
hoisted and associative. "parallel", Newton's method in time, does S³ operations per step and iteration for S states: it
has a contest at small sizes, of scan, hoisted and parallel, with a W2 that makes the exponent negative.
Not every one can be run at every length; the result says which were left out where, and why.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from . import contest, harness, lab, ours, style
from .harness import number
from .problems import AnyCell, CellName, Point, Problem, SizeText, make_problem

_QUICK = {"sizes": ("4,16,32",), "steps": (10, 100, 300), "rounds": 3}
_QUICK |= {"eager_steps": 100, "jitted_steps": 100, "jitted_train_steps": 10}
_QUICK |= {"linear_cells": ("min_gru",), "linear_steps": (100, 1000, 10000)}
_QUICK |= {"parallel_cells": ("elman",), "parallel_sizes": ("1,2,4",), "parallel_steps": (100, 1000)}


@lab.options(quick=_QUICK)
class Options(harness.Options):
    """Options of scan_vs_loop."""

    cell: CellName = "lstm"
    """The cell."""
    sizes: lab.Distinct[SizeText] = ("4,16,32", "32,64,128", "64,256,256")
    """B,D,H of each size, small to large."""
    steps: lab.Distinct[PositiveInt] = (10, 30, 100, 300, 1000, 3000, 10000)
    """Lengths T [steps]."""
    eager_steps: int = 1000
    """The eager loop is left out beyond this length [steps]."""
    jitted_steps: int = 1000
    """The jitted loop's forward pass is left out beyond this length: it compiles for minutes [steps]."""
    jitted_train_steps: int = 100
    """The jitted loop's training step is left out beyond this length: it compiles for minutes [steps]."""
    linear_cells: lab.Distinct[AnyCell] = ("min_gru", "lru")
    """The cells that are linear in their carry."""
    linear_size: SizeText = "4,16,32"
    """B,D,H of these cells."""
    linear_steps: lab.Distinct[PositiveInt] = (100, 1000, 10000, 100000)
    """Lengths T of these cells [steps]."""
    parallel_cells: lab.Distinct[CellName] = ("elman", "gru")
    """The cells that Newton's method in time runs."""
    parallel_sizes: lab.Distinct[SizeText] = ("1,2,2", "1,4,8", "4,16,32")
    """B,D,H of these cells: it is for few units."""
    parallel_steps: lab.Distinct[PositiveInt] = (100, 1000, 10000)
    """Lengths T of these cells [steps]."""
    train_seconds: PositiveFloat = 10.0
    """A size is left out at lengths whose matmuls alone would take longer than this at 100 GFLOP/s [s]."""


def measure(options: Options, run: harness.Run) -> None:
    for size in options.sizes:
        for T in options.steps:
            problem = make_problem(options.cell, Point.of_size(size, T), seed=options.seed)
            where = {"cell": options.cell, "size": size, "T": T}
            seconds = 3 * problem.forward_flops / 1e11
            if seconds > options.train_seconds:
                limit = f"--train-seconds {options.train_seconds:g}"
                run.add({**where, "left_out": f"its matmuls alone take about {seconds:.0f} s, more than {limit}"})
            else:
                run.add(run.contest(where, contestants(problem, options), problem.forward_flops))
    scans = [
        (cell, options.linear_size, T, "associative") for cell in options.linear_cells for T in options.linear_steps
    ]
    for cell in options.parallel_cells:
        scans += [(cell, size, T, "parallel") for size in options.parallel_sizes for T in options.parallel_steps]
    for cell, size, T, engine in scans:
        problem = make_problem(cell, Point.of_size(size, T), seed=options.seed)
        where = {"contest": f"{cell}, {size}", "engine": engine, "cell": cell, "size": size, "T": T}
        made = [
            ours.contestant(name, problem, name, limit_bytes=options.limit_bytes)
            for name in ("scan", *ours.FAST_ENGINES, engine)
        ]
        run.add(run.contest(where, made, problem.forward_flops))


def contestants(problem: Problem, options: Options) -> list[contest.Contestant]:
    """All at one point; the first, a plain scan, is the reference. Loops beyond their limits are named as left out."""
    T = problem.point.T
    ways: dict[str, dict[str, Any]] = {"scan": {"engine": "scan"}}
    ways |= {f"scan×{n}": {"engine": "scan", "options": {"unroll": n}} for n in (4, 16)}
    for engine in ours.FAST_ENGINES:
        ways[engine] = {"engine": engine}
        if options.devices > 1:
            ways[f"{engine}, {options.devices} devices"] = {"engine": engine, "devices": options.devices}
    compiling = {"compiles": 1 if options.quick else 2, "limit_bytes": options.limit_bytes}
    made = [ours.contestant(name, problem, **way, **compiling) for name, way in ways.items()]

    limits = {"forward": ("steps", options.jitted_steps), "train": ("train-steps", options.jitted_train_steps)}
    tasks = tuple(task for task, (_, most) in limits.items() if most >= T)
    reason = "beyond --jitted-{} {}, its compile time grows faster than T"
    absent = {f"jitted loop ({task})": reason.format(*limits[task]) for task in limits if task not in tasks}
    if tasks:
        made.append(ours.contestant("jitted loop", problem, "loop", tasks=tasks, limit_bytes=options.limit_bytes))
    if options.eager_steps >= T:
        made.append(ours.contestant("eager loop", problem, "loop", jit=False))
    else:
        absent["eager loop"] = f"beyond --eager-steps {options.eager_steps}, a call takes too long"
    return [*made, *(contest.Contestant(name, left_out=reason) for name, reason in absent.items())]


def draw(result: Mapping[str, Any], page: Any) -> None:
    """A figure per size and cell: time of a training step, compile or forward time, and memory against T."""
    points = [point for point in result["points"] if "left_out" not in point]
    for cell, size, engine in dict.fromkeys((p["cell"], p["size"], p.get("engine")) for p in points):
        chosen = [p for p in points if (p["cell"], p["size"], p.get("engine")) == (cell, size, engine)]
        eager, jitted = (engine, engine) if engine else ("eager loop", "jitted loop")
        panels = {  # task and key, y label, and the contestant whose last mark says how many times scan's it is
            "Training step": (("train", "median_ms"), "time [ms]", eager),
            "Compilation, forward pass": (("forward", "compile_total_s"), "time [s]", jitted),
            "Forward pass": (("forward", "median_ms"), "time [ms]", eager),
            "Temporary memory, training step": (("train", "temp_mib"), "memory [MiB]", jitted),
        }
        del panels["Compilation, forward pass" if engine else "Forward pass"]
        fig, axes = style.figures(1, 3, 10.5, 4.4, sharex=True)
        for ax, (title, (column, label, said)) in zip(axes[0], panels.items(), strict=True):
            harness.plot_lines(ax, chosen, "T", *column, harness.names(chosen))
            ax.set(xlabel="length T [steps]", ylabel=label, title=title)
            _say_factor(ax, chosen, said, column)
        B, D, H = size.split(",")
        title = f"{cell if engine else cell.upper()}, batch {B}, {D} features, {H} hidden units"
        name = f"scan_vs_loop-{f'{cell}-' if engine else ''}{size.replace(',', '-')}"
        alt = f"Time, compile time and memory against length for {', '.join(harness.names(chosen))}"
        harness.save(page, name, fig, axes, title, alt, 4)


def _say_factor(ax: Any, points: list[Mapping[str, Any]], name: str, column: tuple[str, str]) -> None:
    """Above the last mark of `name`, inside the panel: how many times scan's at the same length."""
    values = [(p["T"], number(p, name, *column), number(p, "scan", *column)) for p in points]
    known = [(T, value, value / scan) for T, value, scan in values if value and scan]
    ax.margins(y=0.18)
    if known:
        T, value, factor = known[-1]
        look = {"ha": {points[0]["T"]: "left"}.get(T, "right"), "va": "bottom"}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        ax.annotate(
            f"{factor:,.0f}× scan" if factor >= 10 else f"{factor:.2g}× scan",
            (T, value),
            (0, 12),
            textcoords="offset points",
            bbox=box,
            **look,
        )


benchmark = harness.Benchmark(Options, measure, draw)

if __name__ == "__main__":
    benchmark.main()

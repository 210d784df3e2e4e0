"""Contestants and measurement of scan against loop."""

import dataclasses

from benchmarks import harness, ours, scan_vs_loop
from benchmarks.floor import floor_row, large_matmul
from benchmarks.problems import GATES, Point, Problem, make_problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of scan_vs_loop."""

    cell: str = "lstm"
    """lstm, gru or elman."""
    sizes: tuple[str, ...] = ("4,16,32", "32,64,128", "64,256,256")
    """B,D,H of each size, small to large."""
    steps: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 10000)
    """Lengths T [steps]."""
    eager_steps: int = 1000
    """The eager loop is left out beyond this length [steps]."""
    jitted_steps: int = 1000
    """The jitted loop's forward pass is left out beyond this length: it compiles for minutes [steps]."""
    jitted_train_steps: int = 100
    """The jitted loop's training step is left out beyond this length: it compiles for minutes [steps]."""
    train_seconds: float = 10.0
    """A size is left out at lengths whose matmuls alone would take longer than this at 100 GFLOP/s [s]."""

    def check(self) -> None:
        super().check()
        if self.cell not in GATES:
            raise ValueError(f"--cell is {self.cell!r}; choose one of {', '.join(GATES)}.")
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"--steps is {self.steps}; give lengths of 1 or more.")
        for size in self.sizes:
            _point(size, 1)


def measure(run: harness.Run[Options]) -> None:
    o = run.options
    for size in o.sizes:
        for T in o.steps:
            problem = make_problem(o.cell, _point(size, T), seed=o.seed)
            where = {"cell": o.cell, "size": size, "T": T}
            seconds = 3 * problem.forward_flops / 1e11
            if seconds > o.train_seconds:
                reason = f"its matmuls alone take about {seconds:.0f} s, more than --train-seconds {o.train_seconds:g}"
                run.say(f"  {where}: left out: {reason}")
                run.add({**where, "left_out": reason})
                continue
            entries, matmul = run.contest(where, contestants(problem, o), large_matmul())
            rows = [entry.row() for entry in entries]
            run.add({**where, "floor": floor_row(matmul, problem.forward_flops), "contestants": rows})
            run.say(f"{where}: done")
    from benchmarks.scan_vs_loop.figure import draw, tables

    for title, columns, rows in tables(run.result):
        run.table(title, columns, rows)
    if o.figures is not None:
        for name, figure in draw(run.result):
            run.figure(name, figure)


def contestants(problem: Problem, o: Options) -> list[harness.Contestant]:
    """Everybody at one point; the first, a plain scan, is the reference."""
    ways: dict[str, ours.Way] = {"scan": ours.Way("scan")}
    ways |= {f"scan×{n}": ours.Way("scan", {"unroll": n}) for n in (4, 16)}
    for engine in ours.FAST_ENGINES:
        ways[engine] = ours.Way(engine)
        if o.devices > 1:
            ways[f"{engine}, {o.devices} devices"] = ours.Way(engine, devices=o.devices)
    made = [
        ours.contestant(name, problem, way, compiles=1 if o.quick else 2, limit_bytes=o.limit_bytes)
        for name, way in ways.items()
    ]
    return made + _loops(problem, o)


def _loops(problem: Problem, o: Options) -> list[harness.Contestant]:
    """The two loops, as far as their limits go, and beyond them the reason."""
    T, made = problem.point.T, []
    limits = {"forward": ("--jitted-steps", o.jitted_steps), "train": ("--jitted-train-steps", o.jitted_train_steps)}
    tasks = tuple(task for task, (_, most) in limits.items() if most >= T)
    if tasks:
        way = ours.Way("loop")
        made.append(ours.contestant("jitted loop", problem, way, tasks=tasks, compiles=1, limit_bytes=o.limit_bytes))
    for task, (option, most) in limits.items():
        if task not in tasks:
            reason = f"beyond {option} {most}, its compile time grows faster than T"
            made.append(harness.absent(f"jitted loop ({task})", reason))
    if o.eager_steps >= T:
        made.append(ours.contestant("eager loop", problem, ours.Way("loop", jit=False)))
    else:
        made.append(harness.absent("eager loop", f"beyond --eager-steps {o.eager_steps}, a call takes too long"))
    return made


def _point(size: str, T: int) -> Point:
    B, _, rest = size.partition(",")
    try:
        return Point.parse(f"{B},{T},{rest}")
    except ValueError:
        raise ValueError(f"--sizes has {size!r}; write a size as B,D,H, for example 32,64,128.") from None


BENCHMARK = harness.Benchmark(
    "scan_vs_loop",
    scan_vs_loop.__doc__ or "",
    Options,
    measure,
    quick={
        "sizes": ("4,16,32",),
        "steps": (10, 100, 300),
        "eager_steps": 100,
        "jitted_steps": 100,
        "jitted_train_steps": 10,
        "rounds": 3,
    },
)

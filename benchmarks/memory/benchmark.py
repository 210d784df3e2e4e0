"""Contestants and measurement of memory."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

import rnnjax
from benchmarks import harness, memory, ours
from benchmarks.floor import floor_row, large_matmul
from benchmarks.memory import by_hand, summary
from benchmarks.problems import GATES, Point, Problem, make_problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of memory."""

    cell: str = "lstm"
    """lstm, gru or elman."""
    size: str = "8,32,64"
    """B,D,H."""
    losses: tuple[str, ...] = ("last", "every")
    """Does the loss look at the last output or at every one."""
    steps: tuple[int, ...] = (100, 300, 1000, 3000, 10000, 30000, 100000)
    """Lengths T [steps]."""
    every: int = 100
    """A policy that keeps a carry every so many steps [steps]."""
    budget_mib: float = 16.0
    """A policy that keeps to this much memory [MiB]."""
    jitted_steps: int = 100
    """The jitted loop is left out beyond this length: its compile time grows faster than T [steps]."""

    def check(self) -> None:
        super().check()
        if self.cell not in GATES:
            raise ValueError(f"--cell is {self.cell!r}; choose one of {', '.join(GATES)}.")
        if not self.losses or set(self.losses) - {"last", "every"}:
            raise ValueError(f"--losses is {self.losses}; choose last, every, or both.")
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"--steps is {self.steps}; give lengths of 1 or more.")
        Point.parse(self.size.replace(",", ",1,", 1))


def measure(run: harness.Run[Options]) -> None:
    o = run.options
    for T in o.steps:
        problem = make_problem(o.cell, Point.parse(o.size.replace(",", f",{T},", 1)), seed=o.seed)
        for loss in o.losses:
            where = {"cell": o.cell, "size": o.size, "loss": loss, "T": T}
            entries, matmul = run.contest(where, contestants(problem, o, loss == "last"), large_matmul())
            rows = [entry.row() for entry in entries]
            run.add({**where, "floor": floor_row(matmul, problem.forward_flops), "contestants": rows})
            run.say(f"T = {T}, loss of the {loss} output: done")
    for title, columns, rows in summary.tables(run.result):
        run.table(title, columns, rows)
    if o.figures is not None:
        from benchmarks.memory.figure import draw

        run.figure("memory", draw(run.result))


def contestants(problem: Problem, o: Options, last: bool) -> list[harness.Contestant]:
    """A plain scan first, then every engine with every policy, then what is written by hand."""
    options: dict[str, Any] = {"tasks": ("train",), "compiles": 1, "limit_bytes": o.limit_bytes}
    made = []
    for engine in ("scan", *ours.FAST_ENGINES):
        made.append(ours.contestant(engine, problem, ours.Way(engine, last=last), **options))
        for policy, checkpoint in policies(o).items():
            name = f"{engine}, {policy}"
            if isinstance(checkpoint, harness.LeftOut):
                made.append(harness.absent(name, str(checkpoint)))
            else:
                way = ours.Way(engine, {"checkpoint": checkpoint}, last=last)
                made.append(ours.contestant(name, problem, way, **options))
    if o.jitted_steps < problem.point.T:
        reason = f"beyond --jitted-steps {o.jitted_steps}, its compile time grows faster than T"
        made.append(harness.absent("jitted loop", reason))
    else:
        made.append(ours.contestant("jitted loop", problem, ours.Way("loop", last=last), **options))
    made.append(harness.absent("eager loop", "not one program: nothing plans its memory"))
    for name, unrolled in {
        "by hand: checkpointed step": by_hand.scan_of_steps,
        "by hand: √T stretches": by_hand.scan_of_scans,
    }.items():
        made.append(harness.Contestant(name, _written_by_hand(problem, unrolled, o, last)))
    return made


def policies(o: Options) -> dict[str, Any]:
    """What `checkpoint=` is given, by name; `LeftOut` in place of what this version does not have."""
    missing = harness.LeftOut("rnnjax.unroll has no checkpoint= in this version")
    stretch, root = (o.every, "sqrt") if ours.HAS_CHECKPOINT else (missing, missing)
    budget = getattr(rnnjax, "MemoryBudget", None)
    within = harness.LeftOut("rnnjax has no MemoryBudget in this version")
    if budget is not None:
        within = budget(int(o.budget_mib * 2**20))
    return {f"every {o.every}": stretch, "sqrt": root, f"within {o.budget_mib:g} MiB": within}


def _written_by_hand(
    problem: Problem, unrolled: Callable, o: Options, last: bool
) -> Callable[[], dict[str, harness.Program]]:
    def build() -> dict[str, harness.Program]:
        cell = ours.cell_of(problem)
        params, xs, _ = ours.placed(problem, 1)

        def loss(params: Any, xs: Array) -> Array:
            carry = cell.initial_carry(params, (problem.point.B,))
            carry, ys = unrolled(lambda c, x: cell.step(params, c, x), carry, xs)
            return ((ours.last_output(carry) if last else ys) ** 2).sum()

        train = jax.value_and_grad(loss, argnums=(0, 1))
        limits: dict[str, Any] = {"compiles": 1, "limit_bytes": o.limit_bytes}
        return {"train": harness.compiled(train, params, xs, shared=ours.shared_gradients, **limits)}

    return build


BENCHMARK = harness.Benchmark(
    "memory",
    memory.__doc__ or "",
    Options,
    measure,
    quick={"steps": (100, 1000), "rounds": 3, "jitted_steps": 0},
)

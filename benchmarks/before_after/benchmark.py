"""Contestants, measurement and second measurement of before and after."""

import dataclasses
import importlib.util
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import before_after, harness
from benchmarks.before_after import summary
from benchmarks.before_after.pair import Worker, commit, contestant, extract, pair
from benchmarks.harness import machine
from benchmarks.problems import GATES, GRID, Point, Problem, make_problem

Folders = tuple[Path, Path]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of before_after."""

    before: str = "9954068"
    """The commit to compare with."""
    after: str = ""
    """The commit that is compared; empty for the working tree as it is."""
    cells: tuple[str, ...] = tuple(GATES)
    """lstm, gru, elman."""
    points: tuple[str, ...] = tuple(map(str, GRID))
    """Sizes, each as B,T,D,H."""
    tasks: tuple[str, ...] = summary.TASKS
    """forward, train."""
    rounds: int = 21
    """Samples of each contestant [count]."""
    budget_s: float = 3600.0
    """No new round at a point after this time, once there are three [s]."""
    devices: int = 1
    """CPU devices of each process; all contestants use the first [count]."""
    below: float = 0.97
    """A point with a ratio of before to after under this is measured again alone."""
    again: int = 3
    """In how many new pairs of processes; the median of their ratios counts [count]."""

    def check(self) -> None:
        super().check()
        for name, known in (("cells", tuple(GATES)), ("tasks", summary.TASKS)):
            if wrong := [value for value in getattr(self, name) if value not in known]:
                raise ValueError(f"--{name} has {wrong[0]!r}; choose from {', '.join(known)}.")
        for point in self.points:
            Point.parse(point)
        if self.again < 0:
            raise ValueError(f"--again is {self.again}; give zero or more.")
        if not (math.isfinite(self.below) and self.below >= 0):
            raise ValueError(f"--below is {self.below}; give a ratio, such as 0.97.")
        for name in ("before", "after"):
            value = getattr(self, name)
            try:
                if value or name == "before":
                    commit(value)
            except ValueError as error:
                raise ValueError(f"--{name}: {error}") from None


def measure(run: harness.Run[Options]) -> None:
    o = run.options
    with tempfile.TemporaryDirectory(prefix="before_after.") as place:
        folders = Path(place) / "before", Path(place) / "after"
        made = {"before": extract(o.before, folders[0]), "after": extract(o.after, folders[1])}
        run.result |= {"compared": made, "stopped_and_resumed_utc": []}
        done = resume(run)
        wanted = [(cell, str(Point.parse(point))) for point in o.points for cell in o.cells]
        for number, (cell, point) in enumerate(wanted, 1):
            where = {"cell": cell, "point": point}
            if (cell, point) in done:
                run.say(f"[{number}/{len(wanted)}] {cell} {point}: in the file already")
                continue
            started = time.perf_counter()
            row = one_point(run, folders, where)
            row["wall_s"] = round(time.perf_counter() - started, 1)
            run.add(row)
            said = ", ".join(f"{task} {ratio:.3f}" for task, ratio in summary.counted(row).items())
            run.say(f"[{number}/{len(wanted)}] {cell} {point}: before/after {said} ({row['wall_s']:.0f} s)")
    run.result["summary"] = summary.overall(run.result["points"])
    for title, columns, rows in summary.tables(run.result):
        run.table(title, columns, rows)


def one_point(run: harness.Run[Options], folders: Folders, where: dict[str, str]) -> dict[str, Any]:
    """A cell at a size in one pair of processes, and again alone in new ones where it got slower."""
    o = run.options
    problem = make_problem(where["cell"], Point.parse(where["point"]), seed=o.seed)
    with pair(*folders, o.devices) as workers:
        entries, _ = run.contest(where, contestants(problem, workers, o))
    row: dict[str, Any] = {**where, "contestants": [entry.row() for entry in entries]}

    def alone(task: str) -> float | None:
        with pair(*folders, o.devices) as workers:
            entries, _ = run.contest({**where, "again": task}, versions(problem, workers, (task,), o.seed))
        rows = [entry.row() for entry in entries]
        row.setdefault("again", {}).setdefault(task, []).append({"contestants": rows})
        return summary.ratio({"contestants": rows}, task, *summary.VERSIONS)

    row["counted"] = counted({task: summary.ratio(row, task, *summary.VERSIONS) for task in o.tasks}, alone, o)
    return row


def counted(
    ratios: dict[str, float | None], alone: Callable[[str], float | None], o: Options
) -> dict[str, dict[str, Any]]:
    """By task the ratio that counts, and those it comes from.

    Args:
      ratios: before to after, by task, of the whole contest; None where one of the two has no time.
      alone: measures a task again in new processes.
    """
    found = {}
    for task, first in ratios.items():
        if first is None:
            continue
        again = [alone(task) for _ in range(o.again)] if first < o.below else []
        kept = sorted(ratio for ratio in again if ratio is not None)
        found[task] = {"first": first, "again": again, "ratio": summary.median(kept) if kept else first}
    return found


def contestants(problem: Problem, workers: tuple[Worker, Worker], o: Options) -> list[harness.Contestant]:
    """Everybody of a point; of a GRU also those that reset before the product, compared among themselves."""
    made = versions(problem, workers, o.tasks, o.seed)
    tasks = {task: task for task in o.tasks}
    for name, form in summary.BARE.items():
        made.append(contestant(name, workers[1], form, problem, tasks, o.seed))
    if problem.cell == "gru":
        tasks = {f"{task}, reset before": task for task in o.tasks}
        has_haiku = importlib.util.find_spec("haiku") is not None
        other = (summary.HAIKU, "haiku") if has_haiku else (summary.STAND_IN, "reset before by lax.scan")
        for name, form in ((summary.RESET_BEFORE, "reset before"), other):
            made.append(contestant(name, workers[1], form, problem, tasks, o.seed))
    return made


def versions(
    problem: Problem, workers: tuple[Worker, Worker], tasks: tuple[str, ...], seed: int
) -> list[harness.Contestant]:
    """The built-in cell before, which is the reference, and after."""
    names = {task: task for task in tasks}
    return [
        contestant(name, worker, "built-in", problem, names, seed)
        for name, worker in zip(summary.VERSIONS, workers, strict=True)
    ]


def resume(run: harness.Run[Options]) -> set[tuple[str, str]]:
    """Takes over the points of the `--json` file where it has the same options, code and versions.

    Returns:
      Cell and size of each point taken over.
    """
    path = run.options.json
    if path is None or not path.is_file():
        return set()
    old = json.loads(path.read_text(encoding="utf-8"))
    now = machine.machine()
    same = [
        old.get("benchmark") == run.result["benchmark"],
        _kept(old.get("options", {})) == _kept(run.result["options"]),
        [old.get("compared", {}).get(k, {}).get("code") for k in ("before", "after")]
        == [run.result["compared"][k]["code"] for k in ("before", "after")],
        all(old.get("machine", {}).get(k) == now[k] for k in ("versions", "cpu", "cores_usable", "platform")),
    ]
    if not all(same):
        run.say(f"! {path.name} is of other options, code, versions or machine: measured anew.")
        return set()
    begun = run.result["started_utc"]
    run.result |= {key: old[key] for key in ("points", "started_utc", "machine")}
    run.result["stopped_and_resumed_utc"] = [*old.get("stopped_and_resumed_utc", []), begun]
    return {(point["cell"], point["point"]) for point in old["points"]}


def _kept(options: dict[str, Any]) -> dict[str, Any]:
    """The options that a point's numbers depend on."""
    return {name: value for name, value in options.items() if name not in ("cells", "points", "quick")}


BENCHMARK = harness.Benchmark(
    "before_after",
    before_after.__doc__ or "",
    Options,
    measure,
    quick={"points": ("8,200,32,64", "32,100,64,128"), "rounds": 5},
)

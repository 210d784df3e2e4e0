"""rnnjax before and after a change, in one run.

Question: is a cell as fast as it was before the change, is a bare step as fast as the built-in cell, and how much
faster than Haiku is a GRU whose reset gate acts before the product?
Command: python -m benchmarks.before_after --json benchmarks/results/before_after.json
Minutes: about 15 on two cores; with --quick 1.
Expected: over the reference grid, in geometric means, the time before over the time after is at least 1.00 in the
forward pass and in the training step, no point counts less than 0.97, a bare step is within 3% of the built-in cell,
and the reset-before GRU trains at least 1.5 times faster than Haiku's.

The two versions are both called `rnnjax`, so each runs in a process of its own (`before_after_worker`), from a folder
that holds that version and these benchmarks. The processes take turns, one computes at a time. Per cell and size there
is a new pair of processes, and the contestants are

* before: the built-in cell of the commit `--before`;
* after: the built-in cell of the commit `--after`, or of the working tree as it was when the run began;
* bare: in the process of "after", a `StepCell` with the same step written out, x W_x + h W_h + b;
* bare, concatenated: the same with [x, h] W + b;
* for the GRU, reset before: a `StepCell` with n = tanh(x W + (r h) U + b), and Haiku's `dynamic_unroll` of its `GRU`,
  which is this function; where Haiku is not installed, `jax.lax.scan` of the same step replaces it, by that name.

Outputs and gradients are compared before anything is timed. A point with a ratio of before to after under `--below` is
measured again alone, in `--again` new pairs of processes, and the median of their ratios counts in place of the first.
A run that was stopped goes on from its `--json` file where options, code and versions are the same.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from benchmarks import contest, harness
from benchmarks.harness import divided, geomean, number
from benchmarks.problems import GATES, GRID, CellName, Point, PointText, Problem, make_problem
from experiments import lab

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("forward", "train")
VERSIONS = ("before", "after")
BARE = ("bare", "bare, concatenated")
RESET_BEFORE = "reset before"
HAIKU = "Haiku"
STAND_IN = "lax.scan of the same step, in Haiku's stead"

_BEFORE_AFTER, _BARE, _HAIKU = {"geomean": 1.0, "worst": 0.97}, 1 / 1.03, 1.5
"""Targets: before/after in the mean and at a point, built-in/bare, and Haiku/reset before of a training step."""


@lab.options(quick={"points": ("8,200,32,64", "32,100,64,128"), "rounds": 5})
class Options(harness.Options):
    """Options of before_after."""

    before: str = "9954068"
    """The commit to compare with."""
    after: str = ""
    """The commit that is compared; empty for the working tree as it is."""
    cells: lab.Distinct[CellName] = tuple(GATES)  # pyright: ignore[reportAssignmentType]
    """The cells."""
    points: lab.Distinct[PointText] = GRID
    """Sizes, each as B,T,D,H."""
    tasks: lab.Distinct[Literal["forward", "train"]] = TASKS
    """What is timed."""
    rounds: PositiveInt = 21
    """Samples of each contestant [count]."""
    budget_s: PositiveFloat = 3600.0
    """No new round at a point after this time, once there are three [s]."""
    devices: PositiveInt = 1
    """CPU devices of each process; all contestants use the first [count]."""
    below: Annotated[float, Ge(0)] = 0.97
    """A point with a ratio of before to after under this is measured again alone."""
    again: NonNegativeInt = 3
    """In how many new pairs of processes; the median of their ratios counts [count]."""

    def check(self) -> None:
        super().check()
        commit(self.before, "--before")
        if self.after:
            commit(self.after, "--after")


def measure(options: Options, run: harness.Run) -> None:
    with tempfile.TemporaryDirectory(prefix="before_after.") as folder:
        folders = Path(folder) / "before", Path(folder) / "after"
        made = {"before": extract(options.before, folders[0]), "after": extract(options.after, folders[1])}
        run.result |= {"compared": made, "stopped_and_resumed_utc": []}
        done = resume(run)
        for point in options.points:
            for cell in options.cells:
                if (cell, point) in done:
                    run.say(f"cell={cell} point={point}: in the file already")
                    continue
                row = one_point(run, folders, {"cell": cell, "point": point})
                said = ", ".join(f"{task} {found['ratio']:.3f}" for task, found in row["counted"].items())
                run.add(row, f"before/after {said}")
    run.result["summary"] = overall(run.result["points"])


def one_point(run: harness.Run, folders: tuple[Path, Path], where: dict[str, str]) -> dict[str, Any]:
    """A cell at a size in one pair of processes, and again alone in new ones where it got slower."""
    options, started = run.options, time.perf_counter()
    problem = make_problem(where["cell"], Point.parse(where["point"]), seed=options.seed)
    make = functools.partial(worker_contestant, problem, options.seed)
    with pair(folders, options.devices) as workers:
        after = functools.partial(make, workers[1])
        made = [make(w, name, "built-in", options.tasks) for name, w in zip(VERSIONS, workers, strict=True)]
        made += [after(name, name, options.tasks) for name in BARE]
        if problem.cell == "gru":  # compared among themselves
            has_haiku = importlib.util.find_spec("haiku") is not None
            other = (HAIKU, "haiku") if has_haiku else (STAND_IN, "reset before by lax.scan")
            for name, form in ((RESET_BEFORE, RESET_BEFORE), other):
                made.append(after(name, form, options.tasks, ", reset before"))
        row = run.contest(where, made)

    def alone(task: str) -> float | None:
        with pair(folders, options.devices) as workers:
            made = [make(w, name, "built-in", (task,)) for name, w in zip(VERSIONS, workers, strict=True)]
            found = run.contest({**where, "again": task}, made)
        row.setdefault("again", {}).setdefault(task, []).append({"contestants": found["contestants"]})
        return ratio(found, task, *VERSIONS)

    first = {task: ratio(row, task, *VERSIONS) for task in options.tasks}
    row["counted"] = counted(first, alone, options)
    row["wall_s"] = round(time.perf_counter() - started, 1)
    return row


def counted(
    ratios: dict[str, float | None], alone: Callable[[str], float | None], options: Options
) -> dict[str, dict[str, Any]]:
    """By task the ratio that counts, and those it comes from; `alone` measures a task again in new processes."""
    found = {}
    for task, first in ratios.items():
        if first is not None:
            again = [alone(task) for _ in range(options.again)] if first < options.below else []
            kept = [ratio for ratio in again if ratio is not None]
            found[task] = {"first": first, "again": again, "ratio": statistics.median(kept) if kept else first}
    return found


def resume(run: harness.Run) -> set[tuple[str, str]]:
    """Takes over the points of the `--json` file where it has the same options, code and versions.

    Returns:
      Cell and size of each point taken over.
    """
    path = run.options.json
    if path is None or not path.is_file():
        return set()
    old, now = json.loads(path.read_text(encoding="utf-8")), run.result | {"machine": harness.machine_record()}

    def depends(result: Mapping[str, Any]) -> str:
        """What the numbers of a point depend on."""
        options = {k: v for k, v in result["options"].items() if k not in ("cells", "points", "quick")}
        machine = [result["machine"].get(key) for key in ("versions", "cpu", "cpu_count", "platform")]
        code = [result.get("compared", {}).get(version, {}).get("code") for version in VERSIONS]
        return json.dumps([result["benchmark"], options, machine, code], sort_keys=True)

    if depends(old) != depends(now):
        run.say(f"! {path.name} has other options, code, versions or machine: all points are measured again.")
        return set()
    begun = run.result["started_utc"]
    run.result |= {key: old[key] for key in ("points", "started_utc", "machine")}
    run.result["stopped_and_resumed_utc"] = [*old.get("stopped_and_resumed_utc", []), begun]
    return {(point["cell"], point["point"]) for point in old["points"]}


def commit(name: str, option: str = "--before") -> str:
    """The full hash of a commit; raises `UsageError` where this is no git checkout, or it does not have the commit."""
    done = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if done.returncode or name.startswith("-"):
        what = f"{option}: {name!r} is no commit of this checkout"
        raise lab.UsageError(f"{what}; name one that `git log` shows, or fetch it.")
    return done.stdout.decode().strip()


def extract(name: str, folder: Path) -> dict[str, str | None]:
    """Puts `rnnjax/` of a commit, or of the working tree where `name` is empty, into `folder`, and `benchmarks/` too.

    Returns:
      The commit's hash (None of the working tree) and a digest of the package's code, for the record.
    """
    full = commit(name) if name else None
    folder.mkdir()
    if full is None:
        shutil.copytree(ROOT / "rnnjax", folder / "rnnjax", ignore=shutil.ignore_patterns("__pycache__"))
    else:
        archive = _git("archive", full, "rnnjax")
        if archive.returncode:
            raise lab.UsageError(f"the commit {name} has no rnnjax/: {archive.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
    kept = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=kept)
    digest = hashlib.sha256()
    for path in sorted((folder / "rnnjax").rglob("*.py")):
        digest.update(path.relative_to(folder / "rnnjax").as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return {"commit": full, "code": digest.hexdigest()[:16]}


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)


class Worker:
    """A process that runs the version of rnnjax in `folder`; see `benchmarks.before_after_worker`."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.before_after_worker", str(devices)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises RuntimeError where it failed."""
        assert self._process.stdin is not None
        pickle.dump({"do": do, **request}, self._process.stdin)
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            answer = pickle.load(self._process.stdout)
        except EOFError:
            status = self._process.wait()
            raise RuntimeError(f"a worker ended with status {status}; its error is above.") from None
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def stop(self) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


@contextlib.contextmanager
def pair(folders: Iterable[Path], devices: int) -> Iterator[list[Worker]]:
    """A new process for each folder, which runs the version that is there; they end with the block."""
    with contextlib.ExitStack() as stack:
        workers = [Worker(folder, devices) for folder in folders]
        for worker in workers:
            stack.callback(worker.stop)
        for worker in workers:
            found = Path(worker.answer()["rnnjax"])
            if worker.folder.resolve() not in found.resolve().parents:
                raise RuntimeError(f"a worker for {worker.folder} imported {found}.")
        yield workers


def worker_contestant(
    problem: Problem, seed: int, worker: Worker, name: str, form: str, tasks: Iterable[str], suffix: str = ""
) -> contest.Contestant:
    """A form in a worker as a contestant; contestants are compared under the name of their task and `suffix`."""

    def program(task: str) -> contest.Program:
        which = {"form": form, "task": task}
        built = worker.ask("build", **which, cell=problem.cell, point=str(problem.point), seed=seed)

        def sample(calls: int) -> float:
            return worker.ask("time", **which, calls=calls)["seconds"]

        return contest.Program(
            lambda: sample(1), lambda _: worker.ask("results", **which), built["cost"], sample=sample
        )

    return contest.Contestant(name, lambda: {task + suffix: program(task) for task in tasks})


def ratio(point: Mapping[str, Any], task: str, slow: str, fast: str, key: str = "median_ms") -> float | None:
    """How many times faster `fast` is than `slow`: the ratio of their medians, None where one has no time."""
    return divided(number(point, slow, task, key), number(point, fast, task, key))


def ratios(point: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Every ratio of a point, by what is compared and by task; larger than 1 is better for what is new."""
    found = {"before/after": {task: found["ratio"] for task, found in point["counted"].items()}}
    others = {"before/after, minima of the first": (*VERSIONS, "", "min_ms")}
    others |= {f"built-in/{name}": ("after", name, "", "median_ms") for name in BARE}
    others |= {
        f"{name}/reset before": (name, RESET_BEFORE, ", reset before", "median_ms") for name in (HAIKU, STAND_IN)
    }
    for label, (slow, fast, suffix, key) in others.items():
        values = {task: ratio(point, task + suffix, slow, fast, key) for task in TASKS}
        if there := {task: value for task, value in values.items() if value is not None}:
            found[label] = there
    return found


def overall(points: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Geometric mean, worst and best over the points, by what is compared, task and cell; and the targets.

    A target whose ratio was not measured is left out.
    """
    by: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for point in points:
        for label, tasks in ratios(point).items():
            for task, value in tasks.items():
                for cell in ("all", point["cell"]):
                    at = f"{point['cell']} {point['point']}"
                    by.setdefault(label, {}).setdefault(task, {}).setdefault(cell, {})[at] = value

    def mean(values: Mapping[str, float]) -> dict[str, Any]:
        worst = min(values, key=values.__getitem__)
        means = {"geomean": geomean(values.values()), "worst": values[worst], "worst_at": worst}
        return means | {"best": max(values.values()), "points": len(values)}

    found = {
        label: {task: {cell: mean(values) for cell, values in cells.items()} for task, cells in tasks.items()}
        for label, tasks in by.items()
    }
    wanted = [("before/after", task, key, least) for task in TASKS for key, least in _BEFORE_AFTER.items()]
    wanted += [(f"built-in/{name}", task, "geomean", _BARE) for name in BARE for task in TASKS]
    wanted += [(f"{name}/reset before", "train", "geomean", _HAIKU) for name in (HAIKU, STAND_IN)]
    words = {"geomean": "geometric mean", "worst": "worst point"}
    targets = [
        {"target": f"{label}, {task}, {words[key]}", "value": value, "at_least": least, "met": value >= least}
        for label, task, key, least in wanted
        if (value := found.get(label, {}).get(task, {}).get("all", {}).get(key)) is not None
    ]
    return {"ratios": found, "targets": targets}


def tables(result: Mapping[str, Any], page: Any) -> None:
    """All times, the means of the ratios, and the targets."""
    harness.tables(result, page)
    before, after = (result["compared"][name]["commit"] for name in VERSIONS)
    means = [
        [label, task, cell, mean["geomean"], mean["worst"], mean["worst_at"], mean["points"]]
        for label, tasks in result["summary"]["ratios"].items()
        for task, cells in tasks.items()
        for cell, mean in cells.items()
    ]
    title = f"Time before ({before[:7]}) over after ({after[:7] if after else 'working tree'}) and other ratios"
    page.table(means, ["ratio", "task", "cell", "geometric mean", "worst", "at", "points"], title)
    again = [
        [point["cell"], point["point"], task, found["first"], found["again"], found["ratio"]]
        for point in result["points"]
        for task, found in point["counted"].items()
        if found["again"]
    ]
    if again:
        page.table(again, ["cell", "point", "task", "first", "again", "counts"], "Points measured again alone")
    targets = [list(target.values()) for target in result["summary"]["targets"]]
    page.table(targets, ["target", "value", "at least", "met"], "Targets")


benchmark = harness.Benchmark(Options, measure, tables=tables)

if __name__ == "__main__":
    benchmark.main()

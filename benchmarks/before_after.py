"""rnnjax before and after a change, in one run.

Question: is a cell as fast as it was before the change, is a bare step as fast as the built-in cell, and how much
faster than Haiku is a GRU whose reset gate acts before the product?
Command: python -m benchmarks.before_after --json benchmarks/results/before_after.json
Minutes: about 15 on two cores; with --quick 1.
Expected: over the reference grid, in geometric means, the time before over the time after is at least 1.00 in the
forward pass and in the training step, no point counts less than 0.97, a bare step is within 3% of the built-in cell,
and the reset-before GRU trains at least 1.5 times faster than Haiku's.

The two versions are both called `rnnjax`, so each runs in a process of its own, from a folder that holds that version
and these benchmarks. The processes take turns, one computes at a time. Per cell and size there is a new pair of
processes, and the contestants are

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
import gc
import hashlib
import importlib.util
import io
import json
import os
import pickle
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

import rnnjax
from benchmarks import contest, harness, problems
from benchmarks.harness import divided, geomean, number
from benchmarks.problems import GATES, GRID, CellName, Point, PointText, Problem, make_problem
from experiments import lab

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("forward", "train")
VERSIONS = ("before", "after")
BARE = ("bare", "bare, concatenated")
RESET_BEFORE, SUFFIX = "reset before", ", reset before"
HAIKU, STAND_IN = "Haiku", "lax.scan of the same step, in Haiku's stead"
_BEFORE_AFTER, _BARE, _HAIKU = {"geomean": 1.0, "worst": 0.97}, 1 / 1.03, 1.5
"""Targets: before/after in the mean and at a point, built-in/bare, and Haiku/reset before of a training step."""

Ask = Callable[..., Any]  # ask(function, *arguments) gives what function(programs, *arguments) does in a worker
Programs = dict[tuple[str, str], contest.Program]  # what a worker has built, by form and task


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
        folders = {name: Path(folder) / name for name in VERSIONS}
        commits = zip((options.before, options.after), folders.items(), strict=True)
        made = {name: extract(commit, folder) for commit, (name, folder) in commits}
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


def one_point(run: harness.Run, folders: Mapping[str, Path], where: dict[str, str]) -> dict[str, Any]:
    """A cell at a size in one pair of processes, and again alone in new ones where it got slower.

    `counted` has by task the ratio that counts, and those it comes from.
    """
    options, started = run.options, time.perf_counter()
    problem = make_problem(where["cell"], Point.parse(where["point"]), seed=options.seed)

    def timed(names: Iterable[str], tasks: tuple[str, ...], **more: str) -> dict[str, Any]:
        with pair(folders, options.devices) as asks:
            ask_of = {name: asks["before" if name == "before" else "after"] for name in names}
            made = [contestant(ask, name, problem, options.seed, tasks) for name, ask in ask_of.items()]
            return run.contest({**where, **more}, made)

    other = HAIKU if importlib.util.find_spec("haiku") is not None else STAND_IN
    row = timed([*VERSIONS, *BARE, *((RESET_BEFORE, other) if problem.cell == "gru" else ())], options.tasks)
    row["counted"] = {}
    for task in options.tasks:
        first, again = ratio(row, task, *VERSIONS), []
        if first is None:
            continue
        for _ in range(options.again if first < options.below else 0):
            found = timed(VERSIONS, (task,), again=task)
            row.setdefault("again", {}).setdefault(task, []).append({"contestants": found["contestants"]})
            again.append(ratio(found, task, *VERSIONS))
        kept = [value for value in again if value is not None]
        row["counted"][task] = {"first": first, "again": again, "ratio": statistics.median(kept) if kept else first}
    row["wall_s"] = round(time.perf_counter() - started, 1)
    return row


def resume(run: harness.Run) -> set[tuple[str, str]]:
    """Cells and sizes of the points taken over from the `--json` file, if its options, code and versions are these."""
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
    run.result["stopped_and_resumed_utc"] = [*old.get("stopped_and_resumed_utc", []), run.result["started_utc"]]
    run.result |= {key: old[key] for key in ("points", "started_utc", "machine")}
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
    unwanted = shutil.ignore_patterns("__pycache__", "results")
    if full is None:
        shutil.copytree(ROOT / "rnnjax", folder / "rnnjax", ignore=unwanted)
    else:
        archive = _git("archive", full, "rnnjax")
        if archive.returncode:
            raise lab.UsageError(f"the commit {name} has no rnnjax/: {archive.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=unwanted)
    files = sorted((folder / "rnnjax").rglob("*.py"))
    code = b"\0".join(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() for path in files)
    return {"commit": full, "code": hashlib.sha256(code).hexdigest()[:16]}


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)


@contextlib.contextmanager
def pair(folders: Mapping[str, Path], devices: int) -> Iterator[dict[str, Ask]]:
    """A new worker for each version, which runs the code in its folder; they end with the block."""
    with contextlib.ExitStack() as stack:
        asks = {}
        for name, folder in folders.items():
            command = [sys.executable, "-m", "benchmarks.before_after", "--worker", str(devices)]
            environment, pipe = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}, subprocess.PIPE
            process = subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe)
            stack.callback(process.communicate)
            stack.callback(process.kill)  # the first of the two
            asks[name] = functools.partial(_ask, process)
        yield asks


def _ask(process: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    pickle.dump((function, arguments), process.stdin)
    process.stdin.flush()
    try:
        answer = pickle.load(process.stdout)
    except EOFError:
        raise RuntimeError(f"a worker ended with status {process.wait()}; its error is above.") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def work(devices: int) -> None:
    """A worker: reads `(function, arguments)`, answers what they give, both pickled, and ends with its input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends its workers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    if Path.cwd().resolve() not in Path(rnnjax.__file__).resolve().parents:
        raise RuntimeError(f"the worker for {Path.cwd()} imported {rnnjax.__file__}.")
    contest.prepare(devices)
    gc.disable()  # no collection in a sample
    programs: Programs = {}
    with contest.float32(), contextlib.suppress(EOFError):
        while True:
            function, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = function(programs, *arguments)
            except Exception as error:
                answer = RuntimeError(f"{type(error).__name__}: {error}")
            pickle.dump(answer, answers)
            answers.flush()


def build(programs: Programs, key: tuple[str, str], cell: str, point: str, seed: int) -> Any:
    problem = make_problem(cell, Point.parse(point), seed=seed)
    programs[key] = problems.programs(problem, form(key[0], problem), tasks=key[1:])[key[1]]
    gc.collect()
    return programs[key].cost


def seconds(programs: Programs, key: tuple[str, str], calls: int) -> float:
    return programs[key].seconds(calls)


def results(programs: Programs, key: tuple[str, str]) -> dict[str, Any]:
    return {name: np.asarray(values) for name, values in programs[key].shared(programs[key].call()).items()}


def contestant(ask: Ask, name: str, problem: Problem, seed: int, tasks: Iterable[str]) -> contest.Contestant:
    """A form in a worker as a contestant; those that reset before the product are compared among themselves."""
    suffix = SUFFIX if name in (RESET_BEFORE, HAIKU, STAND_IN) else ""

    def program(task: str) -> contest.Program:
        key = name, task
        cost = ask(build, key, problem.cell, str(problem.point), seed)
        timed = functools.partial(ask, seconds, key)
        return contest.Program(lambda: timed(1), lambda _: ask(results, key), cost, sample=timed)

    return contest.Contestant(name, lambda: {task + suffix: program(task) for task in tasks})


def form(name: str, problem: Problem) -> problems.Run:
    """The forward pass of a contestant, `(weights, xs, lengths) -> ys`.

    Steps are written as a user would write them, and run with either version of rnnjax: `unroll` is called by the names
    of its arguments, which both have. Weights are cut or joined as a step needs them once per call, before the loop, so
    that gradients come back in the problem's layout.
    """
    cell, H, unroll = problem.cell, problem.point.H, (lambda **given: rnnjax.unroll(**given, carry=None)[1])
    if name in VERSIONS:
        layers = {"lstm": (rnnjax.LSTM, rnnjax.LSTMParams), "gru": (rnnjax.GRU, rnnjax.GRUParams)}
        built_in, params_type = {**layers, "elman": (rnnjax.Elman, rnnjax.ElmanParams)}[cell]
        return lambda weights, xs, lengths: unroll(cell=built_in(H), params=params_type(**weights), xs=xs)
    if name == HAIKU:
        return haiku(H)

    def plain(weights: Any) -> Any:
        return {key: weights[key] for key in ("w_x", "w_h", "b")}

    def joined(weights: Any) -> Any:
        return {"w": jnp.concatenate([weights["w_x"], weights["w_h"]]), "b": weights["b"]}

    def cut(gates: Any, candidate: Any) -> Any:
        """Of a GRU, r and z, or z and r, and n apart."""
        first = {key: array[..., : 2 * H] for key, array in gates.items()}
        return {"gates": first, "candidate": {key: array[..., 2 * H :] for key, array in candidate.items()}}

    step, layout = {"lstm": lstm_step, "gru": gru_step, "elman": elman_step}[cell], dict
    if name == "bare, concatenated":
        layout = joined
        if cell == "gru":
            step, layout = gru_step_concatenated, lambda w: {**cut(joined(w), plain(w)), "b_hn": w["b_hn"]}
    elif name in (RESET_BEFORE, STAND_IN):
        step, layout = gru_step_reset_before, lambda w: cut(plain(w), plain(w))

    def initial_carry(params: Any, batch_shape: tuple[int, ...]) -> Any:
        zeros = jnp.zeros((*batch_shape, H), jnp.float32)
        return (zeros, zeros) if cell == "lstm" else zeros

    def forward(weights: Any, xs: Any, lengths: Any) -> Any:
        params = layout(weights)
        if name == STAND_IN:
            return jax.lax.scan(lambda h, x: step(params, h, x), initial_carry(params, xs.shape[1:2]), xs)[1]
        bare = rnnjax.StepCell(step_function=step, initial_carry_function=initial_carry)
        return unroll(cell=bare, params=params, xs=xs)

    return forward


def haiku(H: int) -> problems.Run:
    """The reset-before GRU by `hk.dynamic_unroll` over `hk.GRU`; its gates are z, r, n, as those of the step here."""
    import haiku as hk  # pyright: ignore[reportMissingImports]

    def unrolled(xs: Any) -> Any:
        core = hk.GRU(H, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))
    return lambda w, xs, lengths: model.apply({"core": {"w_i": w["w_x"], "w_h": w["w_h"], "b": w["b"]}}, xs)


def _products(params: Any, h: Any, x: Any) -> Any:
    """x W_x + h W_h + b, or [x, h] W + b; the rows of W are those of W_x, then those of W_h."""
    if "w" in params:
        return jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"]
    return x @ params["w_x"] + h @ params["w_h"] + params["b"]


def lstm_step(params: Any, carry: Any, x: Any) -> Any:
    h, c = carry
    i, f, g, o = jnp.split(_products(params, h, x), 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(params: Any, h: Any, x: Any) -> Any:
    x_r, x_z, x_n = jnp.split(x @ params["w_x"] + params["b"], 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ params["w_h"], 3, axis=-1)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * (h_n + params["b_hn"]))
    return ((1 - z) * n + z * h,) * 2


def gru_step_concatenated(params: Any, h: Any, x: Any) -> Any:
    candidate = params["candidate"]
    r, z = jnp.split(jax.nn.sigmoid(_products(params["gates"], h, x)), 2, axis=-1)
    n = jnp.tanh(x @ candidate["w_x"] + candidate["b"] + r * (h @ candidate["w_h"] + params["b_hn"]))
    return ((1 - z) * n + z * h,) * 2


def gru_step_reset_before(params: Any, h: Any, x: Any) -> Any:
    z, r = jnp.split(jax.nn.sigmoid(_products(params["gates"], h, x)), 2, axis=-1)
    n = jnp.tanh(_products(params["candidate"], r * h, x))
    return ((1 - z) * h + z * n,) * 2


def elman_step(params: Any, h: Any, x: Any) -> Any:
    return (jnp.tanh(_products(params, h, x)),) * 2


def ratio(point: Mapping[str, Any], task: str, slow: str, fast: str, key: str = "median_ms") -> float | None:
    """How many times faster `fast` is than `slow`: the ratio of their medians, None where one has no time."""
    return divided(number(point, slow, task, key), number(point, fast, task, key))


def ratios(point: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Every ratio of a point: what is compared, the task, and the ratio; above 1 is better for what is new."""
    yield from (("before/after", task, found["ratio"]) for task, found in point["counted"].items())
    others = {"before/after, minima of the first": (*VERSIONS, "", "min_ms")}
    others |= {f"built-in/{name}": ("after", name, "", "median_ms") for name in BARE}
    others |= {f"{name}/reset before": (name, RESET_BEFORE, SUFFIX, "median_ms") for name in (HAIKU, STAND_IN)}
    for label, (slow, fast, suffix, key) in others.items():
        for task in TASKS:
            if (value := ratio(point, task + suffix, slow, fast, key)) is not None:
                yield label, task, value


def overall(points: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Geometric mean, worst and best over the points, by what is compared, task and cell; and the targets.

    A target whose ratio was not measured is left out.
    """
    by: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for point in points:
        for label, task, value in ratios(point):
            for cell in ("all", point["cell"]):
                by.setdefault((label, task, cell), []).append((value, f"{point['cell']} {point['point']}"))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (label, task, cell), values in by.items():
        worst, at = min(values)
        means = {"geomean": geomean(value for value, _ in values), "worst": worst, "worst_at": at}
        means |= {"best": max(values)[0], "points": len(values)}
        found.setdefault(label, {}).setdefault(task, {})[cell] = means
    wanted = [("before/after", task, key, least) for task in TASKS for key, least in _BEFORE_AFTER.items()]
    wanted += [(f"built-in/{name}", task, "geomean", _BARE) for name in BARE for task in TASKS]
    wanted += [(f"{name}/reset before", "train", "geomean", _HAIKU) for name in (HAIKU, STAND_IN)]
    words, targets = {"geomean": "geometric mean", "worst": "worst point"}, []
    for label, task, key, least in wanted:
        if means := found.get(label, {}).get(task, {}).get("all"):
            row = {"target": f"{label}, {task}, {words[key]}", "value": means[key], "at_least": least}
            targets.append(row | {"met": means[key] >= least})
    return {"ratios": found, "targets": targets}


def tables(result: Mapping[str, Any], page: Any) -> None:
    """All times, the means of the ratios, and the targets."""
    harness.tables(result, page)
    before, after = (result["compared"][name]["commit"] for name in VERSIONS)
    means, again = [], []
    for label, tasks in result["summary"]["ratios"].items():
        for task, cell in ((task, cell) for task, cells in tasks.items() for cell in cells):
            mean = tasks[task][cell]
            means.append([label, task, cell, mean["geomean"], mean["worst"], mean["worst_at"], mean["points"]])
    title = f"Time before ({before[:7]}) over after ({after[:7] if after else 'working tree'}) and other ratios"
    page.table(means, ["ratio", "task", "cell", "geometric mean", "worst", "at", "points"], title)
    for point in result["points"]:
        for task, found in point["counted"].items():
            if found["again"]:
                again.append([point["cell"], point["point"], task, found["first"], found["again"], found["ratio"]])
    if again:
        page.table(again, ["cell", "point", "task", "first", "again", "counts"], "Points measured again alone")
    targets = [list(target.values()) for target in result["summary"]["targets"]]
    page.table(targets, ["target", "value", "at least", "met"], "Targets")


benchmark = harness.Benchmark(Options, measure, tables=tables)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]))
    else:
        benchmark.main()

"""What the benchmarks share besides `contest`: options, command line, results, and how these are read and drawn.

A benchmark is one file; `benchmarks/scan_vs_loop.py` is a short one. Its docstring has a title, Question, Command,
Minutes and Expected. `measure(options, run)` does `run.add(run.contest(where, contestants))` for each point, which is
in the JSON file at once. `draw(result, page)` makes figures from what is in that file, so it can be drawn again.
"""

import collections
import dataclasses
import datetime
import inspect
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from annotated_types import Ge, Lt
from pydantic import PositiveFloat, PositiveInt

from . import contest, described, identity, lab, machine, page, parse, strict_json, style
from .problems import floor_row, large_matmul

Point = Mapping[str, Any]
"""A point of a result: where it was measured, and `contestants`, as `contest.run` gives them."""

_PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "dm-haiku", "equinox", "keras", "torch", "torchrecurrent")


@lab.options
class Options:
    """Options that every benchmark has."""

    quick: bool = False
    """Fewer points and rounds; options given by hand still count."""
    json: Path | None = None
    """File for the results, written again after every point."""
    figures: Path | None = None
    """Folder for the figures, as PNG and SVG."""
    rounds: PositiveInt = 7
    """Samples of each contestant [count]."""
    sample_ms: PositiveFloat = 30.0
    """A sample is as many calls in a row as last this long [ms]."""
    budget_s: PositiveFloat = 120.0
    """No new round at a point after this time, once there are three [s]."""
    memory_gib: PositiveFloat = 4.0
    """Programs with more temporary memory are compiled and not run [GiB]."""
    devices: PositiveInt = min(2, machine.cores())
    """CPU devices for the sharded contestants; all others use the first [count]."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Of weights, inputs and the order of the contestants."""

    def check(self) -> None:
        """Raises `UsageError` for what annotations cannot say. Runs before any work."""
        if self.figures is not None and self.figures.is_file():
            raise lab.UsageError(f"--figures is {self.figures}, a file; name a folder.")
        if self.json is not None and self.json.is_dir():
            raise lab.UsageError(f"--json is {self.json}, a folder; name a file.")

    @property
    def limit_bytes(self) -> int:
        return int(self.memory_gib * 2**30)


@dataclasses.dataclass
class Run:
    """What a benchmark holds while it runs: its options, and the result that is written to `--json`."""

    options: Any
    result: dict[str, Any]

    def say(self, text: str) -> None:
        """One line for the reader, on stderr."""
        print(text, file=sys.stderr, flush=True)

    def contest(
        self, where: Point, contestants: Iterable[contest.Contestant], forward_flops: float = 0.0
    ) -> dict[str, Any]:
        """A contest as a point of the result: `where`, `contestants`, and `floor` if the forward pass' FLOPs are given.

        The reference comes first. With any fault the exit status is 1.
        """
        o, (matmul, flops) = self.options, large_matmul() if forward_flops else (None, 0.0)
        timing = {"rounds": o.rounds, "sample_s": 1e-3 * o.sample_ms, "budget_s": o.budget_s, "seed": o.seed}
        rows, floor_ms = contest.run(list(contestants), floor=matmul, **timing)
        for row in (row for row in rows if "fault" in row):
            self.result["faults"].append(f"{place(where)}: {row['name']} {row['fault']}")
            self.say(f"! {self.result['faults'][-1]}")
        floor = {} if floor_ms is None else {"floor": floor_row(floor_ms, flops, forward_flops)}
        return {**where, **floor, "contestants": rows}

    def add(self, point: Point, said: str = "done") -> None:
        """Keeps a finished point, in the file too: a run that is stopped leaves what it has."""
        if not self.result["points"]:  # everything that takes part is loaded by now
            self.result["machine"] = machine_record() | self.result["machine"]
        self.result["points"].append(dict(point))
        self.save()
        self.say(f"{place(point)}: {point.get('left_out', said)}")

    def save(self) -> None:
        if self.options.json is not None:
            self.options.json.parent.mkdir(parents=True, exist_ok=True)
            strict_json.write(self.options.json, self.result)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark; its name and documentation are those of the file that `measure` is in."""

    options: type[Options]
    measure: Callable[[Any, Run], None]
    draw: Callable[[Mapping[str, Any], Any], None] | None = None
    tables: "Callable[[Mapping[str, Any], Any], None]" = lambda result, page: tables(result, page)

    def main(self) -> NoReturn:
        sys.exit(self.launch(sys.argv[1:]))

    def launch(self, arguments: Sequence[str]) -> int:
        """Runs the benchmark with these arguments; returns the exit status.

        0: done. 1: done, but a contestant failed or was refused. 2: a wrong option. 130: stopped with Ctrl-C; finished
        points are in the `--json` file.
        """
        name = Path(inspect.getfile(self.measure)).stem
        doc = sys.modules[self.measure.__module__].__doc__ or ""
        try:
            options = parse(self.options, arguments, f"benchmarks.{name}", doc)
        except lab.UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        command, busy = shlex.join(["python", "-m", f"benchmarks.{name}", *arguments]), machine.load()
        result: dict[str, Any] = {
            "benchmark": name,
            "question": described(doc).get("Question"),
            "command": re.sub(r" --(json|figures)[ =]('[^']*'|\S+)", "", command),  # where is not what
            "options": {k: v for k, v in dataclasses.asdict(options).items() if k not in ("json", "figures")},
            "code_sha256": identity.code_sha256(self.measure),
            "started_utc": now(),
            "finished_utc": None,
            "machine": {"process": contest.prepare(options.devices), "load_at_start": busy},
            "figures": [],
            "points": [],
            "faults": [],
        }
        run = Run(options, result)
        if busy is not None and busy > 0.5:
            run.say(f"! other processes want the cores (load {busy}): compare ratios, and no single times.")
        try:
            with contest.float32():
                self.measure(options, run)
        except KeyboardInterrupt:
            print(f"\nstopped after {len(result['points'])} points.", file=sys.stderr)
            return 130
        self.show(result, options.figures)
        result["finished_utc"], result["machine"]["load_at_end"] = now(), machine.load()
        run.save()
        for fault in result["faults"]:
            run.say(f"! {fault}")
        return 1 if result["faults"] else 0

    def show(self, result: dict[str, Any], folder: Path | None) -> None:
        """Prints the tables of a result and saves its figures in `folder`, if given."""
        shown = page.Page(folder=folder, out=page.console())
        self.tables(result, shown)
        found = [row for point in result["points"] for row in ({"name": "all", **point}, *point.get("contestants", ()))]
        found += [{"name": f"{row['name']}, {t}", **task} for row in found for t, task in row.get("tasks", {}).items()]
        if why := [f"{row['name']}: {row[key]}" for row in found for key in ("left_out", "fault") if key in row]:
            shown.table(list(collections.Counter(why).items()), ["who and why", "points"], "Did not take part")
        if folder is not None and self.draw is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with style.plotting():
                self.draw(result, shown)
            result["figures"] = sorted(figure[kind] for figure in shown.figures for kind in ("png", "svg"))
            result["captions"] = {figure["png"]: figure["caption"] for figure in shown.figures}


def machine_record() -> dict[str, Any]:
    """What a time depends on besides the code. Call it once JAX and the other libraries are loaded."""
    import jax

    torch = sys.modules.get("torch")
    found = {**machine.device(), **machine.git_commit(), "versions": machine.versions(_PACKAGES)}
    found["matmul_precision"] = jax.config.jax_default_matmul_precision or "default"  # pyright: ignore
    return {**found, "torch_threads": torch.get_num_threads() if torch else None}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def place(point: Point) -> str:
    """A point in words, for messages."""
    return " ".join(f"{k}={v}" for k, v in point.items() if isinstance(v, str | int) and k != "left_out")


def by_name(point: Point) -> dict[str, Point]:
    """The contestants' rows of a point, by name."""
    return {row["name"]: row for row in point.get("contestants", ())}


def names(points: Iterable[Point]) -> list[str]:
    """Every contestant that occurs, in the order of first appearance."""
    return list(dict.fromkeys(name for point in points for name in by_name(point)))


def unit(point: Point, name: str = "") -> tuple[str, int]:
    """What a call does many of, and how many: a contestant's `settings` or `networks`, or the point's `updates`."""
    row = {**point, **by_name(point).get(name, {})}
    return next(((kind, row[kind]) for kind in ("settings", "networks", "updates") if kind in row), ("calls", 1))


def number(point: Point, name: str, task: str, key: str = "median_ms") -> float | None:
    """A contestant's number at a point, or None where it was not measured.

    Three keys are made of others: `compile_total_s` is tracing and compiling, `temp_mib` is `temp_bytes` in MiB, and
    `unit_ms` is `median_ms` for each of what a call does many of.
    """
    values = by_name(point).get(name, {}).get("tasks", {}).get(task, {})
    if key == "compile_total_s":
        return values["trace_s"] + values["compile_s"] if "compile_s" in values else None
    whole, part = {"temp_mib": ("temp_bytes", 2**20), "unit_ms": ("median_ms", unit(point, name)[1])}.get(key, (key, 1))
    return divided(values.get(whole), part)


def floor_ms(point: Point, task: str) -> float | None:
    """The matmul floor of a task at a point, where it was measured; of any but "forward", that of a training step."""
    floor = point.get("floor") or {}
    return divided(floor.get("forward_ms" if task == "forward" else "train_ms"), unit(point)[1])


def divided(a: float | None, b: float | None) -> float | None:
    """a / b, or None where either is missing."""
    return None if a is None or b is None or b == 0 else a / b


geomean = statistics.geometric_mean
_SHOWN = {"unit_ms": "ms", "compile_total_s": "compile s", "temp_mib": "memory MiB"}


def tables(result: Mapping[str, Any], page: Any) -> None:
    """A table per point, and then every contestant over the reference of its task, the first that gives it."""
    ratios: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for point in (point for point in result["points"] if "left_out" not in point):
        every, tasks = names([point]), dict.fromkeys(t for row in point["contestants"] for t in row["tasks"])
        columns = [(task, key) for task in tasks for key in _SHOWN]
        rows = [[name, *(number(point, name, *column) for column in columns)] for name in every]
        rows.append(["floor", *(floor_ms(point, task) if key == "unit_ms" else None for task, key in columns)])
        kept = [k for k in range(len(columns) + 1) if any(row[k] is not None for row in rows)]
        heads = ["contestant", *(f"{task} [{_SHOWN[key]}]" for task, key in columns)]
        caption = f"{place(point)}, medians; ms for each of the {unit(point)[0]}"
        whole = [[round(v) if isinstance(v, float) and v >= 1e4 else v for v in row] for row in rows if any(row[1:])]
        page.table([[row[k] for k in kept] for row in whole], [heads[k] for k in kept], caption)
        group = str(point.get("contest") or point.get("loss") or point.get("size") or "")
        for task in tasks:
            first = next((row["name"] for row in point["contestants"] if task in row["tasks"]), "")
            for name in every:
                for key in _SHOWN:
                    if ratio := divided(number(point, name, task, key), number(point, first, task, key)):
                        ratios.setdefault((group, name, task), {}).setdefault(key, []).append(ratio)

    def said(v: list[float] | None) -> str | None:
        return f"{geomean(v):.3g}" + f" ({min(v):.3g} to {max(v):.3g})" * (len(v) > 1) if v else None

    lines = [[*where, *(said(found.get(key)) for key in _SHOWN)] for where, found in ratios.items()]
    heads = ["", "contestant", "task", "time", "compile time", "memory"]
    page.table(lines, heads, "Over the reference: geometric mean over the points (smallest to largest)")


FLOOR: dict[str, Any] = {"color": style.GREY, "linewidth": 5.0, "alpha": 0.5, "solid_capstyle": "butt", "zorder": 0}
"""How the matmul floor is drawn: a broad grey line, nothing below it is possible."""


def plot_lines(ax: Any, points: Sequence[Point], x: str, task: str, key: str, every: Sequence[str]) -> None:
    """A line per contestant, and the floor of a time, on logarithmic axes; `every` says which style is whose."""
    for index, name in enumerate(every):
        if line := [(p[x], v) for p in points if (v := number(p, name, task, key)) is not None]:
            ax.plot(*zip(*line, strict=True), label=name, **style.line(index))
    if floor := [(p[x], v) for p in points if key.endswith("_ms") and (v := floor_ms(p, task)) is not None]:
        ax.plot(*zip(*floor, strict=True), label="matmul floor", **FLOOR)
    ax.set(xscale="log", yscale="log")
    ticks = sorted({point[x] for point in points})
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30 if len(ticks) > 4 else 0)
    ax.minorticks_off()


def save(page: Any, name: str, figure: Any, axes: Any, title: str, alt: str, columns: int = 3) -> None:
    """Letters before the panels' titles, a title above all, one legend below all; then saves the figure."""
    if np.size(axes) > 1:
        style.letters(axes)
    lines = [line for ax in np.ravel(axes) for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    if handles := {line.get_label(): line for line in lines}:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)
    figure.suptitle(title, x=0.01, ha="left")
    page.figure(name, figure, alt=alt, caption=f"{title}. Medians over interleaved rounds.")

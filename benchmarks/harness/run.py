"""One run of a benchmark: what it measures goes through here to the terminal, the JSON file and the figures."""

import dataclasses
import datetime
import io
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from benchmarks.harness import about, machine, process, results
from benchmarks.harness.contest import Entry, contest
from benchmarks.harness.options import CommonOptions
from benchmarks.harness.programs import Contestant, Program
from benchmarks.harness.statistics import Times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = "rich, tyro and matplotlib are needed: pip install 'rnnjax[experiments]'"
_NOT_PART_OF_A_RUN = ("json", "figures")

OptionsT = TypeVar("OptionsT", bound=CommonOptions)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark, as `launch` needs it.

    Attributes:
      name: its module under `benchmarks`.
      doc: its docstring, with the fields of `benchmarks.harness.about`.
      options: a frozen dataclass that inherits from `CommonOptions`.
      measure: does the work.
      quick: what `--quick` changes in the defaults.
    """

    name: str
    doc: str
    options: type[CommonOptions]
    measure: "Callable[[Run[Any]], None]"
    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Run(Generic[OptionsT]):
    """What a benchmark holds while it runs.

    Attributes:
      options: its own options, checked.
      result: what is written to `--json`.
      faults: contestants that failed or were refused; with any, the exit status is 1.
    """

    options: OptionsT
    result: dict[str, Any]
    faults: list[str] = dataclasses.field(default_factory=list)

    def say(self, text: str) -> None:
        """One line for the reader, on stderr."""
        print(text, file=sys.stderr, flush=True)

    def contest(
        self, where: Mapping[str, Any], contestants: Sequence[Contestant], floor: Program | None = None
    ) -> tuple[list[Entry], Times | None]:
        """Runs a contest with this run's options, and says who did not take part and why.

        Args:
          where: the point, for messages: `{"cell": "lstm", "T": 100}`.
          contestants: the reference first.
          floor: timed in the same rounds.
        """
        o = self.options
        entries, floor_times = contest(
            contestants, floor=floor, rounds=o.rounds, sample_s=1e-3 * o.sample_ms, budget_s=o.budget_s, seed=o.seed
        )
        point = " ".join(f"{name}={value}" for name, value in where.items())
        for entry in entries:
            if entry.fault:
                self.faults.append(f"{point}: {entry.name} {entry.fault}")
                self.say(f"! {self.faults[-1]}")
            if entry.left_out:
                self.say(f"  {point}: {entry.name} left out: {entry.left_out}")
            for task, program in entry.programs.items():
                if program.left_out:
                    self.say(f"  {point}: {entry.name}, {task}, not run: {program.left_out}")
        return entries, floor_times

    def add(self, point: Mapping[str, Any]) -> None:
        """Keeps a finished point, in the file too: a run that is stopped leaves what it has."""
        if not self.result["points"]:  # everything that takes part is loaded by now
            self.result["machine"] = machine.machine() | self.result["machine"]
        self.result["points"].append(dict(point))
        self.save()

    def save(self) -> None:
        if self.options.json is not None:
            results.write(self.options.json, self.result)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Prints a table; numbers get three digits, None a dash."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 160
        drawn = Table(title=Text(title), title_justify="left")
        for number, column in enumerate(columns):
            drawn.add_column(Text(column), justify="left" if number == 0 else "right", overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(_shown(value)) for value in row))
        console.print(drawn)

    def figure(self, name: str, figure: "Figure") -> None:
        """Saves `name.png` and `name.svg` in the folder of `--figures`, the same bytes for the same figure."""
        folder = self.options.figures
        if folder is None:
            return
        from benchmarks.harness.drawing import drawing

        kinds: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
        for kind, metadata in kinds.items():
            data = io.BytesIO()
            with drawing():
                figure.savefig(data, format=kind, metadata=metadata)
            results.write_bytes(folder / f"{name}.{kind}", data.getvalue())
            self.result["figures"] = sorted({*self.result["figures"], f"{name}.{kind}"})


def launch(benchmark: Benchmark, argv: Sequence[str] | None = None) -> int:
    """Runs a benchmark from its command line; returns the exit status.

    0: done. 1: done, but a contestant failed or was refused. 2: a wrong option. 130: stopped with Ctrl-C; finished
    points are in the `--json` file.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parse(benchmark, arguments)
        options.check()
    except ImportError as error:
        print(f"error: {error.name} is not installed; {_NEEDED}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    setup = process.prepare(options.devices)
    run = Run(options, _header(benchmark, options, arguments, setup))
    busy = run.result["machine"]["load_at_start"]
    if busy is not None and busy > 0.5:
        run.say(f"! other processes want the cores (load {busy}): compare ratios, and no single times.")
    try:
        with process.float32():
            benchmark.measure(run)
    except KeyboardInterrupt:
        print(f"\nstopped after {len(run.result['points'])} points.", file=sys.stderr)
        return 130
    run.result |= {"faults": run.faults, "finished_utc": _now()}
    run.result["machine"]["load_at_end"] = machine.load()
    run.save()
    for fault in run.faults:
        run.say(f"! {fault}")
    return 1 if run.faults else 0


def _parse(benchmark: Benchmark, arguments: Sequence[str]) -> Any:
    """The options; `--quick` changes defaults, so what is given by hand wins."""
    import tyro

    quick = "--quick" in arguments
    return tyro.cli(
        benchmark.options,
        args=list(arguments),
        default=benchmark.options(quick=quick, **(benchmark.quick if quick else {})),
        prog=f"python -m benchmarks.{benchmark.name}",
        description=about.spaced(benchmark.doc),
    )


def _header(
    benchmark: Benchmark, options: CommonOptions, arguments: Sequence[str], setup: Mapping[str, Any]
) -> dict[str, Any]:
    plain = {
        field.name: _plain(getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.name not in _NOT_PART_OF_A_RUN
    }
    return {
        "benchmark": benchmark.name,
        "question": about.parse(benchmark.doc).get("Question"),
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark.name}", *_without_paths(arguments)]),
        "options": plain,
        "started_utc": _now(),
        "finished_utc": None,
        "machine": {"process": dict(setup), "load_at_start": machine.load()},
        "figures": [],
        "points": [],
    }


def _without_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--json PATH` and `--figures FOLDER`: where is not what."""
    kept, skip = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if not skip and name.removeprefix("--") not in _NOT_PART_OF_A_RUN:
            kept.append(argument)
        skip = not skip and not equals and name.removeprefix("--") in _NOT_PART_OF_A_RUN
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

"""From a command line to a result folder: `launch`."""

import contextlib
import dataclasses
import datetime
import importlib.util
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.harness import about, folder, manifest, strict_json
from experiments.harness.errors import UsageError

if TYPE_CHECKING:
    from experiments.harness.report import Figure
    from experiments.harness.run import Outcome, Run

_NEEDED = ("tyro", "rich", "matplotlib", "optax")
_NOT_PART_OF_A_RUN = ("out", "fresh", "devices", "coordinator", "num_processes", "process_id")  # where, not what


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options that every experiment has; an experiment's own options inherit from this frozen dataclass."""

    out: Path | None = None
    """Folder for the results. Default: results/NAME, or results/NAME-quick with --quick."""
    quick: bool = False
    """Smaller defaults, to see the whole in a minute; options given by hand still count."""
    seed: int = 0
    """Where all randomness starts; an integer from 0 to 2**32 - 1."""
    fresh: bool = False
    """Discard what an earlier run of this experiment left in the folder, and start over."""

    def check(self) -> None:
        """Raises `ValueError` for options that make no sense, before any work. Extend it; call `super().check()`."""
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed is {self.seed}; give an integer from 0 to 2**32 - 1.")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment, as `launch` needs it.

    Attributes:
      name: the module under `experiments`.
      doc: the module's docstring (see `experiments.harness.about` for its fields).
      options: a frozen dataclass that inherits from `CommonOptions`.
      measure: does the work.
      quick: what `--quick` changes in the defaults of `options`.
      code: modules and packages whose code the rows depend on; a change there makes earlier rows stale.
      x64: compute in float64 (for the time of the run only).
    """

    name: str
    doc: str
    options: type[CommonOptions]
    measure: "Callable[[Run[Any]], Outcome]"
    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    code: Sequence[str] = ("rnnjax",)
    x64: bool = False


def positive(name: str, value: float) -> None:
    """Raises unless `value` is a finite number above zero. `name` is the option as typed, for example "--steps"."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} is {value}; give a finite number above zero.")


def launch(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Runs an experiment from its command line; returns the exit status.

    0: done (or what the experiment says, see `Outcome.status`). 2: something the user can fix, said before any long
    work. 130: stopped with Ctrl-C, finished rows kept (JAX lets go only when the compiled program under way returns,
    and that program's row is lost). Any other exception is a fault of the code and keeps its traceback; finished rows
    are kept then too.

    Args:
      argv: arguments; those of the process by default.
    """
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        print(f"error: {', '.join(absent)} not installed; pip install 'rnnjax[experiments]'", file=sys.stderr)
        return 2
    from experiments.harness import processes

    arguments = list(sys.argv[1:] if argv is None else argv)
    place = Path()
    try:
        options: CommonOptions = _parse(experiment, arguments)
        place = options.out or Path("results") / (experiment.name + ("-quick" if options.quick else ""))
        try:
            options.check()
        except ValueError as error:
            raise UsageError(str(error)) from error
        with contextlib.ExitStack() as stack:
            if processes.leads(options):
                folder.prepare(place)
                stack.enter_context(folder.locked(place))
            stack.enter_context(processes.joined(options, place))
            try:
                with _precision(experiment.x64):
                    return _carry_out(experiment, options, place, arguments)
            except (UsageError, KeyboardInterrupt) as error:
                if not processes.several(options):
                    raise
                raise SystemExit(_tell(error, place)) from None  # lets go of the other processes, which wait
    except (UsageError, KeyboardInterrupt) as error:
        return _tell(error, place)


def _tell(error: UsageError | KeyboardInterrupt, place: Path) -> int:
    """Says what happened; returns the exit status."""
    if isinstance(error, UsageError):
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"\nstopped; finished rows are kept in {place}: the same command goes on from there.", file=sys.stderr)
    return 130


def _parse(experiment: Experiment, arguments: Sequence[str]) -> Any:
    """Options of the command line. `--quick` changes defaults, so whatever is given by hand wins over it."""
    import tyro

    quick = False
    for argument in arguments:
        quick = {"--quick": True, "--no-quick": False}.get(argument, quick)
    default = experiment.options(quick=quick, **(experiment.quick if quick else {}))
    return tyro.cli(
        experiment.options,
        args=list(arguments),
        default=default,
        prog=f"python -m experiments.{experiment.name}",
        description=about.paragraphs(experiment.doc),
    )


def _carry_out(experiment: Experiment, options: CommonOptions, place: Path, arguments: Sequence[str]) -> int:
    from experiments.harness import processes, report
    from experiments.harness.rows import RowStore
    from experiments.harness.run import Run, consoles

    fields = dataclasses.fields(options)
    plain = strict_json.strict({f.name: getattr(options, f.name) for f in fields if f.name not in _NOT_PART_OF_A_RUN})
    leads, several = processes.leads(options), processes.several(options)
    if leads:
        folder.claim(place, experiment.name, plain, fresh=options.fresh)

    versions, device = manifest.versions(), manifest.device()
    code = manifest.code_sha256(experiment.code)
    if several:
        processes.agree({**plain, "code_sha256": code, "versions": versions, "platform": device["platform"]})
    command = shlex.join(["python", "-m", f"experiments.{experiment.name}", *arguments])
    config = {
        "experiment": experiment.name,
        "command": command,
        "options": plain,
        "seed": options.seed,
        "versions": versions,
        "device": device,
        "x64": experiment.x64,
        **manifest.git_commit(),
        "code_sha256": code,
        "started_utc": _now(),
        "finished_utc": None,
    }
    if leads:
        folder.write_config(place, config)
    identity = {
        "experiment": experiment.name,
        "code_sha256": code,
        "versions": versions,
        "platform": device["platform"],
        "x64": experiment.x64,
    }
    rows = processes.SharedRows(place, identity) if several else RowStore(place, identity)
    run = Run(options, place, rows, *consoles(quiet=not leads), leads=leads, mesh=processes.mesh_of(options))
    if len(run.rows):
        run.say(f"going on in {place}: {len(run.rows)} finished rows are there")
    if run.rows.stale or run.rows.damaged:
        run.say(
            f"{place}: {run.rows.stale} rows of other code or versions and {run.rows.damaged} damaged rows are not used"
        )

    started = time.monotonic()
    outcome = experiment.measure(run)
    seconds = time.monotonic() - started
    if not leads:
        return outcome.status
    described = about.parse(experiment.doc)
    summary = {
        "experiment": experiment.name,
        **outcome.summary,
        "figures": [_saved(f) for f in run.figures],
        "rows_computed_count": run.rows.computed,
        "rows_reused_count": run.rows.reused,
        "wall_seconds": seconds,
        "code_sha256": code,
    }
    strict_json.write(place / folder.SUMMARY, summary)
    config["finished_utc"] = _now()
    facts = {name: described[name] for name in ("Question", "Expected") if name in described} | {"Command": command}
    page = report.build(described["Title"], facts, outcome.report, strict_json.strict(config))
    strict_json.write_bytes(place / folder.REPORT, page.encode())
    folder.write_config(place, config)
    run.out.print(f"{seconds:.1f} s; open {place / folder.REPORT}", soft_wrap=True, markup=False)
    return outcome.status


def _saved(figure: "Figure") -> dict[str, str]:
    """What the summary says of a figure, for those who gather results."""
    return {"png": f"{figure.name}.png", "svg": f"{figure.name}.svg", "alt": figure.alt, "caption": figure.caption}


@contextlib.contextmanager
def _precision(x64: bool) -> Iterator[None]:
    import jax

    with jax.enable_x64(x64):
        yield


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

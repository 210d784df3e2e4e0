"""Options: a frozen dataclass, checked by its annotations, and the command line that is made of it."""

import ast
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from annotated_types import Ge, Lt
from pydantic import AfterValidator, NonNegativeInt, PositiveInt

T = TypeVar("T")
_FIELDS = ("Question", "Command", "Minutes", "Expected")


class UsageError(Exception):
    """Something that the user can fix: a wrong option, a folder that cannot be used, a damaged file.

    A command line prints its message on one line and exits with status 2. The message says what to do.
    """


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("give at least one")
    if len(set(values)) < len(values):
        raise ValueError("give each once")
    return values


Distinct = Annotated[tuple[T, ...], AfterValidator(_distinct)]
"""A tuple with at least one entry and no entry twice."""

Share = Annotated[float, Ge(0), Lt(1)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(cls: type[T] | None = None, *, quick: Mapping[str, Any] | None = None) -> Any:
    """Makes a class of annotated fields a frozen, keyword-only dataclass that checks its values.

    Annotations are checked by pydantic; what they cannot say goes in a method `check`. Both raise `UsageError` with the
    option's name as it is typed.

    Args:
      quick: the defaults that `--quick` changes.
    """
    if cls is None:
        return lambda cls: options(cls, quick=quick)
    config = pydantic.ConfigDict(allow_inf_nan=False, extra="forbid")
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)
    validated = made.__init__

    def __init__(self: Any, **given: Any) -> None:
        try:
            validated(self, **given)
        except pydantic.ValidationError as error:
            raise UsageError("; ".join(map(_said, error.errors()))) from None
        if hasattr(self, "check"):
            self.check()

    made.__init__ = __init__
    made.quick_defaults = dict(quick or {})
    return made


def _said(error: Any) -> str:
    name = f"--{str(error['loc'][0]).replace('_', '-')}"
    if error["type"] == "unexpected_keyword_argument":
        return f"{name} is no option"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{name} is {error['input']!r}: {message}"


@options
class Options:
    """Options that every experiment has."""

    out: Path | None = None
    """Folder for the results. Default: results/NAME, or results/NAME-quick with --quick."""
    quick: bool = False
    """Smaller defaults for a first impression in a minute; options given by hand still count."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Seed of all random numbers."""
    fresh: bool = False
    """Discard what an earlier run of this experiment left in the folder, and start over."""

    def check(self) -> None:
        """Raises `UsageError` for what annotations cannot say. Runs before any work."""

    @property
    def several(self) -> bool:
        """Whether the run has more than one process, or those that are found."""
        return getattr(self, "num_processes", 1) > 1 or self.discovered

    @property
    def discovered(self) -> bool:
        """Whether the processes are found by `jax.distributed`."""
        return getattr(self, "coordinator", None) == AUTO

    @property
    def is_coordinator(self) -> bool:
        """Whether this process writes; known once the processes are initialized."""
        if self.discovered:
            from rnnjax import processes

            return processes.is_coordinator()
        return getattr(self, "process_id", None) in (None, 0)


AUTO = "auto"


@options
class ProcessOptions(Options):
    """Options of an experiment that can run on several devices and in several processes."""

    devices: PositiveInt | None = None
    """Devices of each process. Default: one for a CPU, all of an accelerator."""
    coordinator: str | None = None
    """Host and free port of process 0, as host:port, the same in every process. Or auto: under SLURM and Open MPI, the
    processes find each other."""
    num_processes: PositiveInt = 1
    """Number of processes; start each with the same command but for --process-id."""
    process_id: NonNegativeInt | None = None
    """Index of this process, from 0. Process 0 alone writes files."""

    def check(self) -> None:
        several = self.num_processes > 1
        if self.discovered:
            if several or self.process_id is not None:
                raise UsageError("--coordinator auto finds --num-processes and --process-id; leave them out.")
            return
        for flag, value in (("--coordinator", self.coordinator), ("--process-id", self.process_id)):
            if (value is not None) != several:
                raise UsageError(
                    f"{flag} {'is missing' if several else f'is {value}'} with --num-processes {self.num_processes}; "
                    "several processes need --coordinator HOST:PORT, --num-processes and --process-id, or, under SLURM "
                    "and Open MPI, --coordinator auto."
                )
        if self.process_id is not None and self.process_id >= self.num_processes:
            raise UsageError(f"--process-id is {self.process_id}; give 0 to {self.num_processes - 1}.")
        host, _, port = (self.coordinator or "host:1").rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UsageError(f"--coordinator is {self.coordinator}; give HOST:PORT, such as 10.0.0.1:9911.")


WHERE = ("out", "fresh", "devices", "coordinator", "num_processes", "process_id")
"""Options that say where and how a run is done, not what it computes."""


def plain(given: Any) -> dict[str, Any]:
    """The options that define what a run computes."""
    return {f.name: getattr(given, f.name) for f in dataclasses.fields(given) if f.name not in WHERE}


def parse(kind: type[T], arguments: Sequence[str], program: str, doc: str) -> T:
    """Options from a command line. `--quick` changes defaults, so what is given by hand wins over it."""
    import tyro

    quick = "--quick" in arguments and "--no-quick" not in arguments
    default = kind(quick=quick, **(kind.quick_defaults if quick else {}))  # pyright: ignore
    return tyro.cli(kind, args=list(arguments), default=default, prog=f"python -m {program}", description=spaced(doc))


def described(doc: str) -> dict[str, str]:
    """The title of a docstring and its fields (Question, Command, Minutes, Expected), each joined into one line.

    Example:

      >>> described("Loops.\\n\\nQuestion: how slow\\nis it?\\nMinutes: 1\\n\\nMore.")
      {'Title': 'Loops', 'Question': 'how slow is it?', 'Minutes': '1'}
    """
    found = {"Title": inspect.cleandoc(doc).split("\n", 1)[0].rstrip(".")}
    for paragraph in spaced(doc).split("\n\n"):
        name, colon, text = paragraph.strip("\n").partition(":")
        if colon and name in _FIELDS:
            found[name] = " ".join(text.split())
    return found


def spaced(doc: str) -> str:
    """The docstring with an empty line before each field, for help pages that join the lines of a paragraph."""
    lines = inspect.cleandoc(doc).split("\n")
    return "\n".join(f"\n{line}" if line.partition(":")[0] in _FIELDS else line for line in lines)


def listed(folder: Path) -> dict[str, dict[str, str]]:
    """Every module and package in `folder` whose docstring has a Question, by name; read, not imported."""
    found = {}
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")]):
        fields = described(ast.get_docstring(ast.parse(path.read_bytes())) or "")
        if "Question" in fields:
            found[path.parent.name if path.name == "__init__.py" else path.stem] = fields
    return dict(sorted(found.items()))


def print_list(folder: Path, package: str, more: str) -> None:
    """Prints each module's title and fields: what `python -m experiments` and `python -m benchmarks` say."""
    for name, fields in listed(folder).items():
        print(f"{name}: {fields.pop('Title')}")
        for field, text in fields.items():
            print(f"  {field + ':':<10} {text}")
        print()
    print(f"Run one with python -m {package}.NAME. {more}")

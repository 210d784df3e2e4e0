"""One contest: build everybody, compare everybody with the reference, then time those that may run."""

import dataclasses
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import equality
from benchmarks.harness.programs import Contestant, LeftOut, Program
from benchmarks.harness.statistics import Times
from benchmarks.harness.timing import Turn, interleave


@dataclasses.dataclass
class Entry:
    """What became of a contestant.

    Attributes:
      name: of the contestant.
      left_out: why it did not take part; empty if it did.
      fault: what was wrong with it: it failed, or its numbers were not those of the reference.
      checked: in words, how its numbers stand to the reference's.
      programs: by task.
      times: by task, of what was run.
    """

    name: str
    left_out: str = ""
    fault: str = ""
    checked: str = ""
    programs: dict[str, Program] = dataclasses.field(default_factory=dict)
    times: dict[str, Times] = dataclasses.field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        tasks = {}
        for task, program in self.programs.items():
            cost = {} if program.cost is None else dataclasses.asdict(program.cost)
            times = self.times[task].row() if task in self.times else {}
            tasks[task] = cost | ({"left_out": program.left_out} if program.left_out else {}) | times
        said = {"left_out": self.left_out, "fault": self.fault, "checked": self.checked}
        return {"name": self.name} | {name: text for name, text in said.items() if text} | {"tasks": tasks}


def contest(
    contestants: Sequence[Contestant],
    *,
    floor: Program | None = None,
    tolerance: float = 1e-4,
    **timing: Any,
) -> tuple[list[Entry], Times | None]:
    """Builds, compares and times.

    The first contestant that gives a task is the reference of that task. One whose numbers differ from it is refused:
    it gets no time. One that fails in any other way is named with its error, and the others go on.

    Args:
      contestants: the reference first.
      floor: timed in the same rounds, compared with nobody.
      tolerance: relative to the largest entry of each array.
      timing: rounds, sample_s, budget_s, seed of `interleave`.
    Returns:
      One entry a contestant, in their order, and the times of `floor`.
    """
    entries = [_built(contestant) for contestant in contestants]
    references: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for contestant, entry in zip(contestants, entries, strict=True):
        _guard(entry, lambda c=contestant, e=entry: _compare(c, e, references, tolerance))
    turns: dict[tuple[int, str], Turn] = {}
    for number, entry in enumerate(entries):
        if not entry.fault:
            for task, program in entry.programs.items():
                if not program.left_out:
                    turns[number, task] = Turn(program.call, program.settle_s, program.sample)
    if floor is not None:
        floor.call()
        turns[-1, "floor"] = Turn(floor.call)
    times = interleave(turns, **timing)
    for (number, task), measured in times.items():
        if number >= 0:
            entries[number].times[task] = measured
    return entries, times.get((-1, "floor"))


def _built(contestant: Contestant) -> Entry:
    entry = Entry(contestant.name)

    def build() -> None:
        entry.programs = dict(contestant.build())

    _guard(entry, build)
    return entry


def _compare(
    contestant: Contestant, entry: Entry, references: dict[str, tuple[str, Mapping[str, Any]]], tolerance: float
) -> None:
    """Runs each program once, and compares; this is also what warms it up."""
    said = []
    for task, program in entry.programs.items():
        if program.left_out or entry.fault:
            continue
        result = program.call()
        if contestant.unchecked:
            continue
        shared = program.shared(result)
        if task not in references:
            references[task] = (entry.name, shared)
            said.append(f"{task}: the reference")
            continue
        who, expected = references[task]
        error = equality.check(f"{entry.name}, {task},", shared, expected, tolerance)
        missing = sorted(set(expected) - set(shared))
        has_not = f", has no {', '.join(missing)}" if 0 < len(missing) <= 3 else ""
        said.append(f"{task}: equal to {who} within {error:.1e}{has_not}")
    entry.checked = f"not compared: {contestant.unchecked}" if contestant.unchecked else "; ".join(said)


def _guard(entry: Entry, work: Callable[[], None]) -> None:
    """Does `work` unless the entry is out already, and writes down how it ended."""
    if entry.left_out or entry.fault:
        return
    try:
        work()
    except LeftOut as reason:
        entry.left_out = str(reason)
    except equality.Unequal as error:
        entry.fault = f"refused: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(str(error).split())
        entry.fault = f"failed: {type(error).__name__}: {message[:300]} ({where.name}, line {where.lineno})"

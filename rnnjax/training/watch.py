"""Lines of metrics during training: passed to the caller, written to a file, and kept."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rnnjax.training.metrics import JsonLines, plain
from rnnjax.training.state import GOING_ON
from rnnjax.training.steps import Interval

Line = dict[str, Any]
"""One line of metrics: "step" (updates so far), "loss", "gradient_norm", ..."""


class Watch:
    """Collects the lines of one run.

    Attributes:
      history: the lines so far, including lines of earlier sessions from the file.
    """

    def __init__(self, reports: Sequence[Callable[[Line], None]], file: JsonLines | None) -> None:
        self._reports, self._file = reports, file
        self.history: list[Line] = [] if file is None else list(file.kept)

    def lines(
        self, before: int, every: int, interval: Interval, held: dict[str, Any], leaves: tuple[str, ...], most: int
    ) -> None:
        """Reports the lines of one dispatch, which started after `before` updates, and ended by update `most`."""
        count = len(interval.counted)
        for i in range(count):
            line: Line = {"step": min(before + (i + 1) * every, most)}
            line |= {name: plain(value) for name, value in measured(interval, i).items()}
            if int(interval.fault_step[i]) != GOING_ON:
                line["not_finite_step"] = int(interval.fault_step[i])
                line["not_finite"] = _culprits(interval.fault[i], leaves)
            if i == count - 1:
                line |= {f"held_out_{name}": plain(value) for name, value in held.items()}
            self._tell(line)
            if "not_finite" in line and int(interval.counted[i]) + int(interval.skipped[i]) < every:
                break  # the run stopped here

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _tell(self, line: Line) -> None:
        self.history.append(line)
        if self._file is not None:
            self._file.write(line)
        for report in self._reports:
            report(line)


@contextlib.contextmanager
def progress_bar(wanted: bool, done: int, steps: int) -> Iterator[Callable[[Line], None] | None]:
    """A function that shows a line of metrics; with several runs, the medians of its losses."""
    if not wanted:
        yield None
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError as error:
        raise ImportError("bar=True needs rich: pip install 'rnnjax[experiments]', or rich alone.") from error
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns) as progress:
        task = progress.add_task("", completed=done, total=steps)

        def show(line: Line) -> None:
            losses = {name: np.median(line[name]) for name in ("loss", "held_out_loss") if name in line}
            told = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            progress.update(task, completed=line["step"], description=told)

        yield show


def measured(interval: Interval, at: Any) -> dict[str, Any]:
    """The metrics of one line."""
    ends = {"gradient_norm_max": interval.gradient_norm_max, **interval.health, "skipped": interval.skipped}
    return {name: values[at] for name, values in {**interval.means, **ends}.items()}


def first_fault(interval: Interval, leaves: tuple[str, ...]) -> list[str]:
    """The non-finite leaves of the first non-finite update of a dispatch."""
    return _culprits(interval.fault[int(np.argmax(interval.fault_step != GOING_ON))], leaves)


def _culprits(flags: Any, leaves: tuple[str, ...]) -> list[str]:
    return [name for name, bad in zip(leaves, flags, strict=True) if bad]

"""How far the work is: a bar on a terminal, a line now and then in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[..., None]

_LINE_EVERY_SECONDS = 10.0


@contextlib.contextmanager
def progress(console: Console, label: str, total: int) -> Iterator[Advance]:
    """Yields `advance(steps=1, note="")`, to be called as pieces finish.

    Args:
      console: where to draw; on a terminal a bar with the time left, elsewhere plain lines at most every 10 s.
      label: what is counted, for example "cells".
      total: how many there are in all, finished ones from an earlier run included.
    """
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)
        return

    started = spoken = time.monotonic()
    done = 0

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, spoken
        done += steps
        now = time.monotonic()
        if now - spoken >= _LINE_EVERY_SECONDS or done >= total:
            spoken = now
            console.print(f"{label}: {done}/{total} after {now - started:.0f} s{'  ' + note if note else ''}")

    yield advance

"""Lines of metrics: kept, passed to the caller, shown, and written as JSON lines.

A number that JSON cannot represent becomes null, with its value in `<name>_reason`. When a run resumes, later lines and
an incomplete last line of the file are removed, so each step appears once.
"""

import contextlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Line = dict[str, Any]
"""One line of metrics: "step" (updates so far), "loss", "gradient_norm", ..."""


def plain(value: Any) -> Any:
    """Converts NumPy or JAX numbers and arrays to Python numbers and lists."""
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array.tolist()


def encode(line: Line) -> str:
    """One line of strict JSON, without a newline.

    Example:

      >>> encode({"step": 3, "loss": float("nan")})
      '{"step": 3, "loss": null, "loss_reason": "nan"}'
    """
    out: Line = {}
    for name, value in line.items():
        out[name] = value
        if isinstance(value, float) and not math.isfinite(value):
            out |= {name: None, f"{name}_reason": str(value)}
        elif isinstance(value, list):
            out[name] = [None if isinstance(v, float) and not math.isfinite(v) else v for v in value]
    return json.dumps(out, allow_nan=False, ensure_ascii=False)


def read(path: str | os.PathLike[str]) -> list[Line]:
    """The complete lines of a file; empty if there is no file."""
    found = []
    for text in Path(path).read_text(encoding="utf-8", errors="replace").split("\n") if Path(path).exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return [line for line in found if isinstance(line, dict)]


@contextlib.contextmanager
def log_to(path: str | os.PathLike[str] | None, step: int) -> Iterator[tuple[list[Line], Callable[[Line], None]]]:
    """The lines of the file up to a step, and a function that appends one; if the disk is full, it warns once."""
    if path is None:
        yield [], lambda line: None
        return
    path, lost = Path(path), 0
    kept = [line for line in read(path) if line.get("step", 0) <= step]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(encode(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)

    def append(line: Line) -> None:
        nonlocal lost
        text = (("\n" if lost else "") + encode(line) + "\n").encode()  # keeps an incomplete previous line separate
        try:
            written = file.write(text)
            if written != len(text):
                raise OSError(f"only {written} bytes of a line were written")
        except OSError as error:
            lost += 1
            if lost == 1:
                told = f"metrics cannot be written to {path}: {error.strerror or error}; training continues."
                warnings.warn(told, stacklevel=3)

    with path.open("ab", buffering=0) as file:
        yield kept, append


@contextlib.contextmanager
def progress_bar(wanted: bool, done: int, steps: int) -> Iterator[Callable[[Line], None]]:
    """A function that shows a line of metrics; with several runs, the medians of its losses."""
    if not wanted:
        yield lambda line: None
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

"""Metrics as JSON lines: one object a line, appended and flushed, readable by anything while the run goes on.

A number that JSON cannot hold becomes null, and `<name>_reason` says what it was. When a run resumes, lines from beyond
the step it resumes at are cut off, and so is a torn last line: each step is told once.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A NumPy or JAX number, or an array of them, as Python's own."""
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array.tolist()


def encode(line: Mapping[str, Any]) -> str:
    """One line of strict JSON, without its newline.

    Example:

      >>> encode({"step": 3, "loss": float("nan")})
      '{"step": 3, "loss": null, "loss_reason": "nan"}'
    """
    out: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, float) and not math.isfinite(value):
            out[name], out[f"{name}_reason"] = None, str(value)
        elif isinstance(value, list):
            out[name] = [None if isinstance(v, float) and not math.isfinite(v) else v for v in value]
            lost = {str(v) for v in value if isinstance(v, float) and not math.isfinite(v)}
            if lost:
                out[f"{name}_reason"] = ", ".join(sorted(lost))
        else:
            out[name] = value
    return json.dumps(out, allow_nan=False, ensure_ascii=False)


class JsonLines:
    """Appends lines to a file.

    Args:
      path: the file; its folder must exist.
      keep_until: lines of a `step` beyond this are dropped first; None keeps nothing.
    """

    def __init__(self, path: str | os.PathLike[str], keep_until: int | None = None) -> None:
        self._path = Path(path)
        kept = [] if keep_until is None else [line for line in read(self._path) if line.get("step", 0) <= keep_until]
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.write_text("".join(encode(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(encode(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a file that are whole; none if there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            found.append(line)
    return found

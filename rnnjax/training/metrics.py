"""Metrics as JSON lines: one object per line, flushed at once, so that the file is readable during the run.

A number that JSON cannot represent becomes null, with its value in `<name>_reason`. When a run resumes, later lines and
an incomplete last line are removed, so each step appears once.
"""

import contextlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Converts NumPy or JAX numbers and arrays to Python numbers and lists."""
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array.tolist()


def encode(line: Mapping[str, Any]) -> str:
    """One line of strict JSON, without a newline.

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
    """Appends lines to a file. If the disk is full, training continues, lines are lost, and one warning is given.

    Args:
      path: the file; its folder must exist.
      keep_until: existing lines with a later `step` are removed first.

    Attributes:
      kept: the existing lines that were kept.
    """

    def __init__(self, path: str | os.PathLike[str], keep_until: int) -> None:
        self._path, self._lost = Path(path), 0
        self.kept = [line for line in read(self._path) if line.get("step", 0) <= keep_until]
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.write_text("".join(encode(line) + "\n" for line in self.kept), encoding="utf-8")
        os.replace(temporary, self._path)
        self._file = self._path.open("ab", buffering=0)

    def write(self, line: Mapping[str, Any]) -> None:
        text = ("\n" if self._lost else "") + encode(line) + "\n"  # keeps an incomplete previous line separate
        try:
            written = self._file.write(text.encode())
            if written != len(text.encode()):
                raise OSError(f"only {written} bytes of a line were written")
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                reason = error.strerror or error
                warnings.warn(f"metrics cannot be written to {self._path}: {reason}; training continues.", stacklevel=4)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The complete lines of a file; empty if there is no file."""
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

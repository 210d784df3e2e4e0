"""Results as JSON that every reader accepts, written whole or not at all."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def strict(value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that JSON can hold. NaN and infinity become null, and `not_finite` at the top lists where they were.

    Example:

      >>> strict({"ratio": float("inf"), "n": 2})
      {'ratio': None, 'n': 2, 'not_finite': ['ratio: inf']}

    Raises:
      TypeError: a value without a JSON form, or a key that is not text.
    """
    lost: list[str] = []
    converted = _convert(value, "", lost)
    return converted | ({"not_finite": lost} if lost else {})


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Writes `strict(value)`; a reader sees the file as it was or as it will be, never half of it."""
    text = json.dumps(strict(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` in one move; makes its folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _convert(item: Any, place: str, lost: list[str]) -> Any:
    if item is None or isinstance(item, bool | str):
        return item
    if isinstance(item, Mapping):
        if bad := [key for key in item if not isinstance(key, str)]:
            raise TypeError(f"{place or 'the result'} has the key {bad[0]!r}; JSON keys are text.")
        return {key: _convert(part, f"{place}.{key}" if place else key, lost) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [_convert(part, f"{place}[{i}]", lost) for i, part in enumerate(item)]
    if isinstance(item, np.ndarray | np.generic):
        return _convert(item.tolist(), place, lost)
    if isinstance(item, int):
        return int(item)
    if isinstance(item, float):
        if math.isfinite(item):
            return float(item)
        lost.append(f"{place}: {item}")
        return None
    raise TypeError(f"{place} is {type(item).__name__}, which JSON cannot hold.")

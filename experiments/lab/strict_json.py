"""JSON that every reader accepts: no `NaN` or `Infinity` tokens, and no file that is half written.

A number that JSON cannot hold becomes `null`, and the reason goes beside it under `<key>_reason`:

  >>> strict({"loss": float("nan"), "norms": [1.0, float("inf")]})
  {'loss': None, 'loss_reason': 'NaN', 'norms': [1.0, None], 'norms_reason': '1 of 2 not finite: +inf at [1]'}
"""

import dataclasses
import enum
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_SHOWN = 3  # places named in a reason; the count is always whole


def strict(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping of plain JSON values, equal to `value` wherever JSON can say it.

    Arrays (NumPy or JAX) become nested lists, dataclasses and `NamedTuple`s become mappings, paths and enums become
    strings. Non-finite numbers become None, with `<key>_reason` beside the nearest key above them.

    Args:
      value: a mapping with string keys, nested as deep as wanted.
    Returns:
      A new `dict`; `value` is left alone.
    Raises:
      TypeError: a key is not a string, or a value has no JSON form.
    """
    result: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"JSON keys are strings, but {key!r} is {type(key).__name__}; write str(key).")
        lost: list[str] = []
        result[key] = _convert(item, key, (), lost)
        if lost and f"{key}_reason" not in value:
            result[f"{key}_reason"] = _reason(lost, item)
    return result


def _convert(item: Any, key: str, place: tuple[int, ...], lost: list[str]) -> Any:
    if item is None or isinstance(item, bool | str):
        return item
    if isinstance(item, enum.Enum):
        return _convert(item.value, key, place, lost)
    if isinstance(item, int):
        return int(item)
    if isinstance(item, float):
        if math.isfinite(item):
            return float(item)
        name = "NaN" if math.isnan(item) else "+inf" if item > 0 else "-inf"
        lost.append(name + (" at [" + ", ".join(map(str, place)) + "]" if place else ""))
        return None
    if isinstance(item, os.PathLike):
        return os.fspath(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return strict({field.name: getattr(item, field.name) for field in dataclasses.fields(item)})
    if isinstance(item, tuple) and (names := getattr(item, "_fields", None)):
        return strict(dict(zip(names, item, strict=True)))
    if isinstance(item, Mapping):
        return strict(item)
    if isinstance(item, list | tuple):
        return [_convert(part, key, (*place, i), lost) for i, part in enumerate(item)]
    if hasattr(item, "__array__"):
        array = np.asarray(item)
        if array.dtype.kind not in "biufU" and array.dtype.name != "bfloat16":
            raise TypeError(f"{key!r} holds an array of {array.dtype}, which JSON cannot hold.")
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        return _convert(array.tolist(), key, place, lost)
    raise TypeError(f"{key!r} is {type(item).__name__}, which has no JSON form; make it numbers, text or lists.")


def _reason(lost: list[str], item: Any) -> str:
    if " at " not in lost[0]:
        return lost[0]
    shown = ", ".join(lost[:_SHOWN]) + (", ..." if len(lost) > _SHOWN else "")
    return f"{len(lost)} of {np.size(np.asarray(item, dtype=object))} not finite: {shown}"


def canonical(value: Mapping[str, Any]) -> str:
    """The same text for equal mappings: sorted keys, no spaces. What hashes are taken of."""
    return json.dumps(strict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Writes `value` as indented strict JSON, all of it or nothing (see `write_bytes`)."""
    text = json.dumps(strict(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` in one move: a reader, or a run killed half way, sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

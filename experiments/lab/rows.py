"""Finished rows: kept on the disk, found again by what they depend on.

A row is one finished piece of work. Its key is the SHA-256 of the arguments that asked for it and of its identity: the
code of the measuring function and of all that it reaches, versions, platform, and precision. A row made by other code
or another JAX has another key. It is left alone and computed again, never mixed in.

On the disk, `rows.jsonl` has one line of strict JSON per row, flushed before `put` returns, with a checksum. Arrays are
in `rows/*.npz`, one file for the rows that were computed together, whose SHA-256 each line names. A torn last line (the
process was killed while it wrote) is cut off; a damaged line or array file counts as not computed.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import processes, strict_json

Asked = Mapping[str, Any]


class Row(dict[str, Any]):
    """Arguments, values and arrays of a finished row in one mapping.

    Values have been through strict JSON, so a fresh row and a reloaded one are equal: tuples are lists, and a number
    that is not finite is None, with the reason under `<name>_reason`.

    Attributes:
      seconds: what computing it took when it was computed; None for a row that the store has not seen.
    """

    seconds: float | None = None

    def __init__(self, asked: Asked, values: Asked, arrays: Asked) -> None:
        super().__init__({**asked, **values, **arrays})
        self.asked, self.values_alone, self.arrays = dict(asked), dict(values), dict(arrays)

    def __reduce__(self) -> Any:
        return Row, (self.asked, self.values_alone, self.arrays)

    @property
    def plain(self) -> dict[str, Any]:
        """Arguments and values, without the arrays: a line of a table or of `summary.json`."""
        return {**self.asked, **self.values_alone}


class Rows(list[Row]):
    """The rows of a run."""

    def frame(self) -> Any:
        """A pandas DataFrame with a line per row, without the arrays."""
        import pandas

        return pandas.DataFrame([row.plain for row in self])


class Store:
    """The rows of a folder, or of this process alone if `folder` is None. Hold the folder's lock while it is open.

    Attributes:
      computed, reused: how many rows were put by this process, and how many were found.
      seconds: what computing these rows took.
      damaged: lines on the disk that did not pass their checksum.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._shared = folder, False
        self._rows: dict[str, tuple[Row, float]] = {}
        self._known: set[tuple[str, str]] = set()
        self.computed = self.reused = self.damaged = 0
        self.seconds = 0.0
        if folder is not None and (folder / "rows.jsonl").exists():
            self._load(folder)

    def share(self) -> None:
        """From now on every process holds the rows of process 0, which alone reads and writes them."""
        self._shared = True
        self._rows, self._known = processes.from_coordinator((self._rows, self._known))

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def has_other(self, name: str, asked: Asked) -> bool:
        """Whether the folder had a row of this function with these arguments, made by any code."""
        return (name, strict_json.canonical(asked)) in self._known

    def take(self, key: str, count: bool = True) -> Row:
        """The finished row with this key, counted as reused if `count`."""
        row, seconds = self._rows[key]
        self.reused += count
        self.seconds += seconds
        row.seconds = seconds
        return row

    def put(self, name: str, entries: Sequence[tuple[str, Asked, Asked, Asked]], seconds: float) -> None:
        """Keeps the rows of one call, on the disk when it returns: (key, identity, arguments, results) each."""
        rows, arrays = {}, {}
        for number, (key, _, asked, results) in enumerate(entries):
            own = {
                k: np.asarray(value) for k, value in results.items() if hasattr(value, "__array__") and np.ndim(value)
            }
            values = strict_json.strict({k: value for k, value in results.items() if k not in own})
            rows[key] = Row(strict_json.strict(asked), values, own), seconds / len(entries)
            arrays |= {f"{number}/{k}": array for k, array in own.items()}
        if self._folder is not None:
            file = {"file": f"{entries[0][0]}.npz", "sha256": self._save(entries[0][0], arrays)} if arrays else None
            lines = []
            for number, (key, identity, _, _) in enumerate(entries):
                row = rows[key][0]
                line = {"key": key, "function": name, **identity, "asked": row.asked, "values": row.values_alone}
                line |= {"seconds": seconds / len(entries), "arrays": file and file | {"prefix": f"{number}/"}}
                lines.append(json.dumps(line | {"check": _checksum(line)}, allow_nan=False) + "\n")
            with open(self._folder / "rows.jsonl", "ab") as stream:
                stream.write("".join(lines).encode())
                stream.flush()
                os.fsync(stream.fileno())
        self._rows |= processes.from_coordinator(rows) if self._shared else rows
        self.computed += len(rows)

    def _save(self, name: str, arrays: Mapping[str, np.ndarray]) -> str:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        assert self._folder is not None
        (self._folder / "rows").mkdir(exist_ok=True)
        strict_json.write_bytes(self._folder / "rows" / f"{name}.npz", buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    def _load(self, folder: Path) -> None:
        data = (folder / "rows.jsonl").read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(folder / "rows.jsonl", len(whole))
        loaded: dict[str, dict[str, np.ndarray] | None] = {}
        for text in whole.splitlines():
            line = _read_line(text)
            of = line and line["arrays"]
            if of and of["file"] not in loaded:
                loaded[of["file"]] = _load_arrays(folder / "rows" / of["file"], of["sha256"])
            arrays = loaded[of["file"]] if of else {}
            if line is None or arrays is None:
                self.damaged += 1
                continue
            start = of["prefix"] if of else ""
            own = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
            self._rows[line["key"]] = Row(line["asked"], line["values"], own), line["seconds"]
            self._known.add((line["function"], strict_json.canonical(line["asked"])))


def discard(folder: Path) -> None:
    """Removes all rows of a folder."""
    (folder / "rows.jsonl").unlink(missing_ok=True)
    shutil.rmtree(folder / "rows", ignore_errors=True)


def key_of(name: str, identity: Asked, asked: Asked) -> str:
    """The stable name of a row: 24 hex digits, the same in every process."""
    text = strict_json.canonical({"function": name, **identity, "asked": dict(asked)})
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _load_arrays(path: Path, sha256: str) -> dict[str, np.ndarray] | None:
    if not path.exists() or hashlib.sha256(data := path.read_bytes()).hexdigest() != sha256:
        return None
    with np.load(io.BytesIO(data)) as file:
        return {name: file[name] for name in file.files}


def _checksum(line: Asked) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:16]


def _read_line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        check = line.pop("check")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return line if check == _checksum(line) else None

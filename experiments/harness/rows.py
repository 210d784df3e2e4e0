"""Finished rows, kept one line each, so that a run which stops goes on where it was.

A row is one finished piece of work: the options that define it, the numbers that came out, and perhaps arrays. It is
found again by

    key = SHA-256(identity, options)

where `identity` is what else the numbers depend on (experiment, code, versions, platform, float64 or not). A row made
by other code or another JAX has another key: it is left alone and computed anew, never mixed in.

On disk: `rows.jsonl`, one strict-JSON line a row, flushed to the disk before `put` returns; arrays in
`rows/<key>.npz`. Each line carries a checksum, and the line names its array file's. A torn last line (the process was
killed while it wrote) is cut off; a damaged line or array file counts as not computed.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness import strict_json

Values = Mapping[str, Any]
Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One finished row. `values` has been through strict JSON, so a fresh row and a reloaded one are equal."""

    key: str
    options: dict[str, Any]
    values: dict[str, Any]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def flat(self) -> dict[str, Any]:
        """Options and values in one mapping, as a line of a table or of `summary["rows"]`."""
        return {**self.options, **self.values}


class RowStore:
    """The rows of one run folder. Open it with the folder's lock held; two writers are not supported.

    Attributes:
      reused: how many rows were found instead of computed.
      computed: how many were put by this process.
      stale: lines on disk made by other code, versions or options than this run's rows.
      damaged: lines on disk that did not pass their checksum.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._path = folder / "rows.jsonl"
        self._arrays = folder / "rows"
        self._identity = dict(identity)
        self._rows: dict[str, Row] = {}
        self._seen: set[str] = set()
        self.reused = self.computed = self.damaged = 0
        self._mark = hashlib.sha256(strict_json.canonical(self._identity).encode()).hexdigest()[:16]
        self.stale = self._load()

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, options: Values) -> str:
        """The stable name of a row: 24 hex digits, the same in every process."""
        text = strict_json.canonical({"identity": self._identity, "options": dict(options)})
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def get(self, options: Values) -> Row | None:
        """The finished row with these options, or None."""
        row = self._rows.get(self.key(options))
        if row is not None and row.key not in self._seen:
            self._seen.add(row.key)
            self.reused += 1
        return row

    def missing(self, options: Iterable[Values]) -> list[Values]:
        """Those of `options` that are still to be computed, in order."""
        return [each for each in options if self.key(each) not in self._rows]

    def compute(self, options: Values, work: Callable[[], Values | tuple[Values, Arrays]]) -> Row:
        """The finished row, or `work()` done now and kept. `work` returns values, or (values, arrays)."""
        row = self.get(options)
        if row is not None:
            return row
        result = work()
        values, arrays = result if isinstance(result, tuple) else (result, {})
        return self.put(options, values, arrays)

    def put(self, options: Values, values: Values, arrays: Arrays | None = None) -> Row:
        """Keeps one row; it is on the disk when this returns."""
        return self.put_many([(options, values, arrays or {})])[0]

    def put_many(self, rows: Iterable[tuple[Values, Values, Arrays]]) -> list[Row]:
        """Keeps the rows of one compiled program together: one write, one flush to the disk."""
        done: list[Row] = []
        lines: list[str] = []
        for options, values, arrays in rows:
            plain = {name: np.asarray(array) for name, array in arrays.items()}
            body = {
                "key": self.key(options),
                "identity": self._mark,
                "options": strict_json.strict(options),
                "values": strict_json.strict(values),
                "arrays_sha256": self._save_arrays(self.key(options), plain) if plain else None,
            }
            lines.append(json.dumps({**body, "check": _checksum(body)}, allow_nan=False) + "\n")
            done.append(Row(body["key"], body["options"], body["values"], plain))
        with open(self._path, "ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
        for row in done:
            self._rows[row.key] = row
            self._seen.add(row.key)
        self.computed += len(done)
        return done

    def _save_arrays(self, key: str, arrays: Mapping[str, np.ndarray]) -> str:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        self._arrays.mkdir(exist_ok=True)
        strict_json.write_bytes(self._arrays / f"{key}.npz", buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    def _load(self) -> int:
        """Reads what is there, cuts a torn tail off, and returns how many lines have another identity."""
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        stale = 0
        for line in whole.splitlines():
            body = _read_line(line)
            if body is None:
                self.damaged += 1
            elif body["identity"] != self._mark:
                stale += 1
            else:
                arrays = self._load_arrays(body["key"], body["arrays_sha256"])
                if arrays is None:
                    self.damaged += 1
                else:
                    self._rows[body["key"]] = Row(body["key"], body["options"], body["values"], arrays)
        return stale

    def _load_arrays(self, key: str, sha256: str | None) -> dict[str, np.ndarray] | None:
        if sha256 is None:
            return {}
        path = self._arrays / f"{key}.npz"
        if not path.exists():
            return None
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        with np.load(io.BytesIO(data)) as file:
            return {name: file[name] for name in file.files}


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _read_line(line: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
        check = body.pop("check")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return body if check == _checksum(body) else None

"""A manifest with the SHA-256 of every file in a folder, and a hash of the manifest itself.

    manifest.json            a description of the checkpoint, and {file: sha256} of every other file
    manifest.json.sha256     the hash of manifest.json, in the format of `sha256sum -c`

It detects every flipped bit, truncated file, and missing or added file.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "manifest.json"
_SEAL = NAME + ".sha256"


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest with `content` and the hash of every file in `folder`, and syncs all files to disk."""
    found = {name: _sha256(folder / name) for name in _files(folder)}
    text = json.dumps({**content, "files": found}, indent=1, sort_keys=True, allow_nan=False).encode()
    (folder / NAME).write_bytes(text)
    (folder / _SEAL).write_bytes(_seal(text))
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def check(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns `(content, problems)`; without problems, every byte is as written."""
    try:
        text, seal = (folder / NAME).read_bytes(), (folder / _SEAL).read_bytes()
    except OSError as error:
        return {}, [f"{Path(str(error.filename or folder)).name}: {error.strerror}"]
    if seal != _seal(text):
        return {}, [f"{NAME} does not match {_SEAL}"]
    content = json.loads(text)
    listed: dict[str, str] = content.pop("files")
    problems, there = [], set(_files(folder))
    problems += [f"{name} is missing" for name in sorted(listed.keys() - there)]
    problems += [f"{name} was not there when it was written" for name in sorted(there - listed.keys())]
    for name in sorted(there & listed.keys()):
        try:
            if _sha256(folder / name) != listed[name]:
                problems.append(f"{name} has other bytes than were written")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    return content, problems


def sync(path: Path) -> None:
    """Syncs a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> list[str]:
    paths = [path for path in folder.rglob("*") if not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    return sorted(name for name in names if name not in (NAME, _SEAL))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(text: bytes) -> bytes:
    return f"{hashlib.sha256(text).hexdigest()}  {NAME}\n".encode()

"""A folder that can tell whether it is still what was written: the SHA-256 of every file in it, and of the list itself.

    manifest.json            what the checkpoint holds, and {file: sha256} of every other file
    manifest.json.sha256     the hash of manifest.json, as `sha256sum -c` reads it

Compared byte by byte, so that any flipped bit, any cut-off end, any file lost or added shows.
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
    """Lists every file in `folder` beside `content`, seals the list, and pushes all of it to the disk."""
    found = {name: _sha256(folder / name) for name in _files(folder)}
    text = json.dumps({**content, "files": found}, indent=1, sort_keys=True, allow_nan=False).encode()
    (folder / NAME).write_bytes(text)
    (folder / _SEAL).write_bytes(_seal(text))
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def check(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """`(content, problems)`; with no problems every byte is as it was written."""
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
    """Pushes a file, or a folder's list of names, to the disk."""
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

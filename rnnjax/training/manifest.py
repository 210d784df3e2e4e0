"""A folder of arrays, written by Orbax, with a manifest that has the SHA-256 of every file.

    arrays/                  as Orbax lays them out
    manifest.json            a description of the arrays, and {file: sha256} of every other file
    manifest.json.sha256     the hash of manifest.json, in the format of `sha256sum -c`, written last

The manifest detects every flipped bit, truncated file, and missing or added file. Of Orbax's interfaces, we use the
stable one, since only it can run in one process of several: v1's save has a collective of all processes.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnjax.training.flat import CheckpointError, is_shared

NAME, SEAL, FORMAT = "manifest.json", "manifest.json.sha256", 2


def orbax(*, together: bool = False) -> tuple[Any, Any]:
    """`(orbax.checkpoint, its options for one process alone, or for all together)`."""
    from orbax import checkpoint  # takes a second or more to import, and few runs need it

    me = jax.process_index()
    alone = {"primary_host": me, "active_processes": {me}, "barrier_sync_key_prefix": f"process_{me}"}
    return checkpoint, checkpoint.options.MultiprocessingOptions(**({} if together else alone))


def disk(*, together: bool = False) -> Any:
    """Orbax's `Checkpointer`, to be used in a `with` block."""
    checkpoint, options = orbax(together=together)
    handler = checkpoint.StandardCheckpointHandler(multiprocessing_options=options)
    return checkpoint.Checkpointer(handler, multiprocessing_options=options)


def stored_as(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Names on disk that no file format misinterprets."""
    return {name: f"leaf-{i}" for i, name in enumerate(sorted(arrays))}


def to_save(arrays: Mapping[str, Any]) -> Any:
    """Orbax's arguments for the arrays that are not empty, which it rejects."""
    stored = stored_as(arrays)
    return orbax()[0].args.StandardSave({stored[name]: array for name, array in arrays.items() if array.size})


def load(path: Path, like: Mapping[str, Any], stored: Mapping[str, str]) -> dict[str, Any]:
    """Loads arrays of the shapes and dtypes of `like`, in one process, or in all if an array is sharded over them."""
    checkpoint, _ = orbax()
    wanted, found = {}, {}
    for name, leaf in like.items():
        found[name] = np.empty(leaf.shape, leaf.dtype)
        if leaf.size:
            shards = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) if is_shared(leaf) else None
            wanted[stored.get(name, name)] = shards or found[name]
    path = path / "state" if (path / "state").is_dir() else path  # as format 1 has it
    with disk(together=any(map(is_shared, like.values()))) as opened:
        arrays = opened.restore(path, args=checkpoint.args.StandardRestore(wanted))
    return {name: arrays.get(stored.get(name, name), empty) for name, empty in found.items()}


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest with `content` and the hash of every file in `folder`, and syncs all of it to disk."""
    content = {"format": FORMAT, "versions": {"jax": jax.__version__, "numpy": np.__version__}, **content}
    text = json.dumps({**content, "files": _files(folder)}, indent=1, sort_keys=True, allow_nan=False).encode()
    (folder / NAME).write_bytes(text)
    (folder / SEAL).write_bytes(_seal(text))
    for path in (*folder.rglob("*"), folder, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def check(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns `(content, problems)`; without problems, every byte is as written.

    Raises:
      CheckpointError: the manifest is intact, but of a later version.
    """
    try:
        text, seal = (folder / NAME).read_bytes(), (folder / SEAL).read_bytes()
        if seal != _seal(text):
            return {}, [f"{NAME} does not match {SEAL}"]
        content, found = json.loads(text), _files(folder)
    except OSError as error:
        return {}, [f"{Path(str(error.filename or folder)).name}: {error.strerror}"]
    if content.get("format", 1) > FORMAT:
        raise CheckpointError(f"{folder} was written by a later rnnjax; update rnnjax, or use another folder.")
    listed: dict[str, str] = content.pop("files")
    ways = {(False, True): "is missing", (True, False): "was not there when it was written"}
    names = [name for name in sorted(found.keys() | listed.keys()) if found.get(name) != listed.get(name)]
    why = [ways.get((name in found, name in listed), "has other bytes than were written") for name in names]
    return content, [f"{name} {each}" for name, each in zip(names, why, strict=True)]


def _files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file."""
    paths = [path for path in folder.rglob("*") if not path.is_dir() and path.name not in (NAME, SEAL)]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _seal(text: bytes) -> bytes:
    return f"{hashlib.sha256(text).hexdigest()}  {NAME}\n".encode()

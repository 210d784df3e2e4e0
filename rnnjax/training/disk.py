"""Trees of arrays in folders, written by Orbax, with a manifest that has the SHA-256 of every file.

    arrays/                  as Orbax lays them out
    manifest.json            a description of the arrays, and {file: sha256} of every other file
    manifest.json.sha256     the hash of manifest.json, in the format of `sha256sum -c`, written last

It detects every flipped bit, truncated file, and missing or added file, which Orbax does not. Of Orbax's interfaces, we
use the stable one, since only it can run in one process of several: v1's save has a collective of all processes.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnjax.cell import PyTree
from rnnjax.training.faults import CheckpointError, leaf_names

NAME, SEAL, FORMAT = "manifest.json", "manifest.json.sha256", 4
StrPath = str | os.PathLike[str]


def flatten(tree: PyTree) -> tuple[dict[str, Any], dict[str, str]]:
    """`({name: NumPy array}, {name: "[shape] dtype"})`; of keys, the data; shapes and sharded arrays as they are."""
    arrays, kinds = {}, {}
    both = map(jax.tree.leaves, (tree, optax.tree.unwrap_random_key_data(tree)))
    for name, leaf, data in zip(leaf_names(tree), *both, strict=True):
        if name in arrays:
            raise ValueError(f"two leaves are named {name}, and only one of them could be saved: rename one.")
        arrays[name] = data if isinstance(data, jax.ShapeDtypeStruct) or is_shared(data) else np.asarray(data)
        kinds[name] = f"{list(arrays[name].shape)} {getattr(leaf, 'dtype', arrays[name].dtype)}"
    return arrays, kinds


def unflatten(template: PyTree, arrays: Mapping[str, Any]) -> PyTree:
    """Puts the arrays into the structure of `template`, on the devices to which its leaves are committed."""
    names = iter(leaf_names(template))
    return jax.tree.map(lambda leaf: _like(leaf, arrays[next(names)], getattr(leaf, "committed", False)), template)


def local(tree: PyTree) -> PyTree:
    """Moves arrays that several devices hold whole to this process's default device, uncommitted."""

    def moved(leaf: Any, data: Any) -> Any:
        whole = len(leaf.sharding.device_set) > 1 and leaf.is_fully_replicated
        return _like(leaf, np.asarray(data)) if whole else leaf

    return jax.tree.map(moved, tree, optax.tree.unwrap_random_key_data(tree))


def is_shared(leaf: Any) -> bool:
    """Whether no process holds the whole array."""
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _like(leaf: Any, array: Any, committed: bool = False) -> jax.Array:
    array = jax.device_put(array, leaf.sharding) if committed else jnp.asarray(array)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_key else array


def orbax(together: bool = False) -> tuple[Any, Any, Any]:
    """Orbax, its options for this process alone or for all together, and its `Checkpointer`, for a `with` block."""
    from orbax import checkpoint  # takes a second or more to import, and few runs need it

    me = jax.process_index()
    alone = {"primary_host": me, "active_processes": {me}, "barrier_sync_key_prefix": f"process_{me}"}
    options = checkpoint.options.MultiprocessingOptions(**({} if together else alone))
    handler = checkpoint.StandardCheckpointHandler(multiprocessing_options=options)
    return checkpoint, options, checkpoint.Checkpointer(handler, multiprocessing_options=options)


def stored(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays under names that no file system misinterprets, without empty ones, which Orbax rejects."""
    return {f"leaf-{i}": arrays[name] for i, name in enumerate(sorted(arrays)) if arrays[name].size}


def load(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Loads arrays of the shapes and dtypes of `like`, in one process, or in all if an array is sharded over them."""
    checkpoint, _, disk = orbax(any(map(is_shared, like.values())))
    wanted = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in like.items() if not is_shared(leaf)}
    with disk:
        found = disk.restore(folder / "arrays", args=checkpoint.args.StandardRestore(stored({**like, **wanted})))
    return {name: found.get(f"leaf-{i}", wanted.get(name)) for i, name in enumerate(sorted(like))}


def seal(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest with `content` and the hash of every file in `folder`, and syncs all of it to disk."""
    content = {"format": FORMAT, "jax": jax.__version__, **content, "files": _files(folder)}
    text = json.dumps(content, indent=1).encode()
    (folder / NAME).write_bytes(text)
    (folder / SEAL).write_bytes(_seal(text))
    for path in (*folder.rglob("*"), folder, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def check(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns `(content, problems)`; without problems, every byte is as written. Raises if it is of another version."""
    try:
        text = (folder / NAME).read_bytes()
        if (folder / SEAL).read_bytes() != _seal(text):
            return {}, [f"{NAME} does not match {SEAL}"]
        content, found = json.loads(text), _files(folder)
    except OSError as error:
        return {}, [f"{Path(str(error.filename or folder)).name}: {error.strerror}"]
    if content["format"] != FORMAT:
        told = f"{folder} was written by {'a later' if content['format'] > FORMAT else 'an earlier'} rnnjax"
        raise CheckpointError(f"{told}; use that version, or another folder.")
    listed: dict[str, str] = content["files"]
    why = dict.fromkeys(listed.keys() - found.keys(), "is missing")
    why |= dict.fromkeys(found.keys() - listed.keys(), "was not there when it was written")
    why |= {name: "has other bytes than were written" for name in found.keys() & listed if found[name] != listed[name]}
    return content, [f"{name} {why[name]}" for name in sorted(why)]


def check_fit(saved: Mapping[str, Any], here: Mapping[str, Any], told: str) -> None:
    """Raises a CheckpointError that names the entries that differ, unless all are equal."""
    names = sorted(saved.keys() | here.keys(), key=lambda name: (not name.startswith("params"), name))
    both = [(name, saved.get(name, "absent"), here.get(name, "absent")) for name in names]
    if lines := [f"{name}: {a} in the checkpoint, {b} in this run" for name, a, b in both if a != b]:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise CheckpointError(f"{told}: {'; '.join(lines[:5])}{more}. Use what it was saved with, or another folder.")


def _files(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if not path.is_dir() and path.name not in (NAME, SEAL)]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _seal(text: bytes) -> bytes:
    return f"{hashlib.sha256(text).hexdigest()}  {NAME}\n".encode()

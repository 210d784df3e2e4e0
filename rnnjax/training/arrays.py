"""Saves and loads named arrays with Orbax. With several processes, only the calling process takes part."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

_ORDINARY = re.compile(r"(?!.{200})[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")


def stored_as(names: Iterable[str]) -> dict[str, str]:
    """Names on disk for arrays whose own names a file format could misinterpret or reject.

    Example:

      >>> stored_as(["rnn/w_h", "", "../w"])
      {'': 'leaf-0', '../w': 'leaf-1'}
    """
    return {name: f"leaf-{i}" for i, name in enumerate(n for n in sorted(names) if not _ORDINARY.fullmatch(n))}


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays, each under its name or its replacement in `stored_as`."""
    from orbax.checkpoint import v1 as orbax  # takes a second or more to import, and few runs need it

    stored = stored_as(arrays)
    content = {
        stored.get(name, name): array for name, array in arrays.items() if array.size
    }  # Orbax rejects empty ones
    with _by_this_process():
        orbax.save(str(path), content)


def load_arrays(path: Path, like: Mapping[str, np.ndarray], stored: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Loads arrays with the shapes of `like`; `stored` must be as when they were saved."""
    from orbax.checkpoint import v1 as orbax

    there = {name: stored.get(name, name) for name, array in like.items() if array.size}
    wanted = {there[name]: np.empty(like[name].shape, like[name].dtype) for name in there}
    with _by_this_process():
        found = orbax.load(str(path), wanted)
    return {**like, **{name: found[there[name]] for name in there}}


@contextlib.contextmanager
def _by_this_process() -> Iterator[None]:
    """Restricts Orbax to this process; by default it waits for all processes.

    Orbax 0.12 still compares the paths of all processes, in a collective that no other process joins. This comparison
    is disabled here, since only one process has a path.
    """
    if jax.process_count() == 1:
        yield
        return
    from orbax.checkpoint import v1 as orbax
    from orbax.checkpoint.experimental.v1._src.saving import execution

    me, name = jax.process_index(), "_check_directory_consistency"
    alone = orbax.Context()
    alone.multiprocessing.primary_host = me
    alone.multiprocessing.active_processes = {me}
    alone.multiprocessing.barrier_sync_key_prefix = f"process_{me}"
    compares = getattr(execution, name, None)
    try:
        if compares is not None:
            setattr(execution, name, lambda directory: None)
        with alone:
            yield
    finally:
        if compares is not None:
            setattr(execution, name, compares)

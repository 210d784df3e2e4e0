"""Named arrays on the disk, by Orbax; of several processes, the work of the one that calls."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from orbax.checkpoint import v1 as orbax  # a second or more to import, and few runs need it

    with _by_this_process():
        orbax.save(str(path), {name: array for name, array in arrays.items() if array.size})  # it refuses empty ones


def load_arrays(path: Path, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from orbax.checkpoint import v1 as orbax

    wanted = {name: np.empty(array.shape, array.dtype) for name, array in like.items() if array.size}
    with _by_this_process():
        return {**like, **orbax.load(str(path), wanted)}


@contextlib.contextmanager
def _by_this_process() -> Iterator[None]:
    """Tells Orbax, which would wait for all processes, that no other takes part.

    Orbax 0.12 compares the paths of all processes, even of those that it was told take no part: a collective that
    nobody answers. It is left out here, where the one path is that of the one process.
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

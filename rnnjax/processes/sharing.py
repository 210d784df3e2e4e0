"""What processes tell each other outside of training: bytes from process 0, a flag of any, and whether all agree.

Each call is a collective: every process makes the same calls in the same order. With one process they are free.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def from_leader(data: bytes) -> bytes:
    """What process 0 passed in, in every process.

    Example:

      >>> from_leader(b"of one process")
      b'of one process'
    """
    if jax.process_count() == 1:
        return data
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.array(len(data), np.int32)))
    if size == 0:
        return b""
    mine = np.frombuffer(data.ljust(size, b"\0")[:size], np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(mine)).astype(np.uint8).tobytes()


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; the same answer in all.

    Example:

      >>> any_process(False)
      False
    """
    return bool(_gathered(np.array(flag, np.int32)).any())


def agree(what: Mapping[str, Any], told: str = "options") -> None:
    """Lets nobody go on unless all processes were given the same.

    Args:
      what: names and JSON values.
      told: what these are, for the message.
    Raises:
      ValueError: in every process. Where it differs, names what, with process 0's value and its own.
    """
    if jax.process_count() == 1:
        return
    mine = json.loads(json.dumps(dict(what)))
    first = json.loads(from_leader(json.dumps(mine).encode()))
    names = sorted(name for name in mine.keys() | first.keys() if mine.get(name) != first.get(name))
    differs = [i for i, flag in enumerate(_gathered(np.array(bool(names), np.int32))) if flag]
    if names:
        values = "; ".join(f"{name} is {first.get(name)!r} there, {mine.get(name)!r} here" for name in names)
        raise ValueError(
            f"process {jax.process_index()} has other {told} than process 0: {values}. "
            "Start every process with the same command but for its number."
        )
    if differs:
        raise ValueError(
            f"process {', '.join(map(str, differs))} has other {told} than process 0, and says which in its own "
            "output. Start every process with the same command but for its number."
        )


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """A SHA-256 over names, dtypes, shapes and bytes, by which processes compare what they hold."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode() + array.tobytes())
    return total.hexdigest()


def _gathered(value: np.ndarray) -> np.ndarray:
    """`[processes]`."""
    if jax.process_count() == 1:
        return value[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value)).reshape(-1)

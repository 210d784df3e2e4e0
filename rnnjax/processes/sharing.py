"""Communication between processes outside of training: broadcast, gather, maximum, and a check for equal values.

Each call is a collective: every process must make the same calls in the same order. With one process they cost nothing.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def from_coordinator(data: bytes) -> bytes:
    """Broadcasts `data` of process 0 to every process.

    Example:

      >>> from_coordinator(b"of one process")
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


def from_all(data: bytes) -> list[bytes]:
    """Gathers `data` of all processes, in order, in every process; all must have the same length.

    Example:

      >>> from_all(b"of one process")
      [b'of one process']
    """
    if jax.process_count() == 1:
        return [data]
    from jax.experimental import multihost_utils

    rows = np.asarray(multihost_utils.process_allgather(np.frombuffer(data, np.uint8)))
    return [row.astype(np.uint8).tobytes() for row in rows]


def largest(number: int) -> int:
    """The largest `number` of all processes (32 bits, non-negative), in every process.

    Example:

      >>> largest(7)
      7
    """
    return max(int.from_bytes(each, "big") for each in from_all(number.to_bytes(4, "big")))


def assert_equal(what: Mapping[str, Any], told: str = "options") -> None:
    """Raises unless all processes hold equal values.

    Args:
      what: names and JSON values.
      told: what the values are, for the message.
    Raises:
      ValueError: in every process. A process that differs names the values, its own and those of process 0.
    """
    if jax.process_count() == 1:
        return
    mine = json.loads(json.dumps(dict(what)))
    first = json.loads(from_coordinator(json.dumps(mine).encode()))
    names = sorted(name for name in mine.keys() | first.keys() if mine.get(name) != first.get(name))
    differs = [i for i, flag in enumerate(from_all(bytes([bool(names)]))) if any(flag)]
    if names:
        values = "; ".join(f"{name} is {first.get(name)!r} there, {mine.get(name)!r} here" for name in names)
        raise ValueError(
            f"process {jax.process_index()} has other {told} than process 0: {values}. "
            "Start every process with the same command except for its number."
        )
    if differs:
        raise ValueError(
            f"process {', '.join(map(str, differs))} has other {told} than process 0; its own output lists them. "
            "Start every process with the same command except for its number."
        )

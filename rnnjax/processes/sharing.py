"""What processes tell each other outside of training: bytes of process 0 or of all, and whether all agree.

Each call is a collective: every process makes the same calls in the same order. With one process they are free.
"""

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


def from_all(data: bytes) -> list[bytes]:
    """What every process passed in, by its number, in every process; all of one length.

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
    """The largest of the processes' numbers (of 32 bits, from 0 on), in every process.

    Example:

      >>> largest(7)
      7
    """
    return max(int.from_bytes(each, "big") for each in from_all(number.to_bytes(4, "big")))


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
    differs = [i for i, flag in enumerate(from_all(bytes([bool(names)]))) if any(flag)]
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

"""Communication between processes outside of training. Every process must make the same calls in the same order."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def is_coordinator() -> bool:
    """Whether this is process 0, or the only process. Only the coordinator writes metrics and results."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether JAX runs over more than one process."""
    return jax.process_count() > 1


def from_coordinator(data: bytes) -> bytes:
    """Broadcasts `data` of process 0 to every process.

    Example:

      >>> from_coordinator(b"of one process")
      b'of one process'
    """
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.int32(len(data))))  # the others must pass an array of the same size
    mine = np.frombuffer(data.ljust(size + 1, b"\0")[: size + 1], np.uint8)  # an array may not be empty
    return np.asarray(broadcast_one_to_all(mine)).astype(np.uint8).tobytes()[:size]


def from_all(data: bytes) -> list[bytes]:
    """Gathers `data` of all processes, in order, in every process; all must have the same length."""
    from jax.experimental.multihost_utils import process_allgather

    return [row.astype(np.uint8).tobytes() for row in process_allgather(np.frombuffer(data, np.uint8))]


def largest(number: int) -> int:
    """The largest `number` of all processes (32 bits, non-negative), in every process."""
    return max(int.from_bytes(each, "big") for each in from_all(number.to_bytes(4, "big")))


def assert_equal(what: Mapping[str, Any], told: str = "options") -> None:
    """Raises unless all processes hold equal values.

    Args:
      what: names and JSON values.
      told: what the values are, for the message.
    Raises:
      ValueError: in every process. A process that differs names the values, its own and those of process 0.
    """
    mine = json.loads(json.dumps(dict(what)))
    first = json.loads(from_coordinator(json.dumps(mine).encode()))
    names = sorted(name for name in mine.keys() | first.keys() if mine.get(name) != first.get(name))
    differ = [str(i) for i, flag in enumerate(from_all(bytes([bool(names)]))) if any(flag)]
    if differ:
        values = "; ".join(f"{name} is {first.get(name)!r} there, {mine.get(name)!r} here" for name in names)
        who, why = (jax.process_index(), values) if names else (", ".join(differ), "its own output lists them")
        raise ValueError(
            f"process {who} has other {told} than process 0: {why}. Start every process with the same command except "
            "for its number."
        )

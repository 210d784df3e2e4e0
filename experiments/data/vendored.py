"""Files that come with the experiments, read only if they are the ones on record."""

import hashlib
from pathlib import Path

from experiments.harness.errors import UsageError


def verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file.

    Raises:
      UsageError: the file is not there, or its SHA-256 is another.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the data file {path.name} cannot be read ({error.strerror}); it comes with the checkout, "
            "so restore it from there."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise UsageError(
            f"the data file {path.name} is damaged or changed: its SHA-256 is {found[:12]}..., "
            f"expected {sha256[:12]}...; restore it from the checkout."
        )
    return data

"""Files that come with the experiments, read only if they are the ones on record."""

import hashlib
from pathlib import Path

from experiments.lab.options import UsageError


def verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file.

    Raises:
      UsageError: the file is missing, or its SHA-256 differs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise UsageError(f"the data file {path.name} {reason}; restore it from the checkout.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        reason = f"is damaged or changed: its SHA-256 is {found[:12]}..., expected {sha256[:12]}..."
        raise UsageError(f"the data file {path.name} {reason}; restore it from the checkout.")
    return data

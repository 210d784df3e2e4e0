"""What a result depends on besides code and options: data files, versions, machine, commit, and other load."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from .options import UsageError

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax")
_ENVIRONMENT = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GLIBC_TUNABLES")


def versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str | None]:
    """Versions of Python, rnnjax and these packages; None for one that is not installed."""
    import rnnjax

    found: dict[str, str | None] = {"python": platform.python_version(), "rnnjax": rnnjax.__version__}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def verified(path: Path, sha256: str) -> bytes:
    """The bytes of a data file that comes with the experiments.

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


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def device() -> dict[str, Any]:
    """Devices of JAX, and the processor."""
    import jax

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "cpu": _cpu_model(),
        "cpu_count": cores(),
        "memory_gib": _memory_gib(),
        "machine": platform.machine(),
        "system": platform.system(),
        "libc": " ".join(platform.libc_ver()),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def load() -> float | None:
    """Processes that wanted a core over the last minute; this one counts for up to all cores."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def git_commit() -> dict[str, Any]:
    """The commit of this checkout, and whether tracked files differ from it; None outside of one."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(ROOT), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT:  # installed somewhere inside another repository
        return {"git_commit": None, "git_dirty": None}
    status = git("status", "--porcelain", "--untracked-files=no", "--", "rnnjax", "experiments", "benchmarks")
    return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": None if status is None else bool(status)}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None

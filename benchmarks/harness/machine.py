"""What a time depends on besides the code: machine, versions, threads, and who else was at work."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness.process import cores

_PACKAGES = ("jax", "jaxlib", "numpy", "flax", "dm-haiku", "equinox", "keras", "torch")
_ENVIRONMENT = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GLIBC_TUNABLES")


def machine() -> dict[str, Any]:
    """The record that every result carries. Call it once JAX and the peers are loaded."""
    import jax

    torch = sys.modules.get("torch")
    devices = jax.devices()
    return {
        "cpu": _cpu_model(),
        "cores_usable": cores(),
        "memory_gib": _memory_gib(),
        "system": platform.system(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore  (defined at run time)
        "torch_threads": torch.get_num_threads() if torch else None,
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "versions": versions(),
        **_commit(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that take part; None for one that is not installed."""
    import rnnjax

    found: dict[str, str | None] = {"python": platform.python_version(), "rnnjax": rnnjax.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def load() -> float | None:
    """Processes that wanted a core over the last minute; this one counts for up to all cores."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _commit() -> dict[str, Any]:
    """The checkout's commit, and whether its code differs from it."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(root), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return {"git_commit": None, "git_changed": None}
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "rnnjax", "benchmarks")
    return {"git_commit": git("rev-parse", "HEAD"), "git_changed": None if changed is None else bool(changed)}

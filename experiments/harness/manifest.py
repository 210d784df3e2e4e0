"""What a result depends on besides its options: versions, device, commit, and the code itself."""

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = ("jax", "jaxlib", "numpy", "optax", "flax", "rnnjax")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that numbers come from; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = getattr(importlib.import_module(name), "__version__", None) if name == "rnnjax" else None
    return found


def device() -> dict[str, Any]:
    """Kind and number of JAX devices, and CPU cores this process may use."""
    import jax

    devices = jax.devices()
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return {
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "cpu_count": cores,
        "machine": platform.machine(),
        "system": platform.system(),
    }


def git_commit() -> dict[str, Any]:
    """The commit of the checkout that holds the experiments, and whether files differ from it; None outside of one."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:  # installed somewhere inside another repository
        return {"git_commit": None, "git_dirty": None}
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": None if commit is None or status is None else bool(status)}


def code_sha256(modules: Iterable[str]) -> str:
    """A hash of what the code of these modules and packages does.

    It is taken over syntax trees without docstrings, so comments, docstrings and layout do not count; a changed
    number, name or operator does. A package counts with every module in it.

    Args:
      modules: dotted names, for example `("rnnjax", "experiments.statland")`. They are found, not imported.
    Raises:
      ModuleNotFoundError: one of them is not there.
    """
    total = hashlib.sha256(platform.python_version().encode())
    for module in sorted(set(modules)):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"no source is found for module {module!r}", name=module)
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
        for file in files:
            name = f"{module}/{file.relative_to(origin.parent).as_posix()}"
            total.update(f"\0{name}\0".encode() + _essence(file).encode())
    return total.hexdigest()


def _essence(file: Path) -> str:
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)

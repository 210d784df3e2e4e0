"""Which definitions are entered while code runs: what `experiments.lab.identity` must have reached, found otherwise."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.lab import identity

ROOT = Path(identity.__file__).parents[2]


@contextlib.contextmanager
def entered_definitions(*folders: Path) -> Iterator[set[tuple[str, str]]]:
    """A set that has, when the block ends, a (module, top-level name) for each function that was entered in it.

    Functions of this project count, and those below `folders`; not lambdas outside of functions, not what runs while a
    module is imported, and not other threads. What JAX has traced before is not entered again: see `jax.clear_caches`.
    """
    within = [*(ROOT / package for package in identity.OURS), *folders]
    definitions: set[tuple[str, str]] = set()
    entered: set[tuple[str, str, str]] = set()
    importing = 0

    def watch(frame: FrameType, event: str, _: Any) -> None:
        nonlocal importing
        if frame.f_code.co_name == "<module>":
            importing += {"call": 1, "return": -1}.get(event, 0)
        elif event == "call" and not importing:
            top = frame.f_code.co_qualname.partition(".")[0]
            entered.add((frame.f_globals.get("__name__", ""), top, frame.f_code.co_filename))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield definitions
    finally:
        sys.setprofile(before)
        for module, name, file in entered:
            if not name.startswith("<") and any(Path(file).is_relative_to(folder) for folder in within):
                definitions.add((module, name))

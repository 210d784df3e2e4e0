"""Which definitions are entered while code runs: what `experiments.lab.identity` must have reached, found otherwise."""

import ast
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from experiments.lab import identity

ROOT = Path(identity.__file__).parents[2]


@contextlib.contextmanager
def entered_definitions(*roots: Path) -> Iterator[set[tuple[str, str]]]:
    """A set that has, when the block ends, a (module, top-level name) for each function that was entered in it.

    Functions of this project count, those of modules below `roots` too; not what runs while a module is imported, and
    not other threads. What JAX has compiled or traced before is not entered again: see `jax.clear_caches`.
    """
    definitions: set[tuple[str, str]] = set()
    codes: set[tuple[str, CodeType]] = set()
    importing = 0

    def watch(frame: FrameType, event: str, _: Any) -> None:
        nonlocal importing
        if frame.f_code.co_name == "<module>":
            importing += {"call": 1, "return": -1}.get(event, 0)
        elif event == "call" and not importing:
            codes.add((frame.f_globals.get("__name__", ""), frame.f_code))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield definitions
    finally:
        sys.setprofile(before)
        for module, code in codes:
            path = Path(code.co_filename)
            ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in identity.OURS
            if ours or any(path.is_relative_to(root) for root in roots):
                definitions.update((module, name) for name in _names(path, code.co_firstlineno))


@functools.cache
def _names(path: Path, line: int) -> list[str]:
    """The names that the top-level statement around a line defines."""
    todo: list[ast.stmt] = ast.parse(path.read_text("utf-8")).body
    while True:
        node = next(n for n in reversed(todo) if min([n.lineno, *_decorated(n)]) <= line)
        if not isinstance(node, ast.If):
            break
        todo = node.body + node.orelse
    if name := getattr(node, "name", None):
        return [name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)] or [identity.EFFECTS]


def _decorated(node: ast.stmt) -> list[int]:
    return [decorator.lineno for decorator in getattr(node, "decorator_list", [])]

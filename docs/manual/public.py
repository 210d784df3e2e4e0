"""The public names of rnnjax: each once, under its shortest public path."""

import importlib.util
import inspect
import types
from collections.abc import Container
from typing import Any, NamedTuple

import rnnjax

DOORS = ("equinox", "haiku")
"""Modules that need the library of their name, so that `rnnjax.__all__` does not have them."""


class Name(NamedTuple):
    path: str  # where the manual documents it, such as "rnnjax.LSTM"
    module: str  # whose page it is on
    value: Any
    others: tuple[str, ...] = ()  # other public paths of the same object

    @property
    def is_class(self) -> bool:
        return inspect.isclass(self.value)

    @property
    def is_ours(self) -> bool:
        """Not of another library, which we only pass on."""
        made = self.is_class or inspect.isroutine(self.value)
        return not made or self.value.__module__.split(".")[0] == "rnnjax"

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, in one line; of a tuple without one, its fields."""
        documented = inspect.getdoc(self.value) if self.is_class or inspect.isroutine(self.value) else ""
        if self.is_class and (not documented or documented.startswith(f"{self.value.__name__}(")):
            return ", ".join(f"`{field}`" for field in getattr(self.value, "_fields", ()))
        return " ".join((documented or "").split("\n\n")[0].split())


def modules() -> list[types.ModuleType]:
    """`rnnjax`, every module that a public module names, and the doors to libraries that are installed."""
    found = [rnnjax, *(importlib.import_module(f"rnnjax.{door}") for door in DOORS if importlib.util.find_spec(door))]
    for module in found:
        for name in _names_of(module):
            value = getattr(module, name)
            if isinstance(value, types.ModuleType) and value not in found:
                found.append(value)
    return [found[0], *sorted(found[1:], key=lambda module: module.__name__)]


def names() -> dict[str, Name]:
    """Every public name, by its path."""
    found: dict[str, Name] = {}
    first: dict[int, str] = {}  # paths of objects
    for module in sorted(modules(), key=lambda module: module.__name__.count(".")):
        for name in _names_of(module):
            path, value = f"{module.__name__}.{name}", getattr(module, name)
            if isinstance(value, types.ModuleType):
                continue
            if callable(value) and id(value) in first:
                known = found[first[id(value)]]
                found[known.path] = known._replace(others=(*known.others, path))
            else:
                first[id(value)] = path
                found[path] = Name(path, module.__name__, value)
    return found


def gaps(names: dict[str, Name], documented: Container[str]) -> list[str]:
    """Public names of ours that are not documented, or have no docstring."""
    made = [name for name in names.values() if name.is_ours]
    silent = [name.path for name in made if (name.is_class or inspect.isroutine(name.value)) and not name.summary]
    return [name.path for name in made if name.path not in documented] + silent


def _names_of(module: types.ModuleType) -> list[str]:
    """`__all__`; of a module without one, what it defines itself."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [name for name, value in vars(module).items() if _is_own(name, value, module)]


def _is_own(name: str, value: Any, module: types.ModuleType) -> bool:
    is_constant = name.isupper() and len(name) > 1
    return not name.startswith("_") and (is_constant or getattr(value, "__module__", "") == module.__name__)

"""A page of reference for each public module, and the check that every public name is in the manual."""

import inspect
import types
import typing
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

from manual import clear, write_page
from manual.cells import classes
from manual.docstrings import escape
from manual.public import Name, gaps, modules

_INTRO = """\
Every public name, once, under its shortest path. `import rnnjax` gives the first page; the other modules load on first
use, as `rnnjax.gradients`. Cells have {doc}`pages of their own <../cells/index>`.
"""


def write(folder: Path, names: dict[str, Name]) -> None:
    pages = modules()
    lines = [f"- {{doc}}`{page.__name__} <{page.__name__}>`: {_first_line(page)}" for page in pages]
    toctree = ["```{toctree}", ":hidden:", *(page.__name__ for page in pages), "```"]
    write_page(folder / "index.md", "\n".join(["# Reference", "", _INTRO, *lines, "", *toctree, ""]))
    elsewhere = {name.path for name in names.values() if name.value in classes()}
    for page in pages:
        write_page(folder / f"{page.__name__}.rst", _page(page, names, elsewhere))
    clear(folder, {"index.md", *(f"{page.__name__}.rst" for page in pages)})


def check_coverage(app: Any, names: dict[str, Name]) -> None:
    """Fails the build if a public name is not in it, or has no docstring."""

    def check(app: Any, env: Any) -> None:
        missing = gaps(names, env.domains.python_domain.objects)
        if missing:
            raise ExtensionError(f"public names that the manual lacks, or that have no docstring: {missing}")

    app.connect("env-check-consistency", check)


def _page(page: types.ModuleType, names: dict[str, Name], elsewhere: set[str]) -> str:
    title = page.__name__
    lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :no-members:", ""]
    here = [name for name in names.values() if name.module == title]
    again = [name for name in names.values() if any(path.rpartition(".")[0] == title for path in name.others)]
    documented = [name for name in here if name.is_ours and name.path not in elsewhere]
    linked = [name for name in here if name.path in elsewhere] + [name for name in again if name.is_ours]
    functions = [name for name in documented if inspect.isroutine(name.value)]
    of_classes = [name for name in documented if name.is_class]
    others = [name for name in documented if name not in functions and name not in of_classes]
    for heading, some in (("Functions", functions), ("Classes", of_classes), ("Constants and types", others)):
        if some:
            lines += [heading, "-" * len(heading), ""]
            lines += _table(some) if len(some) > 1 else []
            for name in some:
                lines += _directive(name)
    if linked:
        lines += ["Described elsewhere", "-------------------", "", *_table(linked)]
    foreign = [name for name in here if not name.is_ours]
    if foreign:
        listed = ", ".join(f"``{name.path.rpartition('.')[2]}`` of ``{name.value.__module__}``" for name in foreign)
        lines += ["Passed on", "---------", "", f"{listed}.", ""]
    return "\n".join(lines)


def _directive(name: Name) -> list[str]:
    if name.is_class:
        kind = "autoexception" if issubclass(name.value, BaseException) else "autoclass"
        return [f".. {kind}:: {name.path}", "   :members:", ""]
    if not inspect.isroutine(name.value):
        return [f".. autodata:: {name.path}", ""]
    if typing.get_overloads(name.value):  # one signature says enough
        signature = inspect.signature(name.value)
        plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        return [f".. autofunction:: {name.path}{inspect.Signature(plain)}", ""]
    return [f".. autofunction:: {name.path}", ""]


def _table(some: list[Name]) -> list[str]:
    lines = [".. list-table::", "   :widths: auto", ""]
    for name in some:
        lines += [f"   * - :py:obj:`~{name.path}`", f"     - {escape(name.summary)}"]
    return [*lines, ""]


def _first_line(page: types.ModuleType) -> str:
    return " ".join((page.__doc__ or "").split("\n\n")[0].split())

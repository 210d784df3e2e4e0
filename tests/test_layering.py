"""Layering: a file imports only from floors below its own. Imports are read from the source.

    6 __main__, equinox, haiku    5.5 converters    5 flax, training    4 dynamics, gradients, online, processes
    3 compose, readout, ...    2 _bounds, _unroll    1 cells, tasks    1/2 textbook    0 cell, ...

Cells never import each other; nothing imports experiments and benchmarks; flax, optax, orbax, equinox and haiku are
each imported by one package only. A new file or folder of `rnnjax/` needs a floor here.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    "__main__": 6,
    "equinox": 6,
    "haiku": 6,
    "converters": 5.5,
    "flax": 5,
    "training": 5,
    "dynamics": 4,
    "gradients": 4,
    "online": 4,
    "processes": 4,
    "compose": 3,
    "embedding": 3,
    "parallel": 3,
    "pooling": 3,
    "readout": 3,
    "sharding": 3,
    "stepping": 3,
    "wrappers": 3,
    "_bounds": 2,
    "_unroll": 2,
    "cells": 1,
    "tasks": 1,
    "_names": 0,
    "cell": 0,
    "initializers": 0,
    "numerics": 0,
    "textbook": 0.5,
}
ROOF = 7
"""`rnnjax/__init__.py`, the public names: it may import everything, and nothing below imports it."""

GROUND = "cell"
"""What a cell is (and a `PyTree`): it imports nothing of the house, so that its neighbours on floor 0 may import it."""

DOORS = {
    "converters": {"h5py"},
    "equinox": {"equinox"},
    "flax": {"flax"},
    "haiku": {"haiku"},
    "training": {"optax", "orbax", "chex", "rich"},
}
"""External imports that each part may use, besides the standard library and `ANYWHERE`."""

ANYWHERE = {"jax", "numpy", "typing_extensions"}
"""The last is only for type checkers: `test_import_cost` would notice it at run time."""


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Every module that `source` imports, anywhere in it, by absolute name; `from a import b` gives `a.b`."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def part_of(module: str) -> str:
    """The part that a module of `rnnjax` belongs to; "" for `rnnjax/__init__.py`."""
    name = [*module.split("."), ""][1]
    return name if name in FLOORS else ""


def floor_of(module: str) -> float:
    return FLOORS.get(part_of(module), ROOF)


def refusal(importer: str, imported: str) -> str | None:
    """The reason why this import is not allowed, or None."""
    part, outside = part_of(importer), imported.split(".")[0]
    if outside in ("experiments", "benchmarks", "tests"):
        return f"{outside} is imported by nobody"
    if outside != "rnnjax":
        known = outside in sys.stdlib_module_names or outside in ANYWHERE | DOORS.get(part, set())
        return None if known else f"{outside} may not be imported here (see DOORS)"
    if part == "cells" and part_of(imported) == "cells" and importer != "rnnjax.cells":
        return None if imported.startswith(f"{importer}.") else "cells never import each other"
    if part and part == part_of(imported):
        return None
    if part_of(imported) == GROUND and floor_of(importer) == 0 and part != GROUND:
        return None
    if floor_of(imported) >= floor_of(importer) and importer != "rnnjax":
        return f"an arrow that does not run down: floor {floor_of(importer)} imports floor {floor_of(imported)}"
    return None


def refused(importer: str, source: str, is_package: bool = False) -> list[str]:
    """The reasons against what `source` imports, as the text of module `importer`."""
    found = ((name, refusal(importer, name)) for name in imports(source, importer, is_package))
    return [f"imports {name}: {reason}" for name, reason in found if reason]


@pytest.mark.parametrize("path", files("rnnjax"), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_down(path):
    assert not refused(module_of(path), path.read_text(), path.name == "__init__.py")


@pytest.mark.parametrize("path", files("experiments", "benchmarks"), ids=lambda path: str(path.relative_to(ROOT)))
def test_experiments_and_benchmarks_stand_alone(path):
    """Scripts over `rnnjax`: they import their own folder, the harness `experiments.lab`, and never a test."""
    module = module_of(path)
    own = module.split(".")[0]
    for imported in imports(path.read_text(), module, path.name == "__init__.py"):
        outside = imported.split(".")[0]
        known = outside == own or imported.startswith("experiments.lab")
        assert known or outside not in ("experiments", "benchmarks", "tests"), f"{module} imports {imported}"


def test_no_circle_of_imports():
    """What a file imports, at its top or inside functions, does not lead back to it; type checkers' imports aside."""
    paths = {module_of(path): path for path in files("rnnjax", "experiments", "benchmarks")}
    arrows = {}
    for module, path in paths.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                node.body = [ast.Pass()]
        found = imports(ast.unparse(tree), module, path.name == "__init__.py")
        arrows[module] = {name if name in paths else name.rpartition(".")[0] for name in found} & paths.keys() - {
            module
        }
    while ends := {module for module, further in arrows.items() if not further}:
        arrows = {module: further - ends for module, further in arrows.items() if module not in ends}
    assert not arrows, "in a circle, or leading to one"


def private(source: str) -> list[str]:
    """The private names of other packages that `source` imports, and whatever it reads through a `_src`."""
    outside = [name for name in imports(source, "rnnjax.cell") if not name.startswith(("rnnjax.", "__future__."))]
    found = [name for name in outside if re.search(r"(^|\.)_", name)]
    return found + [
        ast.unparse(n) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and n.attr == "_src"
    ]


@pytest.mark.parametrize("path", files("rnnjax", "experiments", "benchmarks"), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_private_name_of_another_package(path):
    """Such names change without notice: the next release may break them."""
    assert not private(path.read_text())


@pytest.mark.parametrize(
    "source",
    ["from jax._src import core", "import jax\njax._src.core", "from optax import _src", "import jax._src.core as c"],
)
def test_a_private_name_is_found(source):
    assert private(source) and not private("import jax\nfrom rnnjax._unroll import scan\nfrom jax import lax")


def test_every_part_has_a_floor():
    """A file or folder without a floor could import anything."""
    parts = {path.stem for path in (ROOT / "rnnjax").iterdir() if path.suffix == ".py" or list(path.glob("*.py"))}
    assert parts - {"__init__"} <= set(FLOORS), "give it a floor in FLOORS, and a line in CONTRIBUTING.md"


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("rnnjax.cell", "import rnnjax.initializers"),
        ("rnnjax.cell", "import rnnjax"),
        ("rnnjax.numerics", "from rnnjax.initializers import Normal"),
        ("rnnjax.cells.gru", "from rnnjax.cells.lstm import LSTM"),
        ("rnnjax.cells.gru", "from rnnjax.cells import LSTM"),
        ("rnnjax.cells.gru", "from .lstm import LSTM"),
        ("rnnjax.cells.gru", "from rnnjax._unroll import unroll"),
        ("rnnjax.cells.gru", "def f():\n    from rnnjax import unroll"),
        ("rnnjax._unroll.scan", "from ..compose import Stack"),
        ("rnnjax._unroll.scan", "from rnnjax import compose"),
        ("rnnjax.tasks.adding", "from rnnjax.cells import LSTM"),
        ("rnnjax.compose", "from rnnjax.gradients import adjoint"),
        ("rnnjax.gradients.adjoint", "from rnnjax import training"),
        ("rnnjax.training.loop", "from rnnjax.flax import linen"),
        ("rnnjax._unroll.scan", "import flax.linen as nn"),
        ("rnnjax.gradients.adjoint", "import optax"),
        ("rnnjax.flax.linen", "import optax"),
        ("rnnjax.training.loop", "import flax"),
        ("rnnjax.cell", "import chex"),
        ("rnnjax.converters.haiku", "import haiku"),
        ("rnnjax.flax.linen", "from rnnjax.converters import from_haiku"),
        ("rnnjax.compose", "importlib.import_module('flax')"),
        ("rnnjax.training.loop", "from experiments.lab import run"),
        ("rnnjax.compose", "from tests import registry"),
    ],
)
def test_an_arrow_that_runs_up_is_found(importer, source):
    """The parser and the rule reject forbidden imports."""
    assert refused(importer, source)


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("rnnjax.cells.gru", "from rnnjax.cell import check_input\nfrom rnnjax.initializers import Orthogonal"),
        ("rnnjax.cells", "from rnnjax.cells.gru import GRU"),
        ("rnnjax.numerics", "from rnnjax.cell import PyTree"),
        ("rnnjax._unroll.contract", "from rnnjax._unroll.scan import unroll_scan"),
        ("rnnjax._unroll.contract", "from .scan import unroll_scan"),
        ("rnnjax.compose", "import dataclasses\nimport numpy as np\nfrom rnnjax._unroll import unroll"),
        ("rnnjax.training.loop", "import optax\nfrom rnnjax.gradients import adjoint"),
        ("rnnjax.flax.linen", "from flax import linen\nfrom rnnjax.compose import Stack"),
        ("rnnjax", "from rnnjax import gradients\nfrom rnnjax.cells import LSTM"),
    ],
)
def test_an_arrow_that_runs_down_is_let_through(importer, source):
    assert not refused(importer, source)


def test_unroll_never_imports_a_cell():
    """The floors would allow it, but engines may only use the cell protocol."""
    assert files("rnnjax/_unroll")
    for path in files("rnnjax/_unroll"):
        for imported in imports(path.read_text(), module_of(path)):
            assert part_of(imported) not in ("cells", "tasks"), f"{path.name} imports {imported}"

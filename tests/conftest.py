"""All tests run in x64 with strict dtype promotion, so tolerances are near rounding, and no dtype widens silently.

Tests of float32 use explicit dtypes. Nothing is seeded from the clock: hypothesis is derandomised and has no database,
so results are reproducible.
"""

import gc
import importlib.metadata
import os
import pathlib
import sys
import zlib
from typing import Any

# Most of the time goes into compiling programs that run once, so XLA uses little optimisation. `test_sharding` and the
# benchmark of peers run in processes of their own with XLA's defaults; `XLA_FLAGS= pytest` uses them for all tests.
# On jax 0.10 another option halves the time again; later versions do not have it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import hypothesis
import jax
import pytest

from tests.registry import CATALOGUE, CELLS

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

gc.set_threshold(200_000, 20, 100)  # JAX keeps millions of objects, which take 5 % of the time to visit by default

hypothesis.settings.register_profile("rnnjax", derandomize=True, database=None, deadline=None, max_examples=20)
hypothesis.settings.load_profile("rnnjax")


CORE = ("elman_tanh", "lstm", "gru")
"""Cells whose properties are tested on every Python; for other tests, the name selects one of the two."""

BOTH = ("test_import_cost.py", "test_readme.py")
"""Files whose tests run on every Python."""

ONE_IN = 96
"""Of the pairs of a property and a cell of the catalogue, one in so many is tested, unless --whole."""

ONLY_WHOLE = ("bestiary", "collapse", "flip_flop", "flossing", "learning_rules", "stocks", "temporal_order", "text")
"""Experiments whose smallest runs take longest; tested only with --whole."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "one_in(n): one in n of its parameters is tested, unless --whole")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="every property of every cell, on this Python")
    parser.addoption("--every-variant", action="store_true", help="--whole, and cells of the catalogue on every engine")


def _group(item: pytest.Item) -> str:
    """Tests that share compiled programs run on the same worker (`--dist=loadgroup`).

    In tests/unroll and tests/gradients they are grouped by cell, those of all experiments by experiment, elsewhere by
    file.
    """
    folder, name = item.path.parent.name, getattr(getattr(item, "callspec", None), "params", {}).get("name")
    by_cell = folder in ("unroll", "gradients") and name in CELLS
    by_experiment = item.path.name == "test_all_experiments.py" and name is not None
    return f"{folder}, {name}" if by_cell or by_experiment else str(item.path)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks the group; pytest-xdist reads it before any `pytest_collection_modifyitems` of a conftest."""
    item.add_marker(pytest.mark.xdist_group(_group(item)))


def _variants(items: list[pytest.Item], here: int) -> list[pytest.Item]:
    """All but one variant (engine, direction, masks, ...) of each property of each cell of the catalogue.

    Engines are compared with each other for every cell; with 63 cells, each property is tested on all of them.
    """
    found: dict[Any, list[pytest.Item]] = {}
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if params.get("name") in CATALOGUE and "engine" not in _name_of(item):
            found.setdefault((item.path, _name_of(item), params["name"]), []).append(item)
    left_out = []
    for (_, function, name), variants in found.items():
        kept = (zlib.crc32(f"{function} {name}".encode()) + here) % len(variants)
        left_out += variants[:kept] + variants[kept + 1 :]
    return left_out


def _name_of(item: pytest.Item) -> str:
    return getattr(item, "originalname", item.name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that run on the other Python, unless `--whole`; tests of one experiment stay together."""
    here = sys.version_info[:2] >= (3, 12)
    if config.getoption("--every-variant"):
        return
    left_out = _variants(items, here)
    for item in [] if config.getoption("--whole") else items:
        name = getattr(getattr(item, "callspec", None), "params", {}).get("name")
        of_cell = isinstance(name, str) and name in CELLS
        halved = not (of_cell and name in CORE) and item.path.name not in BOTH
        whole_group = item.path.name == "test_all_experiments.py"
        by = _group(item) if whole_group else item.nodeid.partition("@")[0]
        if of_cell and name in CATALOGUE:
            by = f"{_name_of(item)} {name}"  # whichever variant is tested here
        chance = zlib.crc32(by.encode())
        sampled = item.get_closest_marker("one_in") if halved else None  # a core cell is never left out
        one_in = max(sampled.args[0] if sampled else 1, ONE_IN if of_cell and name in CATALOGUE else 1)
        if (halved and chance % 2 != here) or chance // 2 % one_in or (whole_group and name in ONLY_WHOLE):
            left_out.append(item)
    if left_out:
        gone = set(left_out)
        config.hook.pytest_deselected(items=list(gone))
        items[:] = [item for item in items if item not in gone]


MAPS, MOST_MAPS = pathlib.Path("/proc/self/maps"), 30_000
"""Linux allows a process 65,530 mappings of memory; every compiled program keeps some, and one too many is a crash."""


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drops compiled programs between groups, which do not share them, before there are too many."""
    apart = nextitem is None or _group(nextitem) != _group(item)
    if apart and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()

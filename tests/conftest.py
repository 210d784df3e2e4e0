"""Every test runs in x64 with strict dtype promotion: tolerances are near rounding, and no dtype widens in silence.

A test of float32 says so with explicit dtypes. Nothing is seeded from the clock: hypothesis is derandomized and keeps
no database, so the same code gets the same verdict.
"""

import os

# Nearly all of the time is compilation of programs that run once, so XLA is asked for little optimisation.
# `test_sharding` and the benchmark of peers, in processes of their own, run as users have it;
# with `XLA_FLAGS= pytest` all tests do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import hypothesis
import jax
import pytest

from tests.registry import CELLS

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

hypothesis.settings.register_profile("rnnjax", derandomize=True, database=None, deadline=None, max_examples=20)
hypothesis.settings.load_profile("rnnjax")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a compiled program go to the same worker (pytest-xdist's `loadgroup`).

    In tests/unroll and tests/gradients programs are kept by cell, and shared by all files; elsewhere by file at most.
    """
    for item in items:
        folder = item.path.parent.name
        name = getattr(getattr(item, "callspec", None), "params", {}).get("name")
        shared = folder in ("unroll", "gradients") and isinstance(name, str) and name in CELLS
        item.add_marker(pytest.mark.xdist_group(f"{folder}, {name}" if shared else str(item.path)))

"""Leaves out the doctests of doors to libraries that are not installed; runs the others with JAX's default settings."""

import contextlib
import importlib.util
from collections.abc import Iterator

import jax
import pytest

collect_ignore = [f"rnnjax/{name}.py" for name in ("equinox", "haiku") if importlib.util.find_spec(name) is None]


@pytest.fixture(autouse=True)
def as_its_reader_runs_it(request: pytest.FixtureRequest) -> Iterator[None]:
    """A doctest prints what its reader sees, in float32; the tests' own settings (x64, strict) are not a reader's."""
    with contextlib.ExitStack() as settings:
        if isinstance(request.node, pytest.DoctestItem):
            settings.enter_context(jax.enable_x64(False))
            settings.enter_context(jax.numpy_dtype_promotion("standard"))
        yield

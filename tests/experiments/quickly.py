"""For small runs of experiments: they take far longer to compile than to run."""

from collections.abc import Iterator

import jax
import pytest

from experiments.harness import style


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs are compiled without most optimisations, and figures are built but not rendered."""
    monkeypatch.setattr(style, "render", lambda fig: (b"png", b"<svg/>"))
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_dtype_promotion("standard"):  # an experiment runs as a user's script does
        yield
    jax.config.update("jax_disable_most_optimizations", False)

"""The manual: every public name has one place, and code that no build executes runs here."""

import re
import sys
from pathlib import Path

import jax
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMING_FROM = (DOCS / "guides" / "coming_from.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in COMING_FROM.split("\n## ")[1:]}
PEERS = {"PyTorch": "torch", "Keras": "keras", "Flax": "flax", "Haiku": "haiku", "Equinox": "equinox"}


@pytest.fixture
def manual(monkeypatch):
    """The modules that write pages, as `docs/conf.py` imports them."""
    monkeypatch.syspath_prepend(str(DOCS))
    import manual.public  # pyright: ignore[reportMissingImports]

    yield manual
    for name in [name for name in sys.modules if name.split(".")[0] == "manual"]:
        del sys.modules[name]


@pytest.mark.parametrize("library", PEERS)
def test_the_same_numbers_as_another_library(library, monkeypatch):
    """The blocks of its section run in order, and each on the right ends with a comparison."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip(PEERS[library])
    blocks = re.findall(r"^```python\n(.*?)^```$", SECTIONS[library], re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2 and sum("assert abs(" in block for block in blocks) >= len(blocks) // 2
    namespace: dict = {"__name__": "manual"}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, f"coming_from.md, {library}", "exec"), namespace)


def test_no_section_is_left_out():
    assert set(SECTIONS) - set(PEERS) == {"From a scan of your own"}
    assert "```python" not in SECTIONS["From a scan of your own"]


def test_every_public_name_has_one_place(manual):
    """Every name of every `__all__` is the path of one entry, or another path of it; an entry is documented once."""
    names = manual.public.names()
    places = [path for name in names.values() for path in (name.path, *name.others)]
    assert len(places) == len(set(places))
    listed = {
        f"{module.__name__}.{name}"
        for module in manual.public.modules()
        for name in getattr(module, "__all__", ())
        if f"{module.__name__}.{name}" not in {other.__name__ for other in manual.public.modules()}
    }
    assert listed <= set(places)
    assert {"rnnjax.LSTM", "rnnjax.gradients.adjoint", "rnnjax.initializers.Chrono"} <= set(names)
    assert "rnnjax.cells.LSTM" in names["rnnjax.LSTM"].others

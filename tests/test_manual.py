"""The manual: every public name has one place, and code that no build executes runs here."""

import contextlib
import inspect
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from rnnjax import tasks, training

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMING_FROM = (DOCS / "guides" / "coming_from.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in COMING_FROM.split("\n## ")[1:]}
PEERS = {"PyTorch": "torch", "Keras": "keras", "Flax": "flax", "Haiku": "haiku", "Equinox": "equinox"}


@pytest.fixture
def manual(monkeypatch):
    """The modules that write pages, as `docs/conf.py` imports them."""
    monkeypatch.syspath_prepend(str(DOCS))
    import manual.docstrings  # pyright: ignore[reportMissingImports]
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


def test_the_script_for_several_hosts(monkeypatch, tmp_path):
    """Its block runs, with one process in place of several."""
    monkeypatch.setattr("rnnjax.processes.initialize", contextlib.nullcontext)
    (block,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / "several_hosts.md").read_text(), re.DOTALL | re.MULTILINE)
    rule = optax.sgd(0.1)
    given = {
        "loss": lambda w, batch: tasks.squared_error(batch.xs @ w, batch),
        "data": lambda key, step: tasks.adding(key, 5, (4,)),
        "rule": rule,
        "state": training.init_state(jnp.zeros((2, 1), "float32"), rule, jax.random.key(0)),
        "options": training.FitOptions(steps=2, chunk=2),
        "checkpoints": training.Checkpoints(folder=tmp_path, every=2),
    }
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        exec(compile(block, "several_hosts.md", "exec"), given)
    assert int(given["fitted"].state.step) == 2


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


def test_a_name_that_is_missing_is_noticed(manual):
    names = manual.public.names()
    assert manual.public.gaps(names, set(names)) == []
    assert manual.public.gaps(names, set(names) - {"rnnjax.LSTM"}) == ["rnnjax.LSTM"]


def test_a_docstring_is_plain_text(manual):
    """What reStructuredText would read as markup stands for itself, equations keep their lines, names become a list."""
    text = """|a| of `x`s, [*batch].

        a_t = b
        c_t = d

    Args:
      a, b: one,
        or two.
      *rest: three.
    Returns:
      `y`.

    Example: of nothing.

      >>> 1
      1
    """
    lines = manual.docstrings.to_rst(inspect.cleandoc(text))
    assert [line for line in lines if line] == [
        r"\|a\| of ``x``\ s, [\*batch].",
        "::",
        "    a_t = b",
        "    c_t = d",
        ".. rubric:: Args",
        "- **a**, **b**: one,",
        "  or two.",
        r"- **\*rest**: three.",
        ".. rubric:: Returns",
        "``y``.",
        ".. rubric:: Example",
        "of nothing.",
        ">>> 1",
        "1",
    ]

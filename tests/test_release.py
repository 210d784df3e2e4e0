"""What a release checks, and the links of the README that it publishes."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import rnnjax

ROOT = Path(__file__).resolve().parents[1]
FILES = ("rnnjax/__init__.py", "pyproject.toml", "CITATION.cff", "CHANGELOG.md")
TAG = f"v{rnnjax.__version__}"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAY_RELEASE = load(ROOT / ".ci" / "may_release.py")


@pytest.fixture
def hook(monkeypatch):
    """`hatch_build.py`, where hatchling need not be installed."""
    interface = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    return load(ROOT / "hatch_build.py")


@pytest.fixture
def ready(tmp_path):
    """A copy of what is checked, ready for a release."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = (ROOT / name).read_text()
        text = re.sub(r'^Home = ".*"', 'Home = "https://example.org/rnnjax"', text, flags=re.MULTILINE)
        (tmp_path / name).write_text(re.sub(r"^(## [\d.]+) \(.*\)$", r"\1 (2026-01-31)", text, flags=re.MULTILINE))
    return tmp_path


def test_the_versions_of_this_clone_agree():
    """What is left to do before a release is the address, and the day of the release."""
    for said in MAY_RELEASE.obstacles(TAG):
        day = said.startswith(f"CHANGELOG.md begins with {rnnjax.__version__} (unreleased)")
        assert day or said.startswith("Home in pyproject.toml"), said


def test_a_clone_that_is_ready(ready):
    assert MAY_RELEASE.obstacles(TAG, ready) == []


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("pyproject.toml", "https://example.org/rnnjax", MAY_RELEASE.PLACEHOLDER, "Home in pyproject.toml"),
        ("pyproject.toml", "https://example.org", "example.org", "Home in pyproject.toml"),
        ("CITATION.cff", f"version: {rnnjax.__version__}", "version: 9.9.9", "CITATION.cff"),
        ("CHANGELOG.md", "(2026-01-31)", "(unreleased)", "CHANGELOG.md"),
        ("CHANGELOG.md", f"## {rnnjax.__version__} ", "## 9.9.9 ", "CHANGELOG.md"),
    ],
)
def test_what_is_in_the_way(ready, name, before, after, said):
    path = ready / name
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    (found,) = MAY_RELEASE.obstacles(TAG, ready)
    assert found.startswith(said)


@pytest.mark.parametrize("tag", [rnnjax.__version__, f"{TAG}.1", "v9.9.9", ""])
def test_a_tag_that_is_not_the_version(ready, tag):
    (found,) = MAY_RELEASE.obstacles(tag, ready)
    assert found.startswith("the tag is") and found.endswith(f"must be {TAG}")


def test_the_published_readme_has_no_relative_link(hook):
    """The index shows the page alone."""
    home = "https://example.org/rnnjax/"
    text = hook.absolute((ROOT / "README.md").read_text(), home)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 10 and all(target.startswith(("https://", "#")) for target in targets)
    assert "![Log gradient" in text and "(https://example.org/rnnjax/raw/main/docs/gradient_decay/decay.png)" in text
    assert "(https://example.org/rnnjax/blob/main/CHANGELOG.md)" in text


def test_without_an_address_the_readme_is_as_it_is(hook):
    text = (ROOT / "README.md").read_text()
    assert hook.absolute(text, MAY_RELEASE.PLACEHOLDER) == text and hook.PLACEHOLDER == MAY_RELEASE.PLACEHOLDER

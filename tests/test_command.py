"""The command `rnnjax`: which module it runs, and what it says where it cannot."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from experiments.lab.options import listed
from rnnjax import __main__ as command

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ran(monkeypatch):
    """The modules that were run, each with its arguments, instead of running them."""
    modules: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(runpy, "run_module", lambda module, **how: modules.append((module, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["rnnjax"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return modules


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """The command as a wheel installs it, with one experiment and no benchmark of its own."""
    for name in ("experiments/__main__.py", "experiments/decay.py", "benchmarks/__main__.py"):
        path = tmp_path / "rnnjax_lab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.setattr(command, "__file__", str(tmp_path / "rnnjax" / "__main__.py"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], [("experiments", []), ("benchmarks", [])]),
        (["experiments"], [("experiments", [])]),
        (["benchmarks"], [("benchmarks", [])]),
        (["gradient-decay", "--quick"], [("experiments.gradient_decay", ["--quick"])]),
        (["gradient_decay"], [("experiments.gradient_decay", [])]),
        (["statland"], [("experiments.statland", [])]),
        (["benchmarks", "scan-vs-loop", "--help"], [("benchmarks.scan_vs_loop", ["--help"])]),
    ],
)
def test_what_a_clone_runs(ran, given, expected):
    assert command.main(given) == 0 and ran == expected


def test_what_a_wheel_runs(ran, wheel, tmp_path):
    assert command.main(["decay"]) == 0 and ran == [("rnnjax_lab.experiments.decay", [])]
    assert command.main(["gradient-decay"]) == 2  # of the clone that this test is in
    assert sys.path[:2] == [str(tmp_path), str(Path.cwd())]


@pytest.mark.parametrize("given", [["no-such"], ["benchmarks", "gradient-decay"], ["../x"], ["lab/run"], ["all.x"]])
def test_an_unknown_name(ran, capsys, given):
    assert command.main(given) == 2 and not ran
    assert "lists them" in capsys.readouterr().err


def test_every_listed_name_can_be_run(ran):
    for kind in ("experiments", "benchmarks"):
        names = list(listed(ROOT / kind))
        assert names and not any(command.main([kind, name.replace("_", "-")]) for name in names)
        assert [module for module, _ in ran] == [f"{kind}.{name}" for name in names]
        ran.clear()


def test_without_the_extra(ran, capsys, monkeypatch):
    """It names what is missing, and the extra that has it."""
    assert command.lacking("experiments") == []
    found, required = command.importlib.metadata.version, command.importlib.metadata.requires("rnnjax") or []
    assert {re.match(r"[\w-]+", line)[0] for line in required if "experiments" in line} >= {"tyro", "matplotlib"}  # pyright: ignore

    def version(name: str) -> str:
        if name == "tyro":
            raise command.importlib.metadata.PackageNotFoundError
        return found(name)

    monkeypatch.setattr(command.importlib.metadata, "version", version)
    assert command.main(["gradient-decay"]) == 2 and not ran
    said = capsys.readouterr().err
    assert "tyro" in said and "matplotlib" not in said and "pip install 'rnnjax[experiments]'" in said


def test_where_there_are_no_experiments(ran, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "__file__", str(tmp_path / "rnnjax" / "__main__.py"))
    assert command.main([]) == 2 and not ran
    assert str(tmp_path) in capsys.readouterr().err

"""The type checker rejects the marked lines of `users_script.py`, and no others."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("users_script.py")
ROOT = Path(__file__).parents[2]


def pyright() -> str:
    """The command next to this Python, or on the path."""
    beside = Path(sys.executable).with_name("pyright")
    found = str(beside) if beside.exists() else shutil.which("pyright")
    if found is None:
        pytest.skip("pyright is not installed here; `pip install -e '.[dev]'` brings it")
    return found


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:  # pyright downloads itself at its first start
        pytest.skip(f"pyright does not start here: {(done.stderr or done.stdout)[-200:]}")


def test_a_users_script(tmp_path: Path) -> None:
    """A misspelt argument, a wrong carry, parameters of another cell and more, line by line; in strict mode."""
    shutil.copy(SCRIPT, tmp_path)
    config = {"include": [SCRIPT.name], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    config |= {"reportUnknownMemberType": False}  # for JAX's own functions
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [pyright(), "--outputjson", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    report = report_of(done)
    assert report["summary"]["filesAnalyzed"] == 1
    found = Counter((d["range"]["start"]["line"] + 1, d.get("rule", "")) for d in report["generalDiagnostics"])
    lines = SCRIPT.read_text().splitlines()
    marks = ((number, re.search(r"# error: (report\w+)", line)) for number, line in enumerate(lines, start=1))
    expected = Counter((number, mark[1]) for number, mark in marks if mark)
    assert len(expected) > 10
    said = "\n".join(f"{d['range']['start']['line'] + 1}: {d['message']}" for d in report["generalDiagnostics"])
    assert set(found) == set(expected), said


def test_what_is_public_is_typed(tmp_path: Path) -> None:
    """`pyright --verifytypes rnnjax --ignoreexternal`, in an environment that has the package installed."""
    command = [pyright(), "--outputjson", "--verifytypes", "rnnjax", "--ignoreexternal"]
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    shutil.copytree(ROOT / "rnnjax", site / "rnnjax")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    path = f"{tmp_path / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"  # pyright uses the first Python there
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    found = report_of(done)["typeCompleteness"]
    assert str(site) in found["pyTypedPath"], "read as installed"
    unknown = [symbol["name"] for symbol in found["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert found["completenessScore"] >= 0.95, unknown


def test_the_package_says_that_it_is_typed() -> None:
    """PEP 561: without this file, type checkers ignore an installed package."""
    assert (ROOT / "rnnjax" / "py.typed").is_file()

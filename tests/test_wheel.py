"""What a user gets: the wheel, built from the sdist, in an environment of its own, without this clone.

`RNNJAX_SLOW=1 python -m pytest tests/test_wheel.py` builds both, installs the wheel, runs the main job from an empty
folder, and then those tests of the sdist that need nothing but the package. It takes minutes, and an index of packages.
"""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from experiments import gradient_decay
from experiments.lab import identity

pytestmark = pytest.mark.skipif("RNNJAX_SLOW" not in os.environ, reason="installs everything anew: set RNNJAX_SLOW=1")

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("test_cell", "test_compose", "test_numerics", "test_pooling", "test_readout", "test_stepping")
"""Files of tests/ that run against the installed wheel."""


def run(folder: Path, *command: str | Path, status: int = 0) -> str:
    """What a command printed, with nothing of this process's environment that leads to the clone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "XLA"))}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def environment(folder: Path, *packages: str | Path) -> Path:
    """The folder with the commands of a new environment that has these packages."""
    venv.create(folder, with_pip=True)
    commands = folder / ("Scripts" if sys.platform == "win32" else "bin")
    run(folder, commands / "python", "-m", "pip", "install", "-q", *packages)
    return commands


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the sdist and the wheel."""
    folder = tmp_path_factory.mktemp("built")
    run(folder, environment(folder / "builder", "build") / "python", "-m", "build", "-o", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The commands of an environment with the wheel and nothing else."""
    (wheel,) = built.glob("*.whl")
    return environment(tmp_path_factory.mktemp("user"), f"{wheel}[experiments]")


def test_what_is_in_them(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"rnnjax", "rnnjax_lab"}
    for folder in ("rnnjax", "experiments", "benchmarks"):
        tracked = run(ROOT, "git", "ls-files", folder, f":!{folder}/results").split()
        place = folder if folder == "rnnjax" else f"rnnjax_lab/{folder}"
        assert {path.replace(folder, place, 1) for path in tracked} == {n for n in names if n.startswith(f"{place}/")}
    assert wheel.stat().st_size < 5e6 and sdist.stat().st_size < 10e6
    with tarfile.open(sdist) as archive:
        assert {"tests", "docs", "experiments", "rnnjax"} <= {name.split("/")[1] for name in archive.getnames()}


def test_the_main_job_from_an_empty_folder(installed, tmp_path):
    listed = run(tmp_path, installed / "rnnjax")
    assert "gradient_decay: " in listed and "scan_vs_loop: " in listed
    run(tmp_path, installed / "rnnjax", "gradient-decay", "--quick", "--out", "here")
    summary, config = (json.loads((tmp_path / "here" / name).read_text()) for name in ("summary.json", "config.json"))
    assert summary["experiment"] == config["experiment"] == "gradient_decay" and config["git_commit"] is None
    assert summary["code_sha256"]["measure"] == identity.code_sha256(gradient_decay.experiment.measure)
    assert (tmp_path / "here" / "report.html").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"here"}


def test_what_needs_the_clone_says_so(installed, tmp_path):
    said = run(tmp_path, installed / "rnnjax", "all", "--dry-run", status=2)
    assert "needs a clone" in said


def test_the_tests_of_the_sdist(built, installed, tmp_path):
    """In a folder without the package, so that the installed one is tested."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name.split("/")[0] in ("tests", "conftest.py", "pyproject.toml"):
                archive.extract(member, tmp_path, filter="data")
    run(tmp_path, installed / "python", "-m", "pip", "install", "-q", "hypothesis>=6.150", "pytest>=9,<9.2")
    where = run(tmp_path, installed / "python", "-c", "import rnnjax; print(rnnjax.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    files = [f"tests/{name}.py" for name in SHIPPED]
    said = run(tmp_path, installed / "python", "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", *files)
    assert " passed" in said and " failed" not in said

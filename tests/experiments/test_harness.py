"""The harness through its front door: what is refused before work, what survives, what is left in the folder."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import harness
from experiments.harness import folder, manifest
from tests.experiments.toy import STOP_AT, TOY, read, squared

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def forget() -> None:
    squared.clear()
    STOP_AT[0] = -1


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(harness.UsageError, match="is a file"):
        folder.prepare(file)
    with pytest.raises(harness.UsageError, match="cannot be written"):
        folder.prepare(file / "below")
    folder.prepare(tmp_path / "new" / "deep")
    assert os.listdir(tmp_path / "new" / "deep") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(harness.UsageError, match="cannot be written"):
            folder.prepare(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_is_held_by_one_run_and_free_after_it(tmp_path: Path) -> None:
    says = rf"another run .*process {os.getpid()}\b"
    with folder.locked(tmp_path), pytest.raises(harness.UsageError, match=says), folder.locked(tmp_path):
        pass
    with folder.locked(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_run_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    assert harness.launch(TOY, ["--out", str(tmp_path), "--numbers", "0", "2"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "summary.json", "rows.jsonl", "report.html", "squares.png", "squares.svg",
    }  # fmt: skip
    config, summary = read(tmp_path, "config.json"), read(tmp_path)
    assert summary["rows"][0] == {"number": 0, "square": 0, "log": None, "log_reason": "-inf"}
    assert summary["rows"][1]["square"] == 4 and summary["rows_computed_count"] == 2
    assert config["options"] == {"numbers": [0, 2], "quick": False, "seed": 0} and config["seed"] == 0
    assert set(config["versions"]) >= {"python", "jax", "jaxlib", "optax", "numpy", "rnnjax"}
    assert config["versions"]["jax"] == jax.__version__
    assert config["device"]["device_kind"] and config["device"]["cpu_count"] >= 1
    assert config["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", config["git_commit"])
    assert config["finished_utc"] is not None
    assert (tmp_path / "squares.png").read_bytes().startswith(b"\x89PNG")


def test_float64_holds_inside_a_run_only(tmp_path: Path) -> None:
    with jax.enable_x64(False):
        assert harness.launch(TOY, ["--out", str(tmp_path)]) == 0
        assert jax.numpy.ones(()).dtype == np.float32


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path: Path, capsys: Any) -> None:
    STOP_AT[0] = 3
    assert harness.launch(TOY, ["--out", str(tmp_path)]) == 130
    said = capsys.readouterr().err
    assert "finished rows are kept" in said and str(tmp_path) in said and "Traceback" not in said
    assert squared == [1, 2] and read(tmp_path, "config.json")["finished_utc"] is None
    STOP_AT[0] = -1
    assert harness.launch(TOY, ["--out", str(tmp_path)]) == 0
    assert squared == [1, 2, 3]
    assert read(tmp_path)["rows_reused_count"] == 2
    assert "2 finished rows" in capsys.readouterr().err


def test_a_killed_run_goes_on_too(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[1])\n"
        "import tests.experiments.toy as t; from experiments import harness\n"
        "class Killed(list):\n"
        "    def __getitem__(self, i): return os.kill(os.getpid(), signal.SIGKILL) if len(t.squared) == 2 else -1\n"
        "t.STOP_AT = Killed()\n"
        "harness.launch(t.TOY, ['--out', sys.argv[2]])\n"
    )
    arguments = [sys.executable, "-c", script, str(ROOT), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "summary.json").exists()
    assert harness.launch(TOY, ["--out", str(tmp_path)]) == 0
    assert squared == [3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--numbers"], "--numbers is empty; give one."),
        (["--seed", "-1"], "--seed is -1"),
        (["--out", "FILE"], "is a file"),
        (["--out", "FILE/below"], "cannot be written"),
    ],
)
def test_what_the_user_can_fix_is_one_line_before_any_work(
    tmp_path: Path, capsys: Any, arguments: list[str], says: str
) -> None:
    (tmp_path / "file").write_text("")
    arguments = [text.replace("FILE", str(tmp_path / "file")) for text in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "new")]
    assert harness.launch(TOY, arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and says in said and "\n" not in said
    assert squared == [] and not (tmp_path / "new").exists()


@pytest.mark.parametrize("arguments", [["--unknown"], ["--seed", "x"], ["--numbers", "1.5"]])
def test_options_that_do_not_parse_end_with_status_2(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        harness.launch(TOY, arguments)
    assert stop.value.code == 2 and arguments[0] in capsys.readouterr().err and squared == []


def test_help_shows_units_defaults_and_the_question(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        harness.launch(TOY, ["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert "What to square [1]. (default: 1 2 3)" in " ".join(said.split())
    assert "Question: what is a square?\n" in said and all(f"--{name}" in said for name in ("out", "quick", "seed"))


def test_quick_changes_defaults_and_gives_way_to_options(tmp_path: Path) -> None:
    assert harness.launch(TOY, ["--quick", "--out", str(tmp_path / "a")]) == 0
    assert squared == [1] and read(tmp_path / "a")["quick"] is True
    assert harness.launch(TOY, ["--numbers", "4", "--quick", "--out", str(tmp_path / "b")]) == 0
    assert squared == [1, 4]


def test_other_options_in_the_same_folder_are_refused_unless_fresh(tmp_path: Path, capsys: Any) -> None:
    assert harness.launch(TOY, ["--out", str(tmp_path)]) == 0
    (tmp_path / "notes.txt").write_text("mine")
    before = (tmp_path / "summary.json").read_bytes()
    assert harness.launch(TOY, ["--out", str(tmp_path), "--numbers", "5"]) == 2
    said = capsys.readouterr().err
    assert "numbers was [1, 2, 3], now [5]" in said and "--fresh" in said
    assert (tmp_path / "summary.json").read_bytes() == before and squared == [1, 2, 3]
    assert harness.launch(TOY, ["--out", str(tmp_path), "--numbers", "5", "--fresh"]) == 0
    assert [row["number"] for row in read(tmp_path)["rows"]] == [5]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("config", ["{}", "not json", '{"experiment": "other", "options": {}}'])
def test_a_folder_of_something_else_is_refused_even_when_fresh(tmp_path: Path, capsys: Any, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert harness.launch(TOY, ["--out", str(tmp_path), "--fresh"]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == config


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, capsys: Any) -> None:
    with folder.locked(tmp_path):
        assert harness.launch(TOY, ["--out", str(tmp_path)]) == 2
    assert "another run is writing" in capsys.readouterr().err and squared == []


def test_an_edit_of_the_code_makes_rows_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness.launch(TOY, ["--out", str(tmp_path)]) == 0
    monkeypatch.setattr(manifest, "code_sha256", lambda modules: "another")
    assert harness.launch(TOY, ["--out", str(tmp_path)]) == 0
    assert squared == [1, 2, 3] * 2

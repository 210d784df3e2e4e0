"""Two versions in one run: who takes part, what is measured again and counts, and that a stopped run goes on."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from benchmarks.before_after import benchmark, pair, summary
from benchmarks.harness import process
from benchmarks.harness.timing import Turn, interleave
from tests.benchmarks.test_results import strictly

needs_git = pytest.mark.skipif(bool(pair._git("rev-parse", "HEAD").returncode), reason="no git checkout")


def rows_of(point: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in point["contestants"]}


@needs_git
def test_a_commit_against_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "prepare", lambda devices: {"cpu_devices": 1})
    path = tmp_path / "r.json"
    command = [
        "--before",
        "HEAD",
        "--after",
        "HEAD",
        "--cells",
        "gru",
        "--points",
        "2,3,2,4",
        "--tasks",
        "train",
        "--rounds",
        "1",
    ]
    command += ["--sample-ms", "0.001", "--below", "1e9", "--again", "1", "--json", str(path)]
    assert harness.launch(benchmark.BENCHMARK, command) == 0
    result = strictly(path)
    (point,) = result["points"]
    rows = rows_of(point)
    for name in ("after", "bare", "bare, concatenated"):
        assert "train: equal to before" in rows[name]["checked"]
    other = summary.HAIKU if importlib.util.find_spec("haiku") else summary.STAND_IN
    assert "train, reset before: equal to reset before" in rows[other]["checked"]
    assert point["counted"]["train"]["again"] == [point["counted"]["train"]["ratio"]]
    assert set(rows_of(point["again"]["train"][0])) == {"before", "after"}
    assert set(result["summary"]["ratios"]) == set(summary.ratios(point))
    assert result["compared"]["before"]["commit"] == pair.commit("HEAD")

    assert harness.launch(benchmark.BENCHMARK, command) == 0
    again = strictly(path)
    assert "in the file already" in capsys.readouterr().err
    assert again["points"] == result["points"] and len(again["stopped_and_resumed_utc"]) == 1


def test_the_working_tree_is_taken_as_it_is(tmp_path: Path) -> None:
    made = pair.extract("", tmp_path / "after")
    assert made["commit"] is None
    for name in ("rnnjax/cell.py", "benchmarks/before_after/worker.py"):
        assert (tmp_path / "after" / name).read_bytes() == (pair.ROOT / name).read_bytes()


def test_a_slow_point_counts_as_the_median_of_its_measurements_alone() -> None:
    left = [0.99, 0.9, 0.95]
    found = benchmark.counted(
        {"forward": 1.1, "train": 0.9, "other": None}, lambda task: left.pop(), benchmark.Options()
    )
    assert found["forward"] == {"first": 1.1, "again": [], "ratio": 1.1}
    assert found["train"] == {"first": 0.9, "again": [0.95, 0.9, 0.99], "ratio": 0.95}
    assert "other" not in found and not left


@needs_git
@pytest.mark.parametrize("option", ["before", "after"])
def test_a_commit_that_is_not_there_is_one_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness.launch(benchmark.BENCHMARK, [f"--{option}", "nowhere"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: --{option}: 'nowhere' is no commit") and "\n" not in said


def test_calls_of_another_process_are_timed_there() -> None:
    times = interleave({"there": Turn(lambda: None, sample=lambda calls: 2.0 * calls)}, rounds=3)
    assert times["there"].seconds == (2.0, 2.0, 2.0)

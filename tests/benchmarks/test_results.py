"""What is written: strict JSON, whole files, commands without paths, and the list of benchmarks."""

import dataclasses
import doctest
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.__main__ import main
from benchmarks.harness import about, process, results, statistics


@pytest.mark.parametrize("module", [about, results, statistics])
def test_examples_in_docstrings(module: Any) -> None:
    done = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted and not done.failed


def strictly(path: Path) -> Any:
    """Reads JSON as the standard has it: NaN and Infinity are errors."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_numbers_that_json_cannot_hold_become_null_and_are_listed(tmp_path: Path) -> None:
    given = {"a": [1.0, math.nan], "b": {"c": np.float32(-np.inf)}, "d": np.arange(2), "e": (True, None, 2**70)}
    results.write(tmp_path / "deep" / "r.json", given)
    read = strictly(tmp_path / "deep" / "r.json")
    assert read["a"] == [1.0, None] and read["b"] == {"c": None} and read["d"] == [0, 1]
    assert read["e"] == [True, None, 2**70]
    assert read["not_finite"] == ["a[1]: nan", "b.c: -inf"]


@pytest.mark.parametrize("bad", [{"a": object()}, {1: 2}, {"a": {2: 3}}])
def test_what_has_no_json_form_is_refused_and_the_file_stays(tmp_path: Path, bad: Any) -> None:
    results.write(tmp_path / "r.json", {"a": 1})
    with pytest.raises(TypeError):
        results.write(tmp_path / "r.json", bad)
    assert strictly(tmp_path / "r.json") == {"a": 1} and len(list(tmp_path.iterdir())) == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    steps: int = 3
    wrong: bool = False


def measure(run: harness.Run[Options]) -> None:
    def gives(name: str, value: float) -> harness.Contestant:
        program = harness.Program(lambda: value, lambda result: {"ys": [result]})
        return harness.Contestant(name, lambda: {"train": program})

    made = [gives("a", 1.0), gives("b", 2.0 if run.options.wrong else 1.0), harness.absent("c", "not here")]
    entries, _ = run.contest({"T": run.options.steps}, made)
    run.add({"T": run.options.steps, "contestants": [entry.row() for entry in entries]})
    run.table("Toy", ["a", "b"], [["x", 0.12345], ["y", None]])


TOY = harness.Benchmark("toy", "Toy.\n\nQuestion: what?\n", Options, measure, quick={"steps": 2})
FAST = ["--rounds", "1", "--sample-ms", "0.001"]


@pytest.fixture(autouse=True)
def _as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "prepare", lambda devices: {"cpu_devices": 1})


def test_a_run_writes_what_it_did(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "r.json"
    assert harness.launch(TOY, ["--steps", "5", "--json", str(path), *FAST, f"--figures={tmp_path}"]) == 0
    read = strictly(path)
    assert read["command"] == "python -m benchmarks.toy --steps 5 --rounds 1 --sample-ms 0.001"
    assert str(tmp_path) not in path.read_text()
    assert read["question"] == "what?" and read["options"]["steps"] == 5 and read["finished_utc"]
    assert {"cpu", "cores_usable", "versions", "load_at_start", "load_at_end", "process"} <= set(read["machine"])
    a, b, c = read["points"][0]["contestants"]
    assert a["tasks"]["train"]["samples_ms"] and b["checked"].startswith("train: equal to a")
    assert c == {"name": "c", "left_out": "not here", "tasks": {}}
    said = capsys.readouterr()
    assert "0.123" in said.out and "–" in said.out and "c left out: not here" in said.err


def test_other_numbers_give_status_1(tmp_path: Path, capsys: Any) -> None:
    assert harness.launch(TOY, ["--wrong", "--json", str(tmp_path / "r.json"), *FAST]) == 1
    assert "b refused" in strictly(tmp_path / "r.json")["faults"][0] and "b refused" in capsys.readouterr().err


def test_quick_changes_defaults_and_gives_way(tmp_path: Path) -> None:
    for arguments, steps in ((["--quick"], 2), (["--quick", "--steps", "9"], 9), ([], 3)):
        assert harness.launch(TOY, [*arguments, "--json", str(tmp_path / "r.json"), *FAST]) == 0
        assert strictly(tmp_path / "r.json")["options"]["steps"] == steps


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--devices", "-1"], ["--sample-ms", "nan"], ["--seed", "-1"], ["--json", "FOLDER"]],
)
def test_wrong_options_are_one_line(tmp_path: Path, capsys: Any, arguments: list[str]) -> None:
    arguments = [text.replace("FOLDER", str(tmp_path)) for text in arguments]
    assert harness.launch(TOY, arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: {arguments[0]} ") and "\n" not in said


def test_what_is_finished_survives_a_stop(tmp_path: Path) -> None:
    def stops(run: harness.Run[Options]) -> None:
        measure(run)
        raise KeyboardInterrupt

    toy = dataclasses.replace(TOY, measure=stops)
    assert harness.launch(toy, ["--json", str(tmp_path / "r.json"), *FAST]) == 130
    read = strictly(tmp_path / "r.json")
    assert len(read["points"]) == 1 and read["finished_utc"] is None


def test_the_list_has_every_benchmark_with_its_facts(capsys: Any) -> None:
    main()
    said = capsys.readouterr().out
    folder = Path(results.__file__).parents[1]
    packages = {path.parent.name for path in folder.glob("*/__main__.py")}
    assert (
        packages
        == {"before_after", "scan_vs_loop", "peers", "memory", "sweep", "observatory", "training", "tried"}
        == set(about.listed(folder))
    )
    for name, fields in about.listed(folder).items():
        assert list(fields) == ["Title", *about.FIELDS]
        assert f"{name}: {fields['Title']}" in said
        assert fields["Command"].startswith(f"python -m benchmarks.{name} --json benchmarks/results/")

"""All benchmarks: small runs in which numbers agree, recorded results that can still be shown, and the command line."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import contest, harness, peers, problems
from benchmarks.problems import GRID, Point, make_problem
from experiments import lab
from experiments.lab import style
from experiments.lab.options import described, listed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RECORDED = sorted(path for path in RESULTS.glob("*.json") if not path.name.startswith("profile"))
TINY = {
    "scan_vs_loop": "--cell elman --sizes 2,1,2 --steps 2 --jitted-train-steps 2 --linear-cells lru --linear-steps 3 "
    "--parallel-cells elman --parallel-sizes 1,1,2 --parallel-steps 3",
    "memory": "--cell elman --size 1,1,2 --steps 4 7 --every 3 --losses last --jitted-steps 7",
    "observatory": "--hidden 4 --shares 1 --intervals 2 --gains 2 --seeds 1 --steps 8 --few 1 --processes 1",
    "online": "--hidden 2 --steps 3",
    "sweep": "--hidden 2 --scales 2 --seeds 1 --lengths 3 --few 1 --engine scan",
    "tried": "--cells elman --points 2,5,1,4",
    "training": "--settings temporal_order,elman,2,10,2 --updates 10",
    "peers": "--cells gru --points 2,3,2,4 --others ugrnn --others-point 2,3,4,4 --batches padded --generic --doors",
}
FAST = ["--quick", "--rounds", "1", "--sample-ms", "0.001", "--devices", "2"]
NOT_IN_TINY = {"scan_vs_loop": {"jitted loop (train)", "jitted loop (forward)"}}
NOT_IN_TINY |= {"observatory": {"one program, N at once, N processes", "the products alone"}}
WRONG = ["scan_vs_loop --rounds 0", "scan_vs_loop --json .", "scan_vs_loop --sizes 8,32", "peers --points 8,0,32,64"]
WRONG += ["sweep --lengths 50 25", "observatory --intervals 2", "training --settings copy,lstm,1,20,1"]
WRONG.append("training --updates 15")
MAY_BE_LEFT_OUT = "devices are asked for|nothing plans its memory|not installed|neither lengths nor a mask|no such cell"


def benchmark(name: str) -> harness.Benchmark:
    return importlib.import_module(f"benchmarks.{name}").benchmark


def strictly(path: Path) -> Any:
    """Reads JSON as the standard has it: NaN and Infinity are errors."""
    return json.loads(path.read_text(), parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))


def check(name: str, result: dict[str, Any]) -> None:
    """The contestants are those on record, and each has a time and agrees with the reference, or says why not."""
    recorded = strictly(RESULTS / f"{name}.json")
    there, here = ({re.sub(r"\d+", "N", n) for n in harness.names(r["points"])} for r in (recorded, result))
    assert there - NOT_IN_TINY.get(name, set()) <= here
    assert set(recorded) - {"captions"} <= set(result) and set(recorded["points"][0]) <= {
        *result["points"][0],
        "left_out",
    }
    assert result["points"] and not result["faults"]
    for row in (row for point in result["points"] for row in point["contestants"]):
        if "left_out" in row:
            assert re.search(MAY_BE_LEFT_OUT, row["left_out"]), row
        else:
            said = row["checked"].count("equal to ") + row["checked"].count(": the reference")
            assert said == len(row["tasks"]) or row["checked"].startswith("not compared: "), row
            assert all(task["median_ms"] > 0 for task in row["tasks"].values())


@pytest.mark.parametrize("name", [name for name in TINY if name != "peers"])
def test_a_small_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, on the one device that it has."""
    monkeypatch.setattr(contest, "prepare", lambda devices: {"cpu_devices": 1})
    command = [*FAST, *TINY[name].split(), "--json", str(tmp_path / "deep" / "r.json")]
    figures = ["--figures", str(tmp_path)] if name == "sweep" else []
    assert benchmark(name).launch([*command, *figures]) == 0
    result = strictly(tmp_path / "deep" / "r.json")
    check(name, result)
    assert str(tmp_path) not in json.dumps(result) and result["finished_utc"]
    assert result["command"] == f"python -m benchmarks.{name} {' '.join([*FAST, TINY[name]])}"
    if figures:
        assert result["figures"] == ["sweep.png", "sweep.svg"] and result["captions"]["sweep.png"]
        assert all((tmp_path / figure).stat().st_size > 1000 for figure in result["figures"])


def test_peers_in_a_process_of_its_own_on_two_devices(tmp_path: Path) -> None:
    """Peers that are there agree with rnnjax, in a padded batch too; those that are not are named as not installed."""
    path = tmp_path / "r.json"
    command = [sys.executable, "-m", "benchmarks.peers", *FAST, *TINY["peers"].split(), "--json", str(path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    result = strictly(path)
    check("peers", result)
    assert result["machine"]["device_count"] == 2 and result["machine"]["process"]["cpu_devices"] == 2
    rows, ratios = harness.by_name(result["points"][0]), result["points"][0]["ratios"]["train"]
    assert rows["rnnjax, split"]["tasks"] and rows["Flax nnx"]["checked"].endswith("has no b_hn")
    assert result["points"][1]["ratios"]["train"]["fastest_peer"] == "Flax linen"
    assert ratios["fastest_peer"] and ratios["rnnjax in linen_vs_flax"] > 0 and ratios["rnnjax in nnx_vs_flax"] > 0


class Page(lab.Page):
    """Looks at figures in place of saving them: a title, letters where there are several panels, units on axes."""

    def figure(self, name: str, fig: Any, *, alt: str, caption: str) -> None:
        self.figures.append({"name": name})
        assert alt and caption and fig.get_suptitle()
        labels = [label for ax in fig.axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        assert fig.axes[-1].get_xlabel() and all(re.search(r"\[.+\]|^B, T, D, H$", label) for label in labels)
        titles = [ax.get_title(loc="left") for ax in fig.axes]
        assert len(titles) == 1 or all(t.startswith(f"({c}) ") for c, t in zip("abcdef", titles, strict=False))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_results_can_be_shown_and_summed_up(path: Path) -> None:
    result = strictly(path)
    page, of = Page(), benchmark(result["benchmark"])
    if "summary" in result:
        overall = importlib.import_module(f"benchmarks.{result['benchmark']}").overall
        both = overall(result["points"]), result["summary"]
        now, then = (json.loads(json.dumps(each), parse_float=lambda text: f"{float(text):.9g}") for each in both)
        assert now == then
    of.tables(result, page)
    assert len(page.blocks) > 1 and all(block["rows"] for block in page.blocks)
    if of.draw is not None:
        with style.plotting():
            of.draw(result, page)
        assert page.figures


def test_a_refused_contestant_gives_status_1_and_a_stop_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contest, "prepare", lambda devices: {})

    def gives(name: str, value: float) -> contest.Contestant:
        program = contest.Program(lambda: value, lambda result: {"ys": [result]})
        return contest.Contestant(name, lambda: {"train": program})

    def measure(options: harness.Options, run: harness.Run) -> None:
        made = [gives("a", 1.0), gives("b", 2.0), contest.Contestant("c", left_out="not here")]
        run.add(run.contest({"T": 1}, made, forward_flops=1e6))
        if options.seed:
            raise KeyboardInterrupt

    toy, path = harness.Benchmark(harness.Options, measure), tmp_path / "r.json"
    command = ["--rounds", "1", "--sample-ms", "0.001", "--json", str(path)]
    assert toy.launch(command) == 1
    said, result = capsys.readouterr(), strictly(path)
    assert "b refused" in result["faults"][0] and "b refused" in said.err and "c: not here" in said.out
    assert result["points"][0]["floor"]["train_ms"] == pytest.approx(3 * result["points"][0]["floor"]["forward_ms"])
    assert toy.launch([*command, "--seed", "1"]) == 130
    assert len(strictly(path)["points"]) == 1 and strictly(path)["finished_utc"] is None


@pytest.mark.parametrize("command", WRONG)
def test_wrong_options_are_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *arguments = command.split()
    assert benchmark(name).launch(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: --") and arguments[0] in said and "\n" not in said


def test_the_list_has_every_benchmark_with_its_facts() -> None:
    found = listed(ROOT / "benchmarks")
    assert set(found) == set(TINY)
    for name, fields in found.items():
        assert list(fields) == ["Title", "Question", "Command", "Minutes", "Expected"]
        assert fields["Command"].startswith(f"python -m benchmarks.{name} --json benchmarks/results/")
        assert described(importlib.import_module(f"benchmarks.{name}").__doc__ or "") == fields


def test_problems() -> None:
    assert Point.parse(GRID[1]) == Point(B=8, T=200, D=32, H=64) == Point.of_size("8,32,64", 200)
    problem = make_problem("gru", Point(16, 20, 2, 3), padded=True)
    assert problem.xs.dtype == np.float32 and problem.weights["w_h"].shape == (3, 9)
    assert problem.lengths is not None and problem.lengths[0] == 20
    assert 5 <= problem.lengths.min() < 20 and (problem.counts.sum(0) == problem.lengths).all()
    whole = make_problem("gru", Point(16, 20, 2, 3)).forward_flops
    assert whole == 2 * 20 * 16 * (2 + 3) * 3 * 3
    assert problem.forward_flops == whole * problem.lengths.sum() / (16 * 20)
    floor = problems.floor_row(median_ms=1000.0, matmul_flops=2e9, forward_flops=1e9)
    assert floor == pytest.approx({"gflops_per_s": 2.0, "forward_ms": 500.0, "train_ms": 1500.0})


def test_ratios_are_against_the_fastest_peer_and_means_are_geometric() -> None:
    def point(cell: str, **ms: float) -> dict[str, Any]:
        rows = [{"name": name, "tasks": {task: {"median_ms": t} for task in peers.TASKS}} for name, t in ms.items()]
        made = {"cell": cell, "point": "16,9,9,128", "padded": False, "contestants": rows}
        made["floor"] = {"forward_ms": 1.0, "train_ms": 2.0}
        return {**made, "ratios": peers.ratios(made)}

    times = {"rnnjax": 4.0, "rnnjax, split": 2.0, "Haiku": 8.0, "Keras": 12.0, "PyTorch": 3.0}
    dense = point("lstm", **times, **{"Flax nnx": 9.0, "rnnjax in nnx": 6.0})
    expected = {"fastest_peer": "Haiku", "one_vs_peer": 2.0, "best_vs_peer": 4.0, "one_vs_torch": 0.75}
    expected |= {"best_vs_torch": 1.5, "one_over_floor": 2.0, "best_over_floor": 1.0, "generic_over_one": None}
    expected |= {"rnnjax in nnx_vs_flax": 1.5, "rnnjax in linen_vs_flax": None}
    assert dense["ratios"]["train"] == expected
    groups = {(row["group"], row["task"]): row for row in peers.overall([dense, point("gru", rnnjax=1.0, Keras=8.0)])}
    mean = groups["dense, all cells", "train"]["one_vs_peer"]
    assert mean == {"geomean": pytest.approx(4.0), "worst": 2.0, "of": 2}
    assert groups["dense, gru", "train"]["one_vs_torch"] is None

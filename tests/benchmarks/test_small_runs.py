"""Every benchmark from its command line, at the smallest sizes: numbers agree, everybody is accounted for."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness, ours
from benchmarks.harness import process
from benchmarks.memory import benchmark as memory
from benchmarks.memory import by_hand
from benchmarks.observatory import benchmark as observatory
from benchmarks.problems import Point, make_problem
from benchmarks.scan_vs_loop import benchmark as scan_vs_loop
from benchmarks.sweep import benchmark as sweep
from benchmarks.sweep.settings import Sweep
from benchmarks.tried import benchmark as tried
from tests.benchmarks.test_results import strictly

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--quick", "--rounds", "1", "--sample-ms", "0.001"]


def launched(benchmark: harness.Benchmark, arguments: list[str], place: Path, monkeypatch: Any) -> dict[str, Any]:
    """A run in this process, on the one device it has."""
    monkeypatch.setattr(process, "prepare", lambda devices: {"cpu_devices": 1})
    command = [*TINY, *arguments, "--json", str(place / "r.json"), "--figures", str(place)]
    assert harness.launch(benchmark, command) == 0
    result = strictly(place / "r.json")
    assert result["faults"] == [] and result["figures"]
    for name in result["figures"]:
        data = (place / name).read_bytes()
        assert data.startswith(b"\x89PNG") if name.endswith("png") else b"</svg>" in data
    return result


def by_name(point: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in point["contestants"]}


def test_scan_vs_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--cell", "elman", "--sizes", "2,1,2", "--steps", "2", "9", "--train-seconds", "2e-9"]
    first, second = launched(scan_vs_loop.BENCHMARK, arguments, tmp_path, monkeypatch)["points"]
    rows = by_name(first)
    assert {"scan", "scan×4", "scan×16", "jitted loop", "eager loop", *ours.FAST_ENGINES} <= set(rows)
    for name, row in rows.items():
        if row["tasks"]:
            assert set(row["tasks"]) == {"forward", "train"} and row["checked"].count("train: ") == 1, name
            assert all(task["median_ms"] > 0 for task in row["tasks"].values())
            assert name == "eager loop" or row["tasks"]["train"]["temp_bytes"] > 0
    split = [row for name, row in rows.items() if name.endswith("devices")]
    assert all("devices are asked for" in row["left_out"] for row in split)
    assert "--train-seconds" in second["left_out"] and first["floor"]["train_ms"] > 0


def test_loops_are_left_out_beyond_their_limits_and_it_is_said() -> None:
    options = scan_vs_loop.Options(eager_steps=2, jitted_steps=3, jitted_train_steps=2)
    for T, left_out in ((2, []), (3, ["jitted loop (train)", "eager loop"]), (4, ["jitted loop (forward)"])):
        made = {c.name: c for c in scan_vs_loop.contestants(make_problem("elman", Point(2, T, 1, 2)), options)}
        assert ("jitted loop" in made) == (T < 4) and ("eager loop" in made)
        for name in left_out:
            with pytest.raises(harness.LeftOut, match="beyond --"):
                made[name].build()


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--cell", "elman", "--size", "1,1,2", "--steps", "7", "--every", "3", "--losses", "last"]
    result = launched(memory.BENCHMARK, arguments, tmp_path, monkeypatch)
    rows = by_name(result["points"][0])
    assert "nothing plans its memory" in rows["eager loop"]["left_out"]
    for engine in ("scan", *ours.FAST_ENGINES):
        assert rows[engine]["tasks"]["train"]["temp_bytes"] > 0
        for policy in ("every 3", "sqrt", "within 16 MiB"):
            row = rows[f"{engine}, {policy}"]
            assert "equal to scan" in row.get("checked", "") or "in this version" in row["left_out"]
    assert "equal to scan" in rows["by hand: √T stretches"]["checked"]


def test_observatory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--hidden", "4", "--shares", "1", "--intervals", "2", "--gains", "2", "--seeds", "1", "--steps", "8"]
    arguments += ["--few", "1", "--devices", "2", "--processes", "1", "--at-once", "1"]
    result = launched(observatory.BENCHMARK, arguments, tmp_path, monkeypatch)
    rows = by_name(result["points"][0])
    for name in ("one program, 1 at once", "NumPy", "SciPy", "NumPy, QR as seldom", "NumPy, networks stacked"):
        for task in ("spectrum", "leading"):
            assert f"{task}: equal to one program" in rows[name]["checked"], name
            assert rows[name]["tasks"][task]["median_ms"] > 0
    assert "devices are asked for" in rows["one program, 1 at once, 2 devices"]["left_out"]


def test_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--hidden", "2", "--scales", "2", "--seeds", "1", "--lengths", "3", "--few", "1", "--engine", "scan"]
    result = launched(sweep.BENCHMARK, arguments, tmp_path, monkeypatch)
    rows = by_name(result["points"][0])
    assert result["points"][0]["settings"] == 2
    whole = ("one program", "a call a setting", "a call a setting, cut")
    few = ("compiled for every setting", "Python loop")
    assert {name: row["settings"] for name, row in rows.items() if row["tasks"]} == {
        **dict.fromkeys(whole, 2),
        **dict.fromkeys(few, 1),
    }
    assert all("equal to one program" in rows[name]["checked"] for name in (*whole[1:], *few))


def test_a_sweep_runs_every_combination_and_spreads_the_few() -> None:
    settings = Sweep(4, (0.5, 1.0), (7, 8), (2, 3, 5), few=3)
    assert len(settings) == 12 == len(set(settings.settings())) and settings.chosen() == [0, 6, 11]
    assert settings.settings()[:4] == [(0.5, 7, 2), (0.5, 7, 3), (0.5, 7, 5), (0.5, 8, 2)]
    assert settings.forward_flops == 2 * (1 + 4) * 4 * (2 + 3 + 5) * 4


def test_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every idea computes what the engine, or the product, computes as it is."""
    arguments = ["--cells", "elman", "--points", "2,5,1,4"]
    result = launched(tried.BENCHMARK, arguments, tmp_path, monkeypatch)
    for point in result["points"]:
        reference, *others = point["contestants"]
        assert reference["name"] in ("as it is", "h W") and len(others) in (7, 3)
        for row in others:
            assert row["checked"].count(f"equal to {reference['name']}") == 2, row["name"]


def test_peers_in_a_process_of_its_own_on_two_devices(tmp_path: Path) -> None:
    """Peers that are there agree with rnnjax, in a padded batch too; those that are not are named as not installed."""
    command = [sys.executable, "-m", "benchmarks.peers", *TINY, "--cells", "gru", "--points", "2,3,2,4"]
    options = ["--batches", "padded", "--devices", "2", "--generic", "--doors"]
    where = ["--json", str(tmp_path / "r.json"), "--figures", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
    done = subprocess.run(
        [*command, *options, *where],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = strictly(tmp_path / "r.json")
    rows = by_name(result["points"][0])
    assert result["machine"]["device_count"] == 2 and result["machine"]["process"]["cpu_devices"] == 2
    for name in ("rnnjax, split", "rnnjax, generic", "Flax linen", "Flax nnx", "rnnjax in linen", "rnnjax in nnx"):
        assert rows[name]["checked"].count("equal to rnnjax") == 2, name
    assert rows["Flax nnx"]["checked"].endswith("has no b_hn")
    assert all(result["points"][0]["ratios"]["train"][f"rnnjax in {kind}_vs_flax"] > 0 for kind in ("linen", "nnx"))
    for name, package in {"Haiku": "haiku", "Equinox": "equinox", "Keras": "keras", "PyTorch": "torch"}.items():
        installed = importlib.util.find_spec(package) is not None
        assert ("not installed" in rows[name].get("left_out", "")) == (not installed)
        assert installed or f"{name}: not installed" in done.stdout
    if importlib.util.find_spec("torch"):
        assert rows["PyTorch"]["checked"].count("equal to rnnjax") == 2
    assert result["points"][0]["ratios"]["train"]["fastest_peer"] is not None
    assert "peers-train-padded.svg" in result["figures"]


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_memory_by_hand_is_a_scan(steps: int) -> None:
    import jax
    import jax.numpy as jnp

    def step(carry: Any, x: Any) -> Any:
        carry = jnp.sin(carry) + x
        return carry, 2.0 * carry

    xs = jnp.linspace(0.0, 1.0, steps * 2).reshape(steps, 2)
    expected = jax.lax.scan(step, jnp.ones(2), xs)
    for unrolled in (by_hand.scan_of_steps, by_hand.scan_of_scans):
        for got, wanted in zip(unrolled(step, jnp.ones(2), xs), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)

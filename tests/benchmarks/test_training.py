"""The training benchmark from its command line, at the smallest size: everybody takes part and agrees."""

from pathlib import Path

import pytest

from benchmarks.training import benchmark
from benchmarks.training.model import Setting
from benchmarks.training.summary import times_loop
from tests.benchmarks.test_small_runs import by_name, launched


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--settings", "temporal_order,elman,2,10,2", "--updates", "10"]
    (point,) = launched(benchmark.BENCHMARK, arguments, tmp_path, monkeypatch)["points"]
    rows = by_name(point)
    assert "2 devices are asked for" in rows.pop("rnnjax fit, 2 devices")["left_out"]
    assert len(rows) == 4
    for name, row in rows.items():
        assert name == "Flax + Optax loop" or "equal to Flax + Optax loop" in row["checked"], row
        ratio = times_loop(point, name)
        assert ratio is not None and ratio > 0


@pytest.mark.parametrize("text", ["adding,lstm,1,2", "copy,lstm,1,20,1", "adding,mgu,1,20,1", "adding,lstm,0,20,1"])
def test_a_setting_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="task"):
        Setting.parse(text)

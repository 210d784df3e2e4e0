"""Gradient decay from its command line: what a run leaves, how it goes on, and what is refused before any work."""

import hashlib
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from experiments import harness
from experiments.data import stocks
from experiments.gradient_decay import __main__ as main
from tests.experiments.toy import read

ROOT = Path(__file__).resolve().parents[2]

MY_CELLS = """
import dataclasses, jax.numpy as jnp, rnnjax

@dataclasses.dataclass(frozen=True)
class MyCell(rnnjax.Cell):
    hidden_size: int

    def init(self, key, input_size, dtype=None):
        return rnnjax.elman_init(key, input_size, self.hidden_size, dtype=dtype)
    def initial_carry(self, params, batch_shape=()):
        return rnnjax.elman_initial_carry(params, batch_shape)
    def step(self, params, h, x):
        h = 0.5 * h + 0.5 * jnp.tanh(x @ params.w_x + h @ params.w_h + params.b)
        return h, h
"""
"""A leaky unit, in a file of the user's own."""

ARGUMENTS = [
    *("--cells", "linear", "--cell", "my_cells:MyCell", "--scales", "0.5", "2"),
    *("--lengths", "5", "51", "--seeds", "2", "--hidden-size", "8", "--quick"),
]

ROW = {
    "cell", "kind", "scale", "length", "log10_gradient_mean", "log10_gradient_std", "rate_nats_per_step",
    "predicted_rate_nats_per_step", "input",
}  # fmt: skip
"""What the issue of this experiment asks of every row, to the letter."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run as a user starts it: another folder, a cell in a file there, Python's -m."""
    home = tmp_path_factory.mktemp("home")
    (home / "my_cells.py").write_text(MY_CELLS)
    command = [sys.executable, "-m", "experiments.gradient_decay", *ARGUMENTS, "--out", "new/results"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "open new/results/report.html" in done.stdout
    assert "linear" in done.stdout and "my_cells:MyCell" in done.stdout
    return home / "new" / "results"


def test_the_folder_is_complete(finished: Path) -> None:
    """Numbers, pictures in two formats, a page; strict JSON throughout; nothing left half written."""
    names = {path.name for path in finished.iterdir()}
    pictures = {f"{name}.{ending}" for name in ("decay", "map", "rates") for ending in ("png", "svg")}
    assert names == {"config.json", "summary.json", "report.html", "rows.jsonl", "rows"} | pictures
    config = read(finished, "config.json")
    assert config["experiment"] == "gradient_decay" and config["x64"] is True and config["seed"] == 0
    assert config["options"]["lengths"] == [5, 51] and config["options"]["cell"] == "my_cells:MyCell"
    assert config["versions"]["jax"] and config["finished_utc"] and config["code_sha256"]
    for name in pictures:
        data = (finished / name).read_bytes()
        if name.endswith("png"):
            assert data.startswith(b"\x89PNG") and len(data) > 5000
        else:
            assert ElementTree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_rows_are_those_that_were_promised(finished: Path) -> None:
    """Every combination once, each with the promised keys, units in the names, and the input by hash."""
    summary = read(finished)
    rows = summary["rows"]
    assert len(rows) == 2 * 2 * 2 * 2 and all(set(row) >= ROW for row in rows)
    combinations = {(row["cell"], row["kind"], row["scale"], row["length"]) for row in rows}
    cells, kinds = ("linear", "my_cells:MyCell"), ("orthogonal", "gain")
    assert combinations == {(c, k, s, t) for c in cells for k in kinds for s in (0.5, 2.0) for t in (5, 51)}
    file = hashlib.sha256(stocks.PATH.read_bytes()).hexdigest()
    assert summary["input"]["sha256"] == file and summary["input"]["tickers"] == ["AAPL", "IBM", "MSFT"]
    for row in rows:
        assert row["input"] == {"source": stocks.SOURCE, "sha256": file}
        assert row["verdict"] in ("vanishing", "stable", "exploding")
        if row["cell"] != "linear":
            assert row["predicted_rate_nats_per_step"] is None and row["prediction"] is None
            assert row["rate_nats_per_step"] is not None and row["log10_gradient_mean"] is not None
        elif row["kind"] == "orthogonal":
            expected = math.log(row["scale"])
            assert row["rate_nats_per_step"] == pytest.approx(expected, abs=1e-11)
            assert row["predicted_rate_nats_per_step"] == pytest.approx(expected, abs=1e-15)
    found = {(row["kind"], row["scale"]): row for row in rows if row["cell"] == "linear" and row["length"] == 51}
    assert found["orthogonal", 0.5]["half_life_steps"] == pytest.approx(1)
    assert found["orthogonal", 0.5]["verdict"] == "vanishing" and found["orthogonal", 2.0]["verdict"] == "exploding"
    assert [case["gradient"] for case in summary["scalar_cases"]] == [2.0**-50, 2.0**50]
    assert [len(summary[name]) for name in ("lag_rows", "figures")] == [8, 3]
    assert summary["rows_computed_count"] == 2 and summary["rows_reused_count"] == 0


def test_the_page_stands_alone(finished: Path) -> None:
    """It can be mailed: pictures inside, nothing fetched from anywhere, words for who does not see them."""
    page = (finished / "report.html").read_text()
    fetched = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import\s+(\S+)""", page)
    references = [next(filter(None, each), "") for each in fetched]
    assert all(each.startswith(("data:", "#")) for each in references if each), references
    assert "<script" not in page.lower()
    images = re.findall(r"<img\b[^>]*>", page)
    assert len(images) == 3
    for image in images:
        alt = re.search(r'alt="([^"]*)"', image)
        assert 'src="data:image/' in image and alt and len(alt[1]) > 40
    assert "2 to the power 50 is 1125899906842624 as measured" in page and "my_cells:MyCell" in page


def refuse(*args: Any) -> None:
    raise AssertionError("computed again")


def test_the_same_command_computes_nothing_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both cells' rows are found; figures and page are drawn anew from them, and the numbers are the same."""
    monkeypatch.syspath_prepend(finished.parents[1])
    before = read(finished)
    monkeypatch.setattr(main, "measure_cell", refuse)
    assert harness.launch(main.EXPERIMENT, [*ARGUMENTS, "--out", str(finished)]) == 0
    after = read(finished)
    assert after["rows_reused_count"] == 2 and after["rows_computed_count"] == 0
    for name in ("rows", "lag_rows", "scalar_cases", "input"):
        assert after[name] == before[name]


class NowMeasuring(Exception):
    """Which cell a run came to."""


def test_an_edited_cell_is_measured_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a user's cell depend on the user's file; those of the others stay."""
    monkeypatch.syspath_prepend(finished.parents[1])

    def stop(options: Any, name: str, *rest: Any) -> None:
        raise NowMeasuring(name)

    monkeypatch.setattr(main, "_measure", stop)
    file = finished.parents[1] / "my_cells.py"
    try:
        file.write_text(MY_CELLS.replace("0.5 * h", "0.9 * h"))
        with pytest.raises(NowMeasuring, match="my_cells:MyCell"):
            harness.launch(main.EXPERIMENT, [*ARGUMENTS, "--out", str(finished)])
    finally:
        file.write_text(MY_CELLS)


def test_other_options_in_that_folder_are_refused(finished: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(finished.parents[1])
    before = (finished / "summary.json").read_bytes()
    assert harness.launch(main.EXPERIMENT, [*ARGUMENTS, "--seeds", "3", "--out", str(finished)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "seeds was 2, now 3" in said and "\n" not in said
    assert (finished / "summary.json").read_bytes() == before


OURS = "tests.experiments.decay_cells"

REFUSED = [
    (["--cells", "linear", "lstn"], "--cells lstn: unknown; choose from linear, tanh, relu, lstm, gru."),
    (["--cells"], "--cells is empty"),
    (["--cells", "tanh", "tanh"], "--cells names one twice"),
    (["--scales", "1", "nan"], "--scales has [nan]"),
    (["--scales", "inf"], "--scales has [inf]"),
    (["--scales", "0"], "--scales has [0.0]; a scale is a finite number above zero."),
    (["--scales", "0.5", "-1"], "--scales has [-1.0]"),
    (["--scales"], "--scales is empty"),
    (["--lengths", "1"], "--lengths has 1; a gradient needs at least 2 steps"),
    (["--lengths", "5", "3270"], "--lengths has 3270, but AAPL, IBM, MSFT share only 3269 days"),
    (["--lengths", "5", "200", "--tickers", "FB"], "FB share only 195 days"),
    (["--lengths", "5", "5"], "--lengths names one twice"),
    (["--tickers", "IBM", "XYZ"], "XYZ"),
    (["--seeds", "0"], "--seeds is 0"),
    (["--hidden-size", "-3"], "--hidden-size is -3"),
    (["--kinds"], "--kinds is empty"),
    (["--seed", "-1"], "--seed is -1"),
    (["--cell", "MyCell"], "--cell MyCell: write package.module:name"),
    (["--cell", "no_such_module:MyCell"], "cannot be imported (No module named 'no_such_module')"),
    (["--cell", f"{OURS}:Missing"], "has no attribute 'Missing'"),
    (["--cell", ":MyCell"], "cannot be imported"),
    (["--cell", "math:pi"], "calling it with hidden_size=64 failed"),
    (["--cell", f"{OURS}:NotACell"], "has no init, initial_carry, step; see rnnjax.Cell."),
    (["--cell", f"{OURS}:WantsMore"], "calling it with hidden_size=64 failed"),
    (["--cell", f"{OURS}:SmallOnly"], "only small ones"),
    (["--cell", f"{OURS}:Unhashable"], "has no hash; make it a frozen dataclass."),
    (["--cell", f"{OURS}:Unscalable"], "none of its parameters is called `w_h`"),
    (["--cell", f"{OURS}:Diagonal"], "its `w_h` is [64]; it can be redrawn if it is [H, gates * H]."),
    (["--cell", f"{OURS}:TwoOutputs"], "its output y must be one vector"),
    (["--cell", f"{OURS}:Float32"], "two steps of it in float64 fail"),
    (["--cell", f"{OURS}:NoDtype"], "two steps of it in float64 fail"),
    (["--cell", "rnnjax:Bidirectional"], "calling it with hidden_size=64 failed"),
    (["--out", "FILE"], "is a file"),
    (["--out", "FILE/below"], "cannot be written"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_what_the_user_can_fix_is_one_line_before_any_work(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.setattr(main, "measure", refuse)
    (tmp_path / "file").write_text("")
    arguments = [text.replace("FILE", str(tmp_path / "file")) for text in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "new")]
    assert harness.launch(main.EXPERIMENT, arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and says in said and "\n" not in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("arguments", [["--kinds", "uniform"], ["--lengths", "2.5"], ["--input", "music"], ["--scale"]])
def test_options_that_do_not_parse_end_with_status_2(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        harness.launch(main.EXPERIMENT, arguments)
    assert stop.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_help_has_units_defaults_and_the_expected_numbers(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        harness.launch(main.EXPERIMENT, ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for words in (
        "H [units].",
        "Sequence lengths [steps]",
        "(default: stocks)",
        "Expected:",
        "Minutes:",
        "package.module",
    ):
        assert words in said, words

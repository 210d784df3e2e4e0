"""The harness through its front door: what is refused before work, what survives, and what is left in the folder."""

import functools
import html.parser
import json
import math
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import lab
from experiments.lab import identity, processes, run, strict_json, style
from experiments.lab.options import listed
from experiments.lab.page import heading, shown
from experiments.lab.rows import Store
from rnnjax import processes as library_processes
from tests.experiments import browser
from tests.experiments.toy import STOP, TOY, Options, square, squared, squares

ROOT = Path(__file__).resolve().parents[2]
NUMBERS_COME_FROM = ("python", "jax", "jaxlib", "numpy", "optax")


@pytest.fixture(autouse=True)
def forget() -> None:
    squared.clear()
    STOP.clear()


def read(folder: Path, name: str = "summary.json") -> Any:
    """JSON as the standard has it: NaN and Infinity are errors."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads((folder / name).read_text(), parse_constant=refuse)


def test_a_run_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    with jax.enable_x64(False):
        assert TOY.launch(["--out", str(tmp_path), "--numbers", "0", "2"]) == 0
        assert jax.numpy.ones(()).dtype == np.float32, "float64 holds inside the run only"
    names = {path.name for path in tmp_path.iterdir()} - {".lock"}
    pictures = {"squares.png", "squares.svg"}
    assert names == {"config.json", "summary.json", "rows.jsonl", "rows", "report.html"} | pictures
    config, summary = read(tmp_path, "config.json"), read(tmp_path)
    row = {"number": 0, "square": 0, "log": None, "log_reason": "-inf", "pair": [0, 0]}
    assert summary["rows"][0] == row and summary["rows_computed_count"] == 2
    assert config["options"] == {"numbers": [0, 2], "quick": False, "seed": 0}
    assert config["versions"]["jax"] == jax.__version__ and config["versions"]["optax"] and config["finished_utc"]
    assert config["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", config["git_commit"])
    line = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert line["versions"]["jax"] == jax.__version__ and {"python", "optax"} <= set(line["versions"])


def test_an_experiment_is_a_function_that_returns_rows(tmp_path: Path) -> None:
    """Nothing is written unless a folder is named; a fresh row equals a reloaded one; a frame has no arrays."""
    rows = TOY(numbers=(2, 3))
    assert [row["square"] for row in rows] == [4, 9] and rows[0]["curve"].tolist() == [0, 2, 4]
    assert list(rows.frame()["square"]) == [4, 9] and "curve" not in rows.frame()
    for again in (TOY(numbers=(2, 3), out=tmp_path), TOY(numbers=(2, 3), out=tmp_path)):
        for row, other in zip(rows, again, strict=True):
            assert row.plain == other.plain
            np.testing.assert_array_equal(row["curve"], other["curve"])
    assert squared == [2, 3] * 2 and read(tmp_path)["rows_reused_count"] == 2
    assert TOY.page(rows, numbers=(2, 3)).summary["rows"][0]["square"] == 4
    assert [row["square"] for row in TOY(quick=True)] == [1]
    with pytest.raises(lab.UsageError, match="--number is no option"):
        TOY(number=3)


@pytest.mark.parametrize("together", [2, ("number",), ()])
def test_rows_that_are_computed_together(tmp_path: Path, together: Any) -> None:
    """Several rows in a call, those that the folder lacks, in the order in which they were asked for."""
    sizes = {2: [2, 1], ("number",): [1, 1, 1], (): [3]}[together]
    calls: list[int] = []

    def many(asked: list[dict[str, Any]], scale: int) -> list[dict[str, Any]]:
        calls.append(len(asked))
        return [{"value": scale * each["number"], "array": np.ones(each["number"])} for each in asked]

    many.__qualname__ = "squares"  # of the toy, for the row's identity
    many.__module__ = squares.__module__
    for numbers, expected in (([5, 3, 4], sizes), ([4, 6, 5], [1])):
        calls.clear()
        own = run.Run(Options(), tmp_path, x64=True, quiet=True)
        rows = own.rows(many, [{"number": n} for n in numbers], together=together, given={"scale": 10})
        assert [row["value"] for row in rows] == [10 * n for n in numbers] and calls == expected
        assert [len(row["array"]) for row in rows] == numbers


def test_a_new_number_is_computed_alone_and_fresh_starts_over(tmp_path: Path) -> None:
    TOY(out=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    TOY(out=tmp_path, numbers=(1, 2, 3, 5))
    assert squared == [1, 2, 3, 5]
    TOY(out=tmp_path, numbers=(5,), fresh=True)
    assert squared == [1, 2, 3, 5, 5] and len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_other_code_versions_or_precision_make_rows_stale(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    for change in (
        lambda: monkeypatch.setattr(identity, "code_sha256", lambda _: "other"),
        lambda: monkeypatch.setattr(run.machine, "versions", lambda: dict.fromkeys(NUMBERS_COME_FROM)),
    ):
        TOY(out=tmp_path, numbers=(1,))
        change()
    assert TOY.launch(["--numbers", "1", "--out", str(tmp_path)]) == 0
    assert squared == [1, 1, 1] and "made by other code or versions" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path: Path, capsys: Any) -> None:
    STOP["at"] = 3
    assert TOY.launch(["--out", str(tmp_path)]) == 130
    said = capsys.readouterr().err
    assert "finished rows are kept" in said and str(tmp_path) in said and "Traceback" not in said
    assert squared == [1, 2] and read(tmp_path, "config.json")["finished_utc"] is None
    STOP.clear()
    assert TOY.launch(["--out", str(tmp_path)]) == 0 and squared == [1, 2, 3]


def test_a_killed_run_goes_on_too(tmp_path: Path) -> None:
    script = "import sys; from tests.experiments import toy; toy.STOP['kill'] = 3; toy.TOY.launch(sys.argv[1:])"
    command = [sys.executable, "-c", script, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert TOY.launch(["--out", str(tmp_path)]) == 0 and squared == [3]


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_last_line_costs_that_row_only(tmp_path: Path, cut: int) -> None:
    TOY(out=tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    TOY(out=tmp_path)
    assert squared == [1, 2, 3, 3] and len(path.read_text().splitlines()) == 3


def test_a_changed_digit_or_array_is_noticed(tmp_path: Path) -> None:
    TOY(out=tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace('"square": 9', '"square": 8'))
    file = tmp_path / "rows" / json.loads(path.read_text().splitlines()[0])["arrays"]["file"]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    assert Store(tmp_path).damaged == 2
    TOY(out=tmp_path)
    assert squared == [1, 2, 3, 1, 3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--numbers"], "--numbers is (): give at least one"),
        (["--numbers", "2", "2"], "give each once"),
        (["--numbers", "13"], "--numbers has 13; give another."),
        (["--seed", "-1"], "--seed is -1: it should be greater than or equal to 0"),
        (["--out", "FILE"], "cannot be written"),
        (["--out", "FILE/below"], "cannot be written"),
        (["--devices", "0"], "--devices is 0"),
        (["--devices", "99"], "--devices"),
        (["--num-processes", "2", "--process-id", "0"], "--coordinator is missing with --num-processes 2"),
        (["--num-processes", "2", "--coordinator", "h:1"], "--process-id is missing"),
        (["--coordinator", "h:1"], "--coordinator is h:1 with --num-processes 1"),
        (["--num-processes", "2", "--coordinator", "h:1", "--process-id", "2"], "give 0 to 1"),
        (["--num-processes", "2", "--coordinator", "nowhere", "--process-id", "0"], "give HOST:PORT"),
        (["--coordinator", "auto", "--process-id", "0"], "--coordinator auto finds --num-processes and --process-id"),
    ],
)
def test_what_the_user_can_fix_is_one_line_before_any_work(
    tmp_path: Path, capsys: Any, arguments: list[str], says: str
) -> None:
    (tmp_path / "file").write_text("")
    arguments = [text.replace("FILE", str(tmp_path / "file")) for text in arguments]
    arguments += [] if "--out" in arguments else ["--out", str(tmp_path / "new")]
    assert TOY.launch(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and says in said and "\n" not in said and squared == []


@pytest.mark.parametrize("config", ["{}", "not json", '{"experiment": "other", "options": {}}'])
def test_a_folder_of_something_else_is_refused_even_when_fresh(tmp_path: Path, capsys: Any, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert TOY.launch(["--out", str(tmp_path), "--fresh"]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == config


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, capsys: Any) -> None:
    with run.held(tmp_path):
        assert TOY.launch(["--out", str(tmp_path)]) == 2
    assert "another run is writing" in capsys.readouterr().err and squared == []
    assert TOY.launch(["--out", str(tmp_path)]) == 0


@pytest.mark.parametrize("arguments", [["--unknown"], ["--seed", "x"], ["--numbers", "1.5"]])
def test_options_that_do_not_parse_end_with_status_2(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        TOY.launch(arguments)
    assert stop.value.code == 2 and arguments[0] in capsys.readouterr().err and squared == []


def test_quick_changes_defaults_and_gives_way_to_options(tmp_path: Path) -> None:
    assert TOY.launch(["--quick", "--out", str(tmp_path / "a")]) == 0
    assert squared == [1] and read(tmp_path / "a")["quick"] is True
    assert TOY.launch(["--numbers", "4", "--quick", "--out", str(tmp_path / "b")]) == 0
    assert squared == [1, 4]


def test_followers_hold_the_rows_of_process_0_and_write_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """What process 0 says is heard by a follower in the same order; rounded otherwise there, process 0's row counts."""
    said: list[bytes] = []
    monkeypatch.setattr(processes, "assert_equal", lambda what: None)
    monkeypatch.setattr(processes, "mesh", lambda options: None)
    of_two: Any = {"num_processes": 2, "coordinator": "h:1"}
    TOY(out=tmp_path / "zero", numbers=(1,))
    (tmp_path / "one").mkdir()
    monkeypatch.setattr(library_processes, "from_coordinator", lambda data: said.append(data) or data)
    leader = run.Run(Options(process_id=0, **of_two), tmp_path / "zero", x64=True)
    ours = leader.rows(square, [{"number": 1}, {"number": 2}])
    heard = iter(said)
    monkeypatch.setattr(library_processes, "from_coordinator", lambda data: next(heard))
    monkeypatch.setattr(math, "log", lambda _: 7.0)
    follower = run.Run(Options(process_id=1, **of_two), tmp_path / "one", x64=True)
    theirs = follower.rows(square, [{"number": 1}, {"number": 2}])
    assert [row.plain for row in ours] == [row.plain for row in theirs] and squared == [1, 2, 2]
    assert not follower.is_coordinator and os.listdir(tmp_path / "one") == []


@pytest.mark.skipif("RNNJAX_SLOW" not in os.environ, reason="two processes: set RNNJAX_SLOW=1")
def test_processes_under_slurm_find_each_other(tmp_path: Path) -> None:
    """Process 0 alone writes. If it cannot, it says so in one line, and the other one ends too."""
    code = "import sys; from tests.experiments.toy import TOY; TOY.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--coordinator", "auto", "--numbers", "2", "--out", str(tmp_path)]

    def run_two(job: int) -> list[subprocess.CompletedProcess[str]]:
        env = os.environ | {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": os.uname().nodename, "SLURM_JOB_ID": f"{job}"}
        envs = [env | {"SLURM_PROCID": i, "SLURM_LOCALID": i} for i in "01"]
        with ThreadPoolExecutor() as both:
            start = functools.partial(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=120)
            return list(both.map(lambda env: start(env=env), envs))

    leader, follower = run_two(4243)
    assert (leader.returncode, follower.returncode) == (0, 0), leader.stderr + follower.stderr
    assert read(tmp_path)["rows_computed_count"] == 1 and "1 rows computed" in leader.stdout and not follower.stdout
    with run.held(tmp_path):
        leader, follower = run_two(4244)
    said = [line for line in leader.stderr.splitlines() if line.startswith("error: ")]
    assert leader.returncode == 2 and len(said) == 1 and "another run is writing" in said[0]
    assert follower.returncode == library_processes.LOST_STATUS


# Pages


class Tags(html.parser.HTMLParser):
    """Collects tags with their attributes, and checks that they close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in ("meta", "img", "link", "br") else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_stands_alone(tmp_path: Path) -> None:
    """Nothing is fetched from anywhere, nothing of a result is markup, and there are words for who sees no figure."""
    assert TOY.launch(["--out", str(tmp_path), "--numbers", "2", "7"]) == 0
    text = (tmp_path / "report.html").read_text()
    page = Tags(text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert "url(" not in text and "@import" not in text and "<of>" not in text
    assert next(attributes for tag, attributes in page.tags if tag == "img")["alt"] == "A parabola, <rising>."
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)
    for words in ("Squares &lt;of&gt; numbers", "Squares &amp; more", "--numbers 2 7", "49", jax.__version__):
        assert words in text, words
    assert '<a href="#a&lt;b">First &amp; last</a>' in text and '<h2 id="a&lt;b">' in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.46139e-14, "0"), (1234.5678, "1235"), (0.00012345678, "0.0001235"), (None, "–"), (True, "yes"), (3, "3")],
)
def test_digits_that_mean_something(value: Any, text: str) -> None:
    assert shown(value) == text
    assert heading("time_constant_steps") == "time constant [steps]" and heading("verdict") == "verdict"


@pytest.mark.skipif(
    browser.CHROMIUM is None and "RNNJAX_BROWSER" not in os.environ, reason="no Chromium on this machine"
)
def test_a_real_browser_takes_the_report_without_complaint(tmp_path: Path) -> None:
    """On a phone and on paper; and the same eyes see what is wrong with a page that is wrong."""
    TOY(out=tmp_path / "toy")
    wrong = tmp_path / "wrong.html"
    wrong.write_text(
        '<!doctype html><body style="width:2000px"><img src="http://127.0.0.1:9/x.png"><a href="#nowhere">a</a>'
        "<script>console.error('no')</script></body>"
    )
    with browser.browser(tmp_path / "profile") as page:
        seen, bad = browser.look(page, tmp_path / "toy" / "report.html"), browser.look(page, wrong)
    assert seen.complaints == [] and seen.requests == [] and seen.dead_links == [] and seen.overflow_px <= 0
    assert seen.images == [("A parabola, <rising>.", True)] and seen.pdf_bytes > 10_000
    assert any("no" in each for each in bad.complaints) and bad.requests == ["http://127.0.0.1:9/x.png"]
    assert bad.dead_links == ["#nowhere"] and bad.images == [("", False)] and bad.overflow_px > 0


# Parts


def test_strict_json() -> None:
    given = {"a": math.nan, "b": [1.0, -math.inf], "c": {"d": np.float32("inf")}, "e": np.arange(2), "f": Path("x/y")}
    assert strict_json.strict(given) == {
        "a": None, "a_reason": "NaN", "b": [1.0, None], "b_reason": "1 of 2 not finite: -inf at [1]",
        "c": {"d": None, "d_reason": "+inf"}, "e": [0, 1], "f": "x/y",
    }  # fmt: skip
    assert strict_json.strict({"a_reason": "no closed form", "a": math.nan})["a_reason"] == "no closed form"
    for bad in ({1: 2}, {"a": object()}, {"a": np.array([1j])}):
        with pytest.raises(TypeError, match=r"string|JSON"):
            strict_json.strict(bad)  # pyright: ignore


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    strict_json.write(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        strict_json.write(path, {"a": 2})
    assert read(tmp_path) == {"a": 1} and os.listdir(tmp_path) == ["summary.json"]


def test_the_same_figure_gives_the_same_bytes_and_leaves_settings_alone() -> None:
    import matplotlib

    def draw() -> tuple[bytes, bytes]:
        with style.plotting():
            fig, ax = style.figure(3, 2)
            ax.plot([0, 1], [1, 0], **style.line(1))
            ax.fill_between([0, 1], [1, 0], hatch="//")
        return style.render(fig)

    before = dict(matplotlib.rcParams)
    assert draw() == draw() and dict(matplotlib.rcParams) == before
    for part in ("color", "linestyle", "marker"):
        assert len({str(style.line(i)[part]) for i in range(7)}) == 7


def test_a_residual_has_its_sign_and_the_standard_error_of_the_mean() -> None:
    found = lab.residual("rate", 2.0, -4.0, unit="nats/step", samples=[1.0, 2.0, 3.0])
    assert found["residual"] == 6.0 and found["relative_residual"] == 1.5
    assert found["standard_error"] == pytest.approx(3**-0.5)
    nothing = lab.residual("rate", 1.0, 0.0, samples=[1.0])
    assert nothing["relative_residual"] is None and nothing["standard_error"] is None


def test_the_list_has_every_field_and_imports_no_experiment() -> None:
    for folder in ("experiments", "benchmarks"):
        found = listed(ROOT / folder)
        assert len(found) >= 7 and "lab" not in found and "data" not in found
        for name, fields in found.items():
            assert fields["Command"].startswith(f"python -m {folder}.{name}"), name
            assert fields["Minutes"] and fields["Expected"] and fields["Title"], name
    code = "import sys, runpy; runpy.run_module('experiments', run_name='__main__'); assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "python -m experiments.statland" in done.stdout, done.stderr

"""The table of published numbers: verdicts, exit status, resuming by row; and the rows that cost nothing."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from experiments import harness
from experiments.reproduce import __main__ as main
from experiments.reproduce.row import Found, Row, as_line, checked, of_samples
from tests.experiments.toy import read


def a_row(name: str = "pi", value: float | None = 3.14159, **changes: Any) -> Row:
    def measure(quick: bool) -> Found:
        measured.append(name)
        if value is None:
            raise ZeroDivisionError("no number\nhere")
        return Found(value)

    given = {"what": "π", "published": 3.1416, "tolerance": 1e-4, "source": "Archimedes", "measure": measure}
    return Row(name=name, **(given | changes))


measured: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    measured.clear()
    yield


def test_verdicts() -> None:
    row = a_row(quick_tolerance=0.5)
    assert row.verdict(3.1415, False) == "reproduced" and row.verdict(3.0, False) == "missed"
    assert row.verdict(3.0, True) == "reproduced" and row.allowed(True) == 0.5
    assert (
        row.verdict(None, False) == row.verdict(math.nan, False) == "error" and row.verdict(math.inf, False) == "missed"
    )
    assert as_line(row, False, {"error": "x"})["verdict"] == "error"
    found = of_samples([1.0, 2.0, 4.0])
    assert found.value == pytest.approx(7 / 3) and found.seeds == 3
    assert found.spread == pytest.approx(math.sqrt(7 / 3))


def test_rows_that_would_hide_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        checked([a_row("a"), a_row("a")])
    for wrong in (a_row(tolerance=-1.0), a_row(tolerance=math.nan), a_row(published=math.nan)):
        with pytest.raises(ValueError):
            checked([wrong])


def run_with(
    monkeypatch: pytest.MonkeyPatch, folder: Any, *rows: Row, arguments: tuple[str, ...] = (), drawn: bool = False
) -> int:
    monkeypatch.setattr(main, "THEMES", {"Circles": rows})
    monkeypatch.setattr(main, "ROWS", checked(rows))
    if not drawn:
        monkeypatch.setattr(main, "deviations_figure", lambda run, lines: harness.Text())
    return harness.launch(main.EXPERIMENT, [*arguments, "--out", str(folder)])


def test_an_exact_row_that_is_missed_fails_the_command_and_another_does_not(tmp_path, monkeypatch) -> None:
    good, off, wrong = a_row("good", exact=True), a_row("off", 3.0), a_row("wrong", 3.0, exact=True)
    assert run_with(monkeypatch, tmp_path / "a", good, off, drawn=True) == 0
    summary = read(tmp_path / "a")
    assert (tmp_path / "a" / "deviations.png").read_bytes().startswith(b"\x89PNG")
    assert summary["missed"] == ["off"] and summary["failed_exact"] == []
    assert run_with(monkeypatch, tmp_path / "b", good, wrong) == 1
    summary = read(tmp_path / "b")  # everything is written all the same
    assert summary["failed_exact"] == ["wrong"] and (tmp_path / "b" / "report.html").exists()
    assert [row["verdict"] for row in summary["rows"]] == ["reproduced", "missed"]


def test_finished_rows_are_kept_and_one_that_raised_is_tried_again(tmp_path, monkeypatch, capsys) -> None:
    assert run_with(monkeypatch, tmp_path, a_row("good"), a_row("bad", None, exact=True)) == 1
    line = read(tmp_path)["rows"][1]
    assert line["verdict"] == "error" and line["error"].startswith("ZeroDivisionError") and line["ours"] is None
    assert "Traceback" in capsys.readouterr().err and measured == ["good", "bad"]
    assert run_with(monkeypatch, tmp_path, a_row("good"), a_row("bad", 3.1416, exact=True)) == 0
    assert measured == ["good", "bad", "bad"] and read(tmp_path)["rows_reused_count"] == 1


def test_some_rows_only_and_minutes_left_out_of_quick(tmp_path, monkeypatch, capsys) -> None:
    rows = a_row("slow", full_only=True), a_row("slower"), a_row("other")
    assert run_with(monkeypatch, tmp_path / "a", *rows, arguments=("--only", "slow")) == 0
    assert measured == ["slow", "slower"]
    assert run_with(monkeypatch, tmp_path / "b", *rows, arguments=("--quick",)) == 0
    assert measured == ["slow", "slower", "slower", "other"]
    assert run_with(monkeypatch, tmp_path / "c", *rows, arguments=("--only", "fast")) == 2
    assert "no row begins so; choose from slow, slower, other" in " ".join(capsys.readouterr().err.split())


CHEAP = ("mean-field", "edge-closed", "newman-top-closed", "newman-bottom-closed", "chrono-closed", "curse-closed",
         "adding-constant", "copy-floor", "saturated-tanh-rounded", "company", "statland")  # fmt: skip


def test_every_exact_row_that_is_a_closed_form_comes_out() -> None:
    """Straight from the real table; those that need a network run are in their experiments' tests."""
    import jax

    with jax.enable_x64(True):
        cheap = [row for row in main.ROWS if row.name.startswith(CHEAP)]
        assert len(cheap) >= 20 and all(row.exact for row in cheap)
        for row in cheap:
            assert row.verdict(row.measure(True).value, True) == "reproduced", row.name
    assert len(main.ROWS) >= 55 and sum(row.exact for row in main.ROWS) >= 30
    assert all(row.source and row.what for row in main.ROWS)

"""The page of all results: what is gathered, and how a real browser takes it."""

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments import harness
from experiments.harness import about, folder
from experiments.report.__main__ import main
from experiments.report.gather import latest, read
from tests.experiments import browser

EXPERIMENTS = Path(about.__file__).parents[1]
DOCS = EXPERIMENTS.parent / "docs"


def a_run(
    place: Path, name: str = "statland", finished: str | None = "2026-01-02T00:00:00+00:00", **changes: Any
) -> Path:
    """A folder as an experiment leaves it."""
    place.mkdir(parents=True)
    config = {
        "experiment": name, "options": {"quick": changes.pop("quick", False)}, "finished_utc": finished,
        "versions": {"python": "3", "jax": "0"}, "device": {"platform": "cpu"}, "command": f"python -m {name}",
    }  # fmt: skip
    residual = harness.residual("a < b & c", 1.0, 1.1, unit="1")
    summary = {"experiment": name, "figures": [], "residuals": [residual], **changes}
    (place / folder.CONFIG).write_text(json.dumps(config))
    (place / folder.SUMMARY).write_text(json.dumps(summary))
    return place


def test_the_run_that_finished_last_is_shown_and_a_full_one_before_a_quick_one(tmp_path: Path) -> None:
    old = a_run(tmp_path / "results" / "old", finished="2026-01-01T00:00:00+00:00")
    new = a_run(tmp_path / "docs" / "new", finished="2026-01-02T00:00:00+00:00")
    quick = a_run(tmp_path / "results" / "quick", finished="2026-01-03T00:00:00+00:00", quick=True)
    a_run(tmp_path / "results" / "under way", finished=None)
    places = [tmp_path / "results", tmp_path / "docs", tmp_path / "nowhere"]
    assert latest(places, ["statland", "waterfall"])["statland"].folder == new
    (new / folder.SUMMARY).unlink()
    assert latest(places, ["statland"])["statland"].folder == old
    (old / folder.CONFIG).write_text("{")
    found = latest(places, ["statland"])["statland"]
    assert found.folder == quick and found.quick and read(old) is None


def test_no_run_is_one_line_that_says_what_to_do(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "page.html"
    assert main(["--folders", str(tmp_path), "--out", str(out)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: no finished run") and "\n" not in said and not out.exists()
    a_run(tmp_path / "one")
    assert main(["--folders", str(tmp_path), "--out", str(tmp_path)]) == 2 and "is a folder" in capsys.readouterr().err


def test_what_is_in_a_run_is_on_the_page_and_nothing_of_it_is_markup(tmp_path: Path, capsys: Any) -> None:
    a_run(tmp_path / "one")
    out = tmp_path / "page.html"
    assert main(["--folders", str(tmp_path), "--out", str(out)]) == 0
    text = out.read_text()
    assert "a &lt; b &amp; c" in text and 'id="statland"' in text and "python -m statland" in text
    assert "not run yet: " in capsys.readouterr().out and "waterfall" in text
    html.parser.HTMLParser().feed(text)


@pytest.fixture(scope="module")
def page_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the results that come with the code."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["--folders", str(DOCS), "--out", str(out)]) == 0
    return out


def test_the_page_has_every_committed_result_and_nothing_from_outside(page_of_all: Path) -> None:
    text = page_of_all.read_text()
    committed = [path.parent.name for path in DOCS.glob("*/summary.json")]
    assert len(committed) >= 8
    for name in committed:
        assert f'id="{name}"' in text and f'href="#{name}"' in text
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "<script" not in text


needs_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on this machine")


@needs_chromium
def test_a_real_browser_takes_the_page_without_complaint(page_of_all: Path, tmp_path: Path) -> None:
    """On a phone and on paper; and the same eyes see what is wrong with a page that is wrong."""
    wrong = tmp_path / "wrong.html"
    wrong.write_text(
        '<!doctype html><body style="width:2000px"><img src="http://127.0.0.1:9/x.png"><a href="#nowhere">a</a>'
        "<script>console.error('no')</script></body>"
    )
    with browser.browser(tmp_path / "profile") as page:
        seen = browser.look(page, page_of_all)
        bad = browser.look(page, wrong)
    assert seen.complaints == [] and seen.requests == [] and seen.dead_links == []
    assert len(seen.images) >= 15 and all(shown and len(alt) > 20 for alt, shown in seen.images)
    assert seen.overflow_px <= 0, "wider than a phone"
    assert seen.pdf_bytes > 100_000
    assert any("no" in each for each in bad.complaints) and bad.requests == ["http://127.0.0.1:9/x.png"]
    assert bad.dead_links == ["#nowhere"] and bad.images == [("", False)] and bad.overflow_px > 0

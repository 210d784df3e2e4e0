"""What the harness shows: figures, the report, the list, progress; and what it takes for code."""

import doctest
import html.parser
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments import harness
from experiments.harness import about, manifest, report, style
from tests.experiments.toy import TOY

ROOT = Path(__file__).resolve().parents[2]

# Figures and report


def test_the_same_figure_gives_the_same_bytes() -> None:
    def draw() -> tuple[bytes, bytes]:
        with style.plotting():
            fig, ax = style.figure(3, 2)
            ax.plot([0, 1], [1, 0], **style.line(1)._asdict())
            ax.fill_between([0, 1], [1, 0], hatch="//")
        return style.render(fig)

    first, second = draw(), draw()
    assert first == second
    assert b"<dc:date>" not in first[1]


def test_lines_differ_in_colour_and_in_style_and_in_marker() -> None:
    lines = [style.line(i) for i in range(7)]
    for part in ("color", "linestyle", "marker"):
        assert len({str(getattr(each, part)) for each in lines}) == 7


def test_plotting_leaves_a_users_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style.plotting():
        assert matplotlib.rcParams["svg.hashsalt"] == "rnnjax"
    assert dict(matplotlib.rcParams) == before


class _Page(html.parser.HTMLParser):
    """Collects tags with their attributes, and checks that they close."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_stands_alone(tmp_path: Path) -> None:
    assert harness.launch(TOY, ["--out", str(tmp_path), "--numbers", "2", "7"]) == 0
    text = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe"} & set(names)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in text and "@import" not in text
    image = next(attributes for tag, attributes in page.tags if tag == "img")
    assert image["alt"] == "A parabola, <rising>."
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    assert any(meta.get("name") == "viewport" for meta in metas)
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in metas)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert "Squares &lt;of&gt; numbers" in text and "Squares &amp; more" in text and "<of>" not in text
    assert "--numbers 2 7" in text and "what is a square?" in text and "49" in text and jax.__version__ in text


def test_a_drawing_too_large_to_inline_goes_in_as_png() -> None:
    big = report.Figure("f", b"png", b"x" * 2_000_000, "alt")
    assert "image/png" in report.build("t", {}, [big], {}) and "svg+xml" not in report.build("t", {}, [big], {})


# The list, and the examples in docstrings


@pytest.mark.parametrize(
    "name", ["harness.residuals", "harness.strict_json", "harness.style", "data.stocks", "statland.published"]
)
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"experiments.{name}"))
    assert result.attempted > 0 and result.failed == 0


def test_every_experiment_is_listed_with_question_command_and_minutes() -> None:
    found = about.listed(ROOT / "experiments")
    assert "statland" in found and "harness" not in found and "data" not in found
    for name, fields in found.items():
        assert fields["Command"].startswith(f"python -m experiments.{name}"), name
        assert fields["Minutes"] and fields["Expected"] and fields["Title"], name


def test_the_list_runs_without_importing_an_experiment() -> None:
    code = "import sys, runpy; runpy.run_module('experiments', run_name='__main__'); assert 'jax' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "statland: " in done.stdout and "python -m experiments.statland" in done.stdout


def test_a_log_gets_lines_instead_of_a_bar(capsys: Any) -> None:
    from rich.console import Console

    from experiments.harness.progress import progress

    with progress(Console(width=100), "cells", 2) as advance:
        advance(note="first")
        advance(note="second")
    said = capsys.readouterr().out
    assert "cells: 2/2" in said and "second" in said


def test_comments_and_docstrings_are_not_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "some_module_of_a_user.py"
    hashes = []
    for text in (
        'def f(x):\n    """Old."""\n    return 2 * x\n',
        "def f(x):  # new\n    return (2 * x)\n",
        "def f(x): return 3 * x",
    ):
        module.write_text(text)
        hashes.append(manifest.code_sha256(["some_module_of_a_user"]))
    assert hashes[0] == hashes[1] != hashes[2]
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        manifest.code_sha256(["no_such_module"])


# Measurement beside theory


def test_a_residual_has_its_sign_and_the_standard_error_of_the_mean() -> None:
    found = harness.residual("rate", 2.0, -4.0, unit="nats/step", samples=[1.0, 2.0, 3.0])
    assert found["residual"] == 6.0 and found["relative_residual"] == 1.5
    assert found["standard_error"] == pytest.approx(3**-0.5)
    nothing = harness.residual("rate", 1.0, 0.0, samples=[1.0])
    assert nothing["relative_residual"] is None and nothing["standard_error"] is None
    table = harness.residual_table([found, nothing])
    assert len(table.rows) == 2 and table.rows[0][0] == "rate"


def test_contents_link_to_headings_and_a_figure_may_have_no_svg() -> None:
    blocks = [
        harness.Contents({"a<b": "First & last"}),
        harness.Text("First", anchor="a<b"),
        harness.Figure("f", b"PNG", b"", "words"),
    ]
    page = report.build("t", {}, blocks, {})
    assert '<a href="#a&lt;b">First &amp; last</a>' in page and '<h2 id="a&lt;b">First</h2>' in page
    assert "data:image/png;base64,UE5H" in page and "svg+xml" not in page

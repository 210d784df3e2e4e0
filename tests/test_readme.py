"""The Python blocks of the README and of the manual's tour run, and the README's shell commands are those of CI.

Tables match the committed results, and links between the files of the repository lead somewhere.
"""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
README, TOUR = (ROOT / "README.md").read_text(), (ROOT / "docs" / "tour.md").read_text()


def _blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def _table(folder: Path) -> None:
    """Rows of 3 to 20 steps, whose label is the sign of the first value of a."""
    draw = np.random.default_rng(0)
    lines = ["row,label,a,b"]
    for row in range(400):
        values = draw.normal((3.0, 100.0), (1.0, 20.0), (draw.integers(3, 21), 2))
        lines += [f"{row},{int(values[0, 0] > 3)},{a:.4f},{b:.4f}" for a, b in values]
    (folder / "table.csv").write_text("\n".join(lines))


def _run(text: str) -> None:
    """All blocks in one namespace, with JAX's defaults rather than those of the tests."""
    namespace: dict = {"__name__": "readme"}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in _blocks("python", text):
            exec(compile(block, "a page", "exec"), namespace)


def _promised(text: str) -> list[str]:
    """What a comment says is printed, such as `print(x)  # (8, 32)`."""
    found = re.findall(r"^print\(.*\)\s+# ((?:\([\d, ]+\) ?)+)", text, flags=re.MULTILINE)
    return [shapes.strip() for shapes in found]


def test_python_blocks_run_from_top_to_bottom(capsys, tmp_path, monkeypatch):
    _table(tmp_path)
    monkeypatch.chdir(tmp_path)
    (classifier,) = [block for block in _blocks("python") if "read_csv" in block]
    assert len(classifier.strip().splitlines()) <= 20 and len(_blocks("python")) == 3
    _run(README)
    printed = capsys.readouterr().out
    assert float(re.findall(r"^[01]\.\d+$", printed, flags=re.MULTILINE)[-1]) > 0.9 and "held_out_loss" in printed
    assert len(_promised(README)) == 3 and all(shapes in printed for shapes in _promised(README))


def test_the_tour_runs_from_top_to_bottom(capsys):
    _run(TOUR)
    printed = capsys.readouterr().out
    assert len(_promised(TOUR)) >= 5 and all(shapes in printed for shapes in _promised(TOUR))
    (accuracy,) = re.findall(r"^([01]\.\d+)$", printed, flags=re.MULTILINE)
    assert 0.9 < float(accuracy) < 1


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_shell_commands_are_the_two_that_ci_runs():
    """`.ci/run` extracts both lines from the README and runs them."""
    commands = [line for block in _blocks("sh") for line in block.splitlines()]
    ci = (ROOT / ".ci" / "run").read_text()
    taken = re.findall(r"readme '([^']+)'", ci)
    assert len(commands) == len(taken) == 2
    for fragment in taken:
        assert sum(fragment in line for line in README.splitlines()) == 1, f"{fragment!r} must be on one line only"
        assert any(fragment in command for command in commands)


def test_tables_are_made_from_the_committed_results():
    """`python docs/tables.py` changes nothing."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    pages = [page.read_text() for page in tables.PAGES]
    for page in pages:
        assert tables.fill(page) == page
    placed = re.findall(r"^<!-- table: (\w+) -->$", "".join(pages), flags=re.MULTILINE)
    assert sorted(placed) == sorted({*tables.OF_EXPERIMENTS, *tables.OF_SEVERAL})


WRITTEN = ("docs/cells/", "docs/experiments/", "docs/reference/")
"""Pages that a build of the manual writes."""


def _dead(text: str, path: Path) -> list[str]:
    """The relative links of a Markdown text in `path` that lead to no file, or to no heading of one."""
    dead = []
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)):
        name, _, fragment = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        written = target.is_relative_to(ROOT) and target.relative_to(ROOT).as_posix().startswith(WRITTEN)
        left_out = target.suffix == ".png" and not (ROOT / ".github").exists()  # the sdist has no figures
        if not (target.exists() or written or left_out):
            dead.append(link)
        elif fragment and target.suffix == ".md" and target.exists():
            headings = re.findall(r"^#+ (.*)$", target.read_text() if name else text, flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            dead += [] if fragment in anchors else [link]
    return dead


def _markdown() -> list[Path]:
    folders = (".github", "benchmarks", "docs", "experiments")
    nested = [path for folder in folders for path in (ROOT / folder).rglob("*.md")]
    ours = [path for path in nested if path.parent.name != "licenses"]  # copies of other projects' files
    return [*ROOT.glob("*.md"), *(path for path in ours if not path.relative_to(ROOT).as_posix().startswith(WRITTEN))]


def test_links_between_files_lead_somewhere():
    found = {path.relative_to(ROOT).as_posix(): _dead(path.read_text(), path) for path in _markdown()}
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md"} <= set(found)
    assert {path: links for path, links in found.items() if links} == {}


def test_a_dead_link_is_found():
    text = "# A b\n[x](LICENSE) [x](#a-b) [x](no.md) [x](#c) `[x](code.md)` [x](https://x.org/y) [x](README.md#nothing)"
    assert _dead(text, ROOT / "README.md") == ["no.md", "#c", "README.md#nothing"]

"""The README's Python blocks run, its shell commands are those of CI, and its tables match the committed results."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def _table(folder: Path) -> None:
    """Rows of 3 to 20 steps, whose label is the sign of the first value of a."""
    draw = np.random.default_rng(0)
    lines = ["row,label,a,b"]
    for row in range(400):
        values = draw.normal((3.0, 100.0), (1.0, 20.0), (draw.integers(3, 21), 2))
        lines += [f"{row},{int(values[0, 0] > 3)},{a:.4f},{b:.4f}" for a, b in values]
    (folder / "table.csv").write_text("\n".join(lines))


def test_python_blocks_run_from_top_to_bottom(capsys, tmp_path, monkeypatch):
    """All blocks run in one namespace, with JAX's defaults rather than those of the tests.

    The output in a comment, such as `print(x)  # (8, 32)`, is what is printed.
    """
    _table(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = _blocks("python")
    assert max(len(block.strip().splitlines()) for block in blocks if "read_csv" in block) <= 20
    assert len(blocks) >= 4
    namespace: dict = {"__name__": "readme"}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert float(re.findall(r"^[01]\.\d+$", printed, flags=re.MULTILINE)[-1]) > 0.9 and "held_out_loss" in printed
    promised = re.findall(r"^print\(.*\)\s+# ((?:\([\d, ]+\) ?)+)", README, flags=re.MULTILINE)
    assert len(promised) >= 3
    for text in promised:
        assert text.strip() in printed


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
    for page in tables.PAGES:
        assert tables.fill(page.read_text()) == page.read_text()

"""The README's Python blocks run, its shell commands are those of CI, and its tables match the committed results."""

import importlib.util
import re
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_python_blocks_run_from_top_to_bottom(capsys):
    """All blocks run in one namespace, with JAX's defaults rather than those of the tests.

    The output in a comment, such as `print(x)  # (8, 32)`, is what is printed.
    """
    blocks = _blocks("python")
    assert len(blocks) >= 4
    namespace: dict = {"__name__": "readme"}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
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

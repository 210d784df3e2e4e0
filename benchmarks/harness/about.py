"""The facts in a benchmark's docstring: a title, then lines that begin with one of `FIELDS` and a colon."""

import ast
import inspect
import re
from pathlib import Path

FIELDS = ("Question", "Command", "Minutes", "Expected")

_FIELD = re.compile(rf"^({'|'.join(FIELDS)}): *(.*?)(?=^(?:{'|'.join(FIELDS)}):|^\s*$|\Z)", re.MULTILINE | re.DOTALL)


def parse(docstring: str) -> dict[str, str]:
    """The title and the fields that are there, each on one line.

    Example:

      >>> parse("Loops.\\n\\nQuestion: how slow\\nis it?\\nMinutes: 1\\n\\nMore.")
      {'Title': 'Loops', 'Question': 'how slow is it?', 'Minutes': '1'}
    """
    text = inspect.cleandoc(docstring)
    title = text.split("\n", 1)[0].rstrip(".")
    return {"Title": title} | {name: " ".join(value.split()) for name, value in _FIELD.findall(text)}


def spaced(docstring: str) -> str:
    """The docstring with an empty line before each field, for help pages that run a paragraph's lines together."""
    return re.sub(rf"^(?=({'|'.join(FIELDS)}):)", "\n", inspect.cleandoc(docstring), flags=re.MULTILINE)


def listed(folder: Path) -> dict[str, dict[str, str]]:
    """The benchmarks in `folder`, by name: every module or package with a Question, read as text and not imported."""
    found = {}
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")]):
        if (path.name == "__init__.py" and not path.with_name("__main__.py").exists()) or path.name == "__main__.py":
            continue
        fields = parse(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        if "Question" in fields:
            found[path.parent.name if path.name == "__init__.py" else path.stem] = fields
    return found

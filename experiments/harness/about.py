"""What an experiment's docstring says of it, for the list, `--help` and the report.

The docstring of an experiment's module begins with a title line and has, somewhere below, paragraphs that begin with
these words, each running to the next blank line:

    Question: what is asked, in one sentence.
    Command: python -m experiments.name
    Minutes: how long it takes, `--quick` too, on which machine.
    Expected: the numbers that should come out.
"""

import ast
import inspect
from pathlib import Path

FIELDS = ("Question", "Command", "Minutes", "Expected")


def parse(docstring: str) -> dict[str, str]:
    """The fields found, in the order of the docstring, with "Title" first; text is joined into one line each."""
    text = inspect.cleandoc(docstring)
    found = {"Title": text.split("\n", 1)[0].rstrip(".")}
    for paragraph in text.split("\n\n"):
        name = ""
        for line in paragraph.splitlines():
            head, colon, rest = line.strip().partition(":")
            if colon and head in FIELDS:
                name, found[head] = head, rest.strip()
            elif name:
                found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def paragraphs(docstring: str) -> str:
    """The docstring with each field in a paragraph of its own, for programs that join the lines of a paragraph."""
    lines = inspect.cleandoc(docstring).splitlines()
    return "\n".join(f"\n{line}" if line.partition(":")[0] in FIELDS else line for line in lines)


def listed(folder: Path) -> dict[str, dict[str, str]]:
    """Every experiment in `folder` (a module, or a package with `__main__.py`), read but not imported.

    Returns:
      `{module name: fields}` in alphabetical order, for those whose docstring has a Question.
    """
    modules = [path for path in folder.glob("*.py") if not path.name.startswith("_")]
    packages = [path.parent / "__init__.py" for path in folder.glob("*/__main__.py")]
    found = {}
    for path in modules + packages:
        if path.exists():
            fields = parse(ast.get_docstring(ast.parse(path.read_bytes())) or "")
            if "Question" in fields:
                found[path.parent.name if path.name == "__init__.py" else path.stem] = fields
    return dict(sorted(found.items()))

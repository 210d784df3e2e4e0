"""Docstrings as reStructuredText.

The docstrings of rnnjax are plain text: code in single backticks, equations and tables in indented blocks, examples as
doctests, and Google's sections. Everything else stands for itself, so an asterisk, a bar or a trailing underscore
outside of backticks is escaped.
"""

import inspect
import re
import textwrap
from typing import Any

_LISTS = ("Args:", "Attributes:", "Raises:", "Warns:")
_TEXTS = ("Returns:", "Yields:", "See also:")
_RUBRICS = re.compile(r"(Examples?|References?):\s*(.*)")
_ENTRY = re.compile(r"((?:\*{0,2}[\w.]+)(?:, \*{0,2}[\w.]+)*):\s+(.*)", re.DOTALL)
_BULLET = re.compile(r"[-*] ")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's event: changes `lines` in place."""
    text = "\n".join(lines)
    if what == "class" and issubclass(obj, tuple) and "Attributes:" not in text:
        generated = text.startswith(f"{obj.__name__}(")
        lines[:] = [*([] if generated else to_rst(text)), *_fields(obj)]
    else:
        lines[:] = to_rst(text)


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Sphinx's event: the fields of a `NamedTuple` are listed by `process`."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def to_rst(text: str) -> list[str]:
    """The lines of a docstring in reStructuredText."""
    lines, position = text.splitlines(), 0
    rst: list[str] = []
    while position < len(lines):
        line = lines[position]
        rubric = _RUBRICS.fullmatch(line)
        if not line:
            rst.append("")
            position += 1
        elif rubric:
            if rubric[1].startswith("Ref"):  # goes on at the margin
                after = _paragraph(lines, position)
                block, position = [rubric[2], *lines[position + 1 : after]], after
            else:
                position, block = _indented(lines, position + 1)
                block = [rubric[2], "", *block]
            rst += [f".. rubric:: {rubric[1]}", "", *to_rst("\n".join(block)), ""]
        elif line in _LISTS or line in _TEXTS:
            position, block = _indented(lines, position + 1)
            rst += [
                "",
                f".. rubric:: {line[:-1]}",
                "",
                *(_entries(block) if line in _LISTS else to_rst("\n".join(block))),
                "",
            ]
        elif line.startswith(">>>"):
            after = _paragraph(lines, position)
            rst += ["", *lines[position:after], ""]
            position = after
        elif line.startswith(" "):
            position, block = _indented(lines, position)
            block = textwrap.dedent("\n".join(block)).splitlines()
            if _BULLET.match(block[0]):
                rst += ["", *escape("\n".join(block)).splitlines(), ""]
            elif block[0].startswith(">>>"):
                rst += ["", *block, ""]
            else:
                rst += ["", "::", "", *textwrap.indent("\n".join(block), "    ").splitlines(), ""]
        elif _BULLET.match(line):
            after = _paragraph(lines, position)
            rst += ["", *escape("\n".join(lines[position:after])).splitlines(), ""]
            position = after
        else:
            after = position + 1
            while after < len(lines) and lines[after] and not re.match(r" |>>>|[-*] ", lines[after]):
                after += 1
            rst += escape("\n".join(lines[position:after])).splitlines()
            position = after
    return rst


def _indented(lines: list[str], position: int) -> tuple[int, list[str]]:
    """The lines from here on that are indented or empty, without a common margin; and the position after them."""
    block = []
    while position < len(lines) and (not lines[position] or lines[position].startswith(" ")):
        block.append(lines[position])
        position += 1
    return position, textwrap.dedent("\n".join(block)).rstrip().splitlines()


def _paragraph(lines: list[str], position: int) -> int:
    """Where the paragraph at this position ends."""
    while position < len(lines) and lines[position]:
        position += 1
    return position


def _entries(block: list[str]) -> list[str]:
    """A list of names and what they are; a line without a name stays a paragraph."""
    rst: list[str] = []
    for entry in re.split(r"\n(?=\S)", "\n".join(block)):
        named = _ENTRY.fullmatch(entry)
        text = textwrap.dedent(re.sub(r"\n\s+", "\n", named[2] if named else entry))
        first, *rest = escape(text).splitlines() or [""]
        if named:
            names = ", ".join(f"**{escape(name)}**" for name in named[1].split(", "))
            rst += [f"- {names}: {first}", *(f"  {line}" for line in rest)]
        else:
            rst += ["", first, *rest, ""]
    return rst


def escape(text: str) -> str:
    """Prose, with code as literals and everything else as it stands."""
    parts = re.split(r"(`[^`]+`)", text)
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = f"`{' '.join(part.split())}`"
        else:
            part = re.sub(r"(?<!\S)\*(?= )|([\\*|]|_(?!\w))", lambda found: f"\\{found[1]}" if found[1] else "*", part)
            part = re.sub(r"^(?=\w)", r"\\ ", part) if index else part  # a literal must end at a word's boundary
            parts[index] = re.sub(r"(?<=\w)$", r"\\ ", part) if index < len(parts) - 1 else part
    return "".join(parts)


def _fields(kind: type) -> list[str]:
    """The fields of a `NamedTuple`, with the comments beside them."""
    found = re.findall(r"^    (\w+): ([^#\n]*?)(?:#\s*(.*))?$", inspect.getsource(kind), re.MULTILINE)
    entries = [f"{name}: {comment}" for name, _, comment in found if name in getattr(kind, "_fields", ())]
    return ["", ".. rubric:: Attributes", "", *_entries(entries), ""]

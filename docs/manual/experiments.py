"""A page for each experiment with committed results: its docstring, its figures, and the tables made of its numbers."""

import ast
import importlib.util
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from manual import clear, write_page

DOCS = Path(__file__).parents[1]
SOURCE = DOCS.parent / "experiments"
_FIELDS = ("Question", "Command", "Minutes", "Expected")
_TABLES = {"learning": ("adding", "copy_memory", "digits", "vowels")}


def write(folder: Path) -> None:
    names = sorted(path.parent.name for path in DOCS.glob("*/config.json"))
    for name in names:
        write_page(folder / f"{name}.md", _page(name))
    write_page(folder / "index.md", _index(names))
    clear(folder, {"index.md", *(f"{name}.md" for name in names)})


def docstring(name: str) -> str:
    path = SOURCE / f"{name}.py" if (SOURCE / f"{name}.py").exists() else SOURCE / name / "__init__.py"
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def figures(name: str) -> list[dict[str, Any]]:
    return json.loads((DOCS / name / "summary.json").read_text())["figures"]


def table(name: str) -> str:
    """A table of results.md, made from the committed results as there (`docs/tables.py`)."""
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    header, *rows = tables.table_of(name)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


def _tables_of(name: str) -> list[str]:
    if name in ("gradient_decay", "statland", "stocks", "text"):
        return [name]
    return [made for made, names in _TABLES.items() if name in names]


def _index(names: list[str]) -> str:
    lines = [
        "# Experiments",
        "",
        "Each is one command that measures something and writes figures, numbers and a report. These pages are",
        "made from the committed results. `python -m experiments` in a clone, or `rnnjax` where the package is",
        "installed, lists the experiments; `--help` shows the options of one, `--quick` runs a small version.",
        "{doc}`../results` has the numbers in tables.",
        "",
        "Each run writes a folder with `config.json`, `summary.json`, figures as PNG and SVG, and `report.html`.",
        "Rows are kept with the code that made them, so a stopped run resumes, and a new seed, scale or length is",
        "computed alone. An experiment is also a function: `experiments.lstm_memory.experiment(steps=100).frame()`",
        "is a pandas DataFrame of rows. `gradient_decay` takes any cells of the catalogue, and your own data, cell",
        "and scales: `--cells lru min_gru`, `--data my.csv --cell my_cells:MyCell --scales 0.5:2:7`.",
        "",
        "::::{grid} 1 2 2 3",
        ":gutter: 3",
        "",
    ]
    for name in names:
        title, question = _title(name), _fields(name).get("Question", "")
        first = figures(name)[0]
        lines += [
            f":::{{grid-item-card}} {title}",
            f":link: {name}",
            ":link-type: doc",
            f":img-top: ../{name}/{first['png']}",
            f":img-alt: {_one_line(first['alt'])}",
            _sentence(question),
            ":::",
            "",
        ]
    lines += ["::::", "", "```{toctree}", ":hidden:", *names, "```", ""]
    return "\n".join(lines)


def _title(name: str) -> str:
    return f"`{name}`"


def _fields(name: str) -> dict[str, str]:
    """Question, Command, Minutes and Expected of a docstring."""
    header = f"^({'|'.join(_FIELDS)}):"
    paragraph = next(each for each in docstring(name).split("\n\n") if re.match(header, each))
    parts = re.split(header, paragraph, flags=re.MULTILINE)[1:]
    return {field: " ".join(text.split()) for field, text in zip(parts[::2], parts[1::2], strict=True)}


def _page(name: str) -> str:
    text, fields = docstring(name), _fields(name)
    first, *paragraphs = re.split(r"\n\n+", text)
    rest = [each for each in paragraphs if not re.match(rf"({'|'.join(_FIELDS)}):", each)]
    lines = [f"# `{name}`", "", f"**{_markdown(' '.join(first.split()))}**", ""]
    for field in ("Question", "Expected"):
        if field in fields:
            lines += [field, f": {_sentence(fields[field])}", ""]
    lines += ["Command", f": `{fields['Command']}`", "", "Minutes", f": {_markdown(fields['Minutes'])}", ""]
    for figure in figures(name):
        lines += [
            f":::{{figure}} ../{name}/{figure['png']}",
            f":alt: {_one_line(figure['alt'])}",
            "",
            _markdown(_one_line(figure["caption"])),
            ":::",
            "",
        ]
    for made in _tables_of(name):
        lines += [table(made), ""]
    if rest:
        lines += ["## Method", ""]
    for each in rest:
        lines += [_block(each), ""]
    lines += [
        "## Numbers",
        "",
        f"{{download}}`summary.json <../{name}/summary.json>` has all numbers, with their units in the names, and",
        f"{{download}}`config.json <../{name}/config.json>` the options, versions and machine of the run.",
        "",
    ]
    return "\n".join(lines)


def _block(text: str) -> str:
    """A paragraph of a docstring; lines that are indented are kept as they are."""
    parts: list[str] = []
    kept = prose = ""
    for line in [*text.splitlines(), None]:
        indented = line is not None and line.startswith(" ")
        if kept and not indented:
            parts.append(f"```text\n{textwrap.dedent(kept).rstrip()}\n```")
            kept = ""
        if prose and (indented or line is None):
            parts.append(_markdown(" ".join(prose.split())))
            prose = ""
        if line is not None and indented:
            kept += line + "\n"
        elif line is not None:
            prose += line + "\n"
    return "\n\n".join(parts)


def _sentence(text: str) -> str:
    return _markdown(text[:1].upper() + text[1:])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    """Prose of a docstring, in which bars, brackets and underscores stand for themselves."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if index % 2 else re.sub(r"([<|\[\]_])", r"\\\1", part) for index, part in enumerate(parts))

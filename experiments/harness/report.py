"""One page a person can open, read, mail and print: `report.html`.

Everything is inside the file: figures as data URIs, style in the head, no script. A content policy forbids any
request, so the page shows the same without a network. It follows the reader's light or dark setting, fits a phone
(wide tables scroll inside their own box) and prints in black on white.
"""

import base64
import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

_SVG_LIMIT_BYTES = 1_000_000  # a larger drawing goes in as PNG


@dataclasses.dataclass(frozen=True)
class Text:
    """A heading with paragraphs under it; either may be left out. `anchor` is a name that `Contents` links to."""

    heading: str = ""
    paragraphs: Sequence[str] = ()
    anchor: str = ""


@dataclasses.dataclass(frozen=True)
class Contents:
    """Links to headings of the page: {anchor: words}."""

    entries: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under column names. Numbers show six digits (give text where more are wanted), None shows as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), caption: str = "") -> "Table":
        """A table of mappings, with the given columns or else those of the first row."""
        names = list(columns) or list(rows[0] if rows else ())
        return cls(names, [[row.get(name) for name in names] for row in rows], caption)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A saved figure. `alt` says in words what is to be seen; `caption` stands under it; `svg` may be empty."""

    name: str
    png: bytes
    svg: bytes
    alt: str
    caption: str = ""


Block = Text | Table | Figure | Contents


def cell_text(value: Any) -> str:
    """How a table shows a value, on the page and in the terminal."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell_text(part) for part in value)
    return str(value)


def build(title: str, about: Mapping[str, str], blocks: Sequence[Block], config: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
      title: heading and window title.
      about: short facts under the title, such as question, command, expected minutes.
      blocks: the content, in reading order.
      config: what `config.json` says, shown folded at the end.
    """
    facts = "".join(f"<dt>{_safe(name)}</dt><dd>{_fact(name, text)}</dd>" for name, text in about.items())
    body = "\n".join(_block(block) for block in blocks)
    setup = _safe(json.dumps(config, indent=2, ensure_ascii=False))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_safe(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{_safe(title)}</h1>
<dl>{facts}</dl>
{body}
<h2>How it was made</h2>
<details><summary>Options, versions and device</summary><pre>{setup}</pre></details>
</main>
</body>
</html>
"""


def _safe(text: str) -> str:
    return html.escape(str(text), quote=True)


def _fact(name: str, text: str) -> str:
    return f"<code>{_safe(text)}</code>" if name.lower() == "command" else _safe(text)


def _block(block: Block) -> str:
    if isinstance(block, Text):
        anchor = f' id="{_safe(block.anchor)}"' if block.anchor else ""
        heading = f"<h2{anchor}>{_safe(block.heading)}</h2>" if block.heading else ""
        return heading + "".join(f"<p>{_safe(text)}</p>" for text in block.paragraphs)
    if isinstance(block, Figure):
        small = 0 < len(block.svg) <= _SVG_LIMIT_BYTES
        kind, data = ("svg+xml", block.svg) if small else ("png", block.png)
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        caption = f"<figcaption>{_safe(block.caption)}</figcaption>" if block.caption else ""
        return f'<figure><img src="{source}" alt="{_safe(block.alt)}">{caption}</figure>'
    if isinstance(block, Contents):
        links = (f'<li><a href="#{_safe(anchor)}">{_safe(words)}</a></li>' for anchor, words in block.entries.items())
        return f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'
    return _table(block)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_safe(name)}</th>' for name in table.columns)
    lines = []
    for row in table.rows:
        cells = (
            f"<td{'' if isinstance(value, str) and not _numeric(value) else ' class=n'}>{_safe(cell_text(value))}</td>"
            for value in row
        )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    caption = f"<caption>{_safe(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --page: #ffffff; --line: #c8c8c8; --soft: #f3f3f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --page: #16181b; --line: #454a50; --soft: #22262b; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
p { max-width: 45rem; } a { color: inherit; } nav li { margin: .2rem 0; }
figure { margin: 1.5rem 0; } figcaption, caption { font-size: .9rem; text-align: left; padding: .3rem 0; }
img { width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.n { text-align: right; white-space: nowrap; } thead th { background: var(--soft); }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; font-size: .85rem; }
@media (max-width: 36rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print {
  :root { --ink: #000; --page: #fff; --line: #999; --soft: #fff; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; } .wide { overflow: visible; } pre { white-space: pre-wrap; }
}
"""

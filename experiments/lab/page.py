"""One page a person can open, read, mail and print: figures, tables and text, and the numbers of `summary.json`.

Everything is inside `report.html`: figures as data URIs, style in the head, no script. A content policy forbids any
request, so the page shows the same without a network. It follows the reader's light or dark setting, fits a phone (wide
tables and figures scroll inside their own box) and prints in black on white. `page.html.j2` is its layout.
"""

import base64
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import strict_json

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

_SVG_LIMIT_BYTES = 1_000_000  # a larger drawing goes in as PNG
_ZERO = 1e-12  # rounding: smaller numbers are shown as 0
_LOG_WIDTH = 160  # characters where the output is no terminal, so that tables are not cut
_UNITS = {
    "nats_per_step": "nats per step",
    "nats": "nats",
    "steps": "steps",
    "seconds": "s",
    "ms": "ms",
    "bytes": "bytes",
}


def shown(value: Any) -> str:
    """How a table shows a value: four significant digits, 0 for rounding, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "0" if abs(value) < _ZERO else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)


def heading(name: str) -> str:
    """A key of `summary.json` in words, with its unit in brackets.

    Example:

      >>> heading("rate_nats_per_step")
      'rate [nats per step]'
    """
    for suffix, unit in _UNITS.items():
        if name.endswith(f"_{suffix}"):
            return f"{name.removesuffix(f'_{suffix}').replace('_', ' ')} [{unit}]"
    return name.replace("_", " ")


def console(stderr: bool = False, quiet: bool = False) -> Any:
    """A rich console, wide enough for tables where the output is no terminal."""
    from rich.console import Console

    made = Console(highlight=False, stderr=stderr, quiet=quiet)
    if not made.is_terminal:
        made.width = _LOG_WIDTH
    return made


def print_table(out: Any, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """Prints a table; numbers are on the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(caption) if caption else None, title_justify="left")
    for number, column in enumerate(columns):
        right = all(is_number(row[number]) for row in rows)
        table.add_column(Text(column), overflow="fold", justify="right" if right else "left")  # no digit is lost
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def is_number(text: str) -> bool:
    """Whether this cell of a table is aligned to the right."""
    return re.fullmatch(r"[-+−]?[\d.,]+(e[-+]?\d+)?%?|–", text) is not None


def residual(
    quantity: str, measured: float, theory: float, *, unit: str = "", samples: "Sequence[float] | np.ndarray" = ()
) -> dict[str, Any]:
    """One comparison: measured - theory, and relative to |theory| where theory is not zero.

    Args:
      quantity: what is compared, with its setting, for example "leading exponent, g = 2".
      measured, theory: the two numbers.
      unit: of both, for example "nats/step".
      samples: what `measured` is the mean of (seeds), for its standard error.

    Example:

      >>> residual("w^2", 4.0, 4.1, unit="1")["residual"]
      -0.09999999999999964
    """
    error = statistics.stdev(samples) / math.sqrt(len(samples)) if len(samples) > 1 else None
    difference = float(measured) - float(theory)
    return {
        "quantity": quantity,
        "measured": float(measured),
        "standard_error": error,
        "theory": float(theory),
        "residual": difference,
        "relative_residual": difference / abs(theory) if theory else None,
        "unit": unit,
    }


class Page:
    """What an experiment shows. Blocks appear in the order of the calls.

    Attributes:
      options: the experiment's options.
      folder: where figures are written; None: nowhere.
      summary: becomes `summary.json`; units are in the names.
      status: exit status of the process; not 0 where the run itself is a test that failed.
    """

    def __init__(self, options: Any = None, folder: Path | None = None, out: Any = None) -> None:
        self.options, self.folder = options, folder
        self.summary: dict[str, Any] = {}
        self.figures: list[dict[str, str]] = []
        self.blocks: list[dict[str, Any]] = []
        self.status = 0
        self._out = out

    def say(self, text: str) -> None:
        """One line in the terminal alone."""
        if self._out is not None:
            self._out.print(text, soft_wrap=True, markup=False)

    def text(self, heading: str, paragraphs: Sequence[str] = (), anchor: str = "") -> None:
        """A heading with paragraphs under it. `anchor` is a name that `contents` links to."""
        self.blocks.append({"kind": "text", "heading": heading, "paragraphs": list(paragraphs), "anchor": anchor})

    def contents(self, entries: Mapping[str, str]) -> None:
        """Links to headings of the page: {anchor: words}."""
        self.blocks.append({"kind": "contents", "entries": entries})

    def table(
        self,
        rows: Sequence[Any],
        columns: Mapping[str, str] | Sequence[str] = (),
        caption: str = "",
        terminal: bool = True,
    ) -> None:
        """A table, on the page and in the terminal.

        Args:
          rows: mappings, or sequences in the order of `columns`.
          columns: {name: heading}, or names, which `heading` makes headings of. Default: all of the first row.
          caption: what stands above it.
          terminal: whether it is printed too.
        """
        names = list(columns) or list(rows[0] if rows else ())
        heads = [columns[name] if isinstance(columns, Mapping) else heading(name) for name in names]
        cells = [
            [shown(value) for value in ([row.get(name) for name in names] if isinstance(row, Mapping) else row)]
            for row in rows
        ]
        if terminal and self._out is not None:
            print_table(self._out, heads, cells, caption)
        self.blocks.append({"kind": "table", "columns": heads, "rows": cells, "caption": caption})

    def residuals(self, residuals: Sequence[Mapping[str, Any]], caption: str = "Measured against theory") -> None:
        """A table of `lab.residual`s."""
        names = ("quantity", "measured", "standard_error", "theory", "residual", "relative_residual", "unit")
        self.table(residuals, names, caption)

    def figure(self, name: str, fig: "Figure", *, alt: str, caption: str) -> None:
        """Saves `name.png` and `name.svg`, the same bytes for the same figure, and shows it on the page.

        Args:
          name: file name without ending.
          alt: what the figure shows, in words, for a reader who does not see it.
          caption: what stands under it.
        """
        from . import style

        png, svg = style.render(fig)
        if self.folder is not None:
            strict_json.write_bytes(self.folder / f"{name}.png", png)
            strict_json.write_bytes(self.folder / f"{name}.svg", svg)
        self.figures.append({"png": f"{name}.png", "svg": f"{name}.svg", "alt": alt, "caption": caption})
        self.image(svg if len(svg) <= _SVG_LIMIT_BYTES else png, alt, caption)

    def image(self, data: bytes, alt: str, caption: str) -> None:
        """A PNG or SVG that is there already."""
        kind = "png" if data.startswith(b"\x89PNG") else "svg+xml"
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        self.blocks.append({"kind": "figure", "source": source, "alt": alt, "caption": caption})

    def html(self, title: str, facts: Mapping[str, str], config: Mapping[str, Any]) -> str:
        """The whole page.

        Args:
          facts: short facts under the title, such as question and command.
          config: shown folded at the end.
        """
        import jinja2

        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
        environment.tests["number_text"] = is_number
        setup = json.dumps(config, indent=2, ensure_ascii=False)
        template = environment.get_template("page.html.j2")
        return template.render(title=title, facts=facts, blocks=self.blocks, config=setup)

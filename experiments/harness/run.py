"""What an experiment holds while it runs: its folder, its rows, its console, its figures."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from experiments.harness import progress, report, strict_json
from experiments.harness.rows import RowStore

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from matplotlib.figure import Figure as MatplotlibFigure

_LOG_WIDTH = 160  # characters where the output is no terminal, so that tables are not cut

OptionsT = TypeVar("OptionsT")


def consoles(quiet: bool = False) -> tuple[Console, Console]:
    """Console for results (stdout) and console for progress and errors (stderr); quiet ones say nothing."""
    out, err = Console(highlight=False, quiet=quiet), Console(stderr=True, highlight=False, quiet=quiet)
    for console in (out, err):
        if not console.is_terminal:
            console.width = _LOG_WIDTH
    return out, err


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an experiment gives back.

    Attributes:
      summary: the numbers, units in the key names; becomes `summary.json`.
      report: the content of `report.html`, in reading order.
      status: exit status of the process, once everything is written; not 0 where the run itself is a test that failed.
    """

    summary: Mapping[str, Any]
    report: Sequence[report.Block]
    status: int = 0


@dataclasses.dataclass
class Run(Generic[OptionsT]):
    """One run in one folder; `launch` makes it and passes it to the experiment.

    Attributes:
      options: the experiment's own options, checked.
      folder: where results go; it exists and is held by this process.
      rows: finished rows (`experiments.harness.rows`).
      out: console for results. `err`: console for progress.
      figures: what `figure` has saved so far.
      leads: whether this is the process that writes, number 0 or the only one; what an experiment writes by itself, it
        writes only there.
      mesh: all devices that the options ask for, or None for one device; see `experiments.harness.processes`.
    """

    options: OptionsT
    folder: Path
    rows: RowStore
    out: Console
    err: Console
    figures: list[report.Figure] = dataclasses.field(default_factory=list)
    leads: bool = True
    mesh: "Mesh | None" = None

    def progress(self, label: str, total: int) -> AbstractContextManager[progress.Advance]:
        """`with run.progress("cells", 5) as advance: ... advance(1, note="lstm")`."""
        return progress.progress(self.err, label, total)

    def say(self, text: str) -> None:
        """One line for the reader, on the side of progress, not of results."""
        self.err.print(RichText(text))

    def show(self, table: report.Table) -> report.Table:
        """Prints a table of results, and gives it back for the report."""
        drawn = RichTable(title=RichText(table.caption) if table.caption else None, title_justify="left")
        for column in table.columns:
            drawn.add_column(RichText(column), overflow="fold")  # on a narrow terminal no digit is lost
        for row in table.rows:
            drawn.add_row(*(RichText(report.cell_text(value)) for value in row))
        self.out.print(drawn)
        return table

    def figure(self, name: str, fig: "MatplotlibFigure", *, alt: str, caption: str = "") -> report.Figure:
        """Saves `name.png` and `name.svg` in the folder and returns the block for the report.

        Args:
          name: file name without ending.
          fig: drawn inside `style.plotting()`.
          alt: what is to be seen, in words, for a reader who does not see it.
          caption: what stands under it.
        """
        from experiments.harness import style

        png, svg = style.render(fig)
        if self.leads:
            strict_json.write_bytes(self.folder / f"{name}.png", png)
            strict_json.write_bytes(self.folder / f"{name}.svg", svg)
        block = report.Figure(name, png, svg, alt, caption)
        self.figures = [each for each in self.figures if each.name != name] + [block]
        return block

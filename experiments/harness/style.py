"""How figures look: readable in grey, by the colour-blind, on paper, and the same file for the same numbers.

Colours are those of Okabe and Ito (Color Universal Design, 2008), ordered so that neighbours differ in brightness;
each colour has its own line style and marker, so that no line is told by colour alone.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, BLUE, ORANGE, GREEN = "#000000", "#0072B2", "#E69F00", "#009E73"
VERMILLION, PURPLE, SKY, YELLOW = "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"


class LineStyle(NamedTuple):
    """What tells one line from the others; pass it on as `ax.plot(x, y, **line(i)._asdict())`."""

    color: str
    linestyle: Any
    marker: str


_LINES = (
    LineStyle(BLUE, "-", "o"),
    LineStyle(ORANGE, "--", "s"),
    LineStyle(BLACK, ":", "^"),
    LineStyle(GREEN, "-.", "D"),
    LineStyle(VERMILLION, (0, (5, 1, 1, 1, 1, 1)), "v"),
    LineStyle(SKY, (0, (8, 2)), "P"),
    LineStyle(PURPLE, (0, (3, 1, 1, 1)), "X"),
)

_SETTINGS: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 160,
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "image.cmap": "cividis",
    "svg.hashsalt": "rnnjax",
    "svg.fonttype": "path",
    "path.simplify": True,
}


def line(index: int) -> LineStyle:
    """The `index`-th of seven distinct line styles; they repeat after that, so split a figure before it needs more."""
    return _LINES[index % len(_LINES)]


@contextlib.contextmanager
def plotting() -> Iterator[None]:
    """The settings above, inside the block only; a user's own matplotlib settings stay as they are.

    Example:

      >>> with plotting():
      ...     fig, ax = figure(width=6, height=3)
      ...     _ = ax.plot([0, 1], [0, 1], **line(0)._asdict())
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def figure(width: float = 7.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches with one pair of axes, without a window system or global state."""
    fig = Figure(figsize=(width, height))
    return fig, fig.add_subplot()


def figures(rows: int, columns: int, width: float = 7.0, height: float = 4.0, **share: Any) -> tuple[Figure, Any]:
    """A figure with a grid of axes `[rows, columns]` (always a two-dimensional array of `Axes`)."""
    fig = Figure(figsize=(width, height))
    return fig, fig.subplots(rows, columns, squeeze=False, **share)


def render(fig: Figure) -> tuple[bytes, bytes]:
    """PNG and SVG of a figure. The same figure gives the same bytes: no date, no random ids, no version."""
    with plotting():
        png, svg = io.BytesIO(), io.BytesIO()
        fig.savefig(png, format="png", metadata={"Software": None})
        fig.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue()

"""How figures look: readable in grey, by the colour-blind, on paper, and the same file for the same numbers.

Colours are those of Okabe and Ito (Color Universal Design, 2008), ordered so that neighbours differ in brightness. Each
colour has its own line style and marker, so that no line is told apart by colour alone.
"""

import contextlib
import io
import itertools
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, BLUE, ORANGE, GREEN, GREY = "#000000", "#0072B2", "#E69F00", "#009E73", "#8c8c8c"
VERMILLION, PURPLE, SKY, YELLOW = "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"
COLORS = (BLUE, ORANGE, BLACK, GREEN, VERMILLION, SKY, PURPLE, "#5e5e5e", "#8b6f00")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)))
_MARKERS = "os^DvPX<>*hd"


def line(index: int) -> dict[str, Any]:
    """Colour, line style and marker of the `index`-th line, for `ax.plot(x, y, **line(i))`."""
    pick = {"color": COLORS, "linestyle": _DASHES, "marker": _MARKERS}
    return {name: values[index % len(values)] for name, values in pick.items()}


def curve(index: int) -> dict[str, Any]:
    """`line` without its marker, for theory."""
    return line(index) | {"marker": ""}


def markers(index: int) -> dict[str, Any]:
    """Open markers without a line, for what is measured."""
    return line(index) | {"linestyle": "none", "markerfacecolor": "white"}


@contextlib.contextmanager
def plotting() -> Iterator[None]:
    """The settings of `rnnjax.mplstyle`, inside the block only; a user's own matplotlib settings stay as they are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.style.use(Path(__file__).with_name("rnnjax.mplstyle"))
        yield


def figure(width: float = 7.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches with one pair of axes, without a window system or global state."""
    fig = Figure(figsize=(width, height))
    return fig, fig.add_subplot()


def figures(rows: int, columns: int, width: float = 7.0, height: float = 4.0, **share: Any) -> tuple[Figure, Any]:
    """A figure with a grid of axes `[rows, columns]` (always a two-dimensional array of `Axes`)."""
    fig = Figure(figsize=(width, height))
    return fig, fig.subplots(rows, columns, squeeze=False, **share)


def letters(axes: Any) -> None:
    """Writes (a), (b), ..., (z), (aa), ... before the title of each panel that is drawn, in reading order."""
    one = string.ascii_lowercase
    names = itertools.chain(one, map("".join, itertools.product(one, repeat=2)))
    for ax in np.ravel(axes):
        if ax.axison:
            ax.set_title(f"({next(names)}) {ax.get_title(loc='left')}".rstrip(), loc="left")


def render(fig: Figure) -> tuple[bytes, bytes]:
    """PNG and SVG of a figure. The same figure gives the same bytes: no date, no random ids, no version."""
    with plotting():
        png, svg = io.BytesIO(), io.BytesIO()
        fig.savefig(png, format="png", metadata={"Software": None})
        fig.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue()

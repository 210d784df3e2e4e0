"""How the figures look: told apart by shape and brightness, not colour alone; the same file for the same numbers.

Colours: Okabe and Ito, Color Universal Design (2008).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.figure import Figure

BLACK, GREY = "#000000", "#8c8c8c"

_COLORS = ("#0072B2", "#E69F00", BLACK, "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#5e5e5e", "#8b6f00")
_MARKERS = "osD^vPX<>*hd"
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)))

_SETTINGS: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "rnnjax",
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The settings above, inside the block only."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the `index`-th contestant, for `ax.plot`."""
    return {
        "color": _COLORS[index % len(_COLORS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index % len(_DASHES)],
    }


def floor_look() -> dict[str, Any]:
    """The matmul floor is drawn the same everywhere: a broad grey line, nothing below it is possible."""
    return {"color": GREY, "linewidth": 5.0, "alpha": 0.5, "solid_capstyle": "butt", "zorder": 0}


def panels(rows: int, columns: int, width: float, height: float, **share: Any) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches and its axes `[rows, columns]`."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **share)

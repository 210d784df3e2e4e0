"""Two pictures: the waterfalls before and after training, and what became of the error."""

from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from experiments import harness
from experiments.harness import style

_LEVELS = (-8, -6, -4, -2, -1, 0, 1, 2)  # decades


def waterfall_figure(run: harness.Run[Any], scales: tuple[float, ...], measured: dict[str, dict[str, np.ndarray]],
                     closed: dict[str, np.ndarray]) -> harness.Figure:  # fmt: skip
    """`measured[cell]["before"|"after"]` and `closed[cell]` are `[scales, T + 1]` in decades."""
    cells = list(measured)
    norm = Normalize(-8, 2)
    fig, axes = style.figures(2, len(cells), 2.5 * len(cells) + 1.2, 5.6, sharex=True, sharey=True)
    image = None
    for row, what in enumerate(("before", "after")):
        for column, cell in enumerate(cells):
            ax, values = axes[row, column], measured[cell][what]
            lags = np.arange(values.shape[1])
            image = ax.pcolormesh(lags, np.arange(len(scales)), values, norm=norm, shading="nearest", rasterized=True)
            if what == "before" and cell in closed:
                drawn = ax.contour(lags, np.arange(len(scales)), closed[cell], levels=_LEVELS, colors="black",
                                   linestyles="-", linewidths=1.2)  # fmt: skip
                drawn.set_path_effects([withStroke(linewidth=2.6, foreground="white")])
                for text in ax.clabel(drawn, fmt="%d", fontsize=8):
                    text.set_path_effects([withStroke(linewidth=2, foreground="white")])
            ax.set_yticks(range(len(scales)), [f"{scale:g}" for scale in scales])
            ax.grid(False)
            if row == 0:
                ax.set_title(cell)
            else:
                ax.set_xlabel("lag T − t [steps]")
        axes[row, 0].set_ylabel(f"{what} training\nscale of W2")
    if image is not None:
        fig.colorbar(image, ax=axes, label="log10 |dL/d(carry)|, relative to lag 0 [decades]", extend="both", pad=0.01)
    return run.figure(
        "waterfall",
        fig,
        alt="Heat maps of the log gradient by lag and scale for each cell, before and after training: dark where it "
        "has vanished. Contours of theory follow the colours.",
        caption="Mean over sequences and seeds. Contours (black): closed form for the linear cell, mean field for "
        "tanh, in decades. Where a network has learned, training has rebuilt a path to the first input; where it "
        "failed, it stays dark.",
    )


def success_figure(run: harness.Run[Any], rows: list[dict[str, Any]]) -> harness.Figure:
    """Final error against the gradient that reaches the first input, before (open) and after training (filled)."""
    fig, ax = style.figure(7, 4.4)
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    for i, cell in enumerate(cells):
        look = style.line(i)
        for row in rows:
            if row["cell"] == cell:
                x = [row["log10_gradient_before"], row["log10_gradient_after"]]
                y = [row["error_after"]] * 2
                ax.plot(x, y, color=look.color, linewidth=0.8, alpha=0.7)
                ax.plot(x[:1], y[:1], look.marker, color=look.color, markerfacecolor="white")
                ax.plot(x[1:], y[1:], look.marker, color=look.color)
    handles: list[Any] = [
        Line2D([], [], color=style.line(i).color, marker=style.line(i).marker, linestyle="none", label=cell)
        for i, cell in enumerate(cells)
    ]
    handles.append(
        Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="none", label="before training")
    )
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ax.annotate("best constant", (0.01, 1), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                fontsize=8)  # fmt: skip
    ax.set_yscale("log")
    ax.set_xlabel("log10 of the gradient that reaches the first input, relative to lag 0 [decades]")
    ax.set_ylabel("mean squared error after training")
    ax.legend(handles=handles)
    return run.figure(
        "success",
        fig,
        alt="Error after training against the gradient at the longest lag: low errors only where it is near one.",
        caption="One network a pair (scale, seed): open, the gradient before training; filled, after it. Errors "
        "below a tenth are found only where the gradient at the longest lag is of order one after training.",
    )

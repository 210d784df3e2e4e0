"""The second picture: how much gradient reaches step 1, by scale and length."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.image import AxesImage

from experiments import harness
from experiments.gradient_decay.options import Options
from experiments.harness import style

_NORM = TwoSlopeNorm(0, -20, 20)  # decades; the colour map's brightness rises throughout, so it also reads in grey


def map_figure(run: harness.Run[Options], rows: list[dict[str, Any]]) -> harness.Figure:
    """Panels kind x cell, scale up, length to the right, decades written in each field."""
    options = run.options
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    kinds, scales, lengths = options.kinds, options.scales, options.lengths
    height = 0.3 * len(scales) * len(kinds) + 1.6
    fig, axes = style.figures(len(kinds), len(cells), 2.9 * len(cells) + 1.0, height, sharex=True, sharey=True)
    images = []
    for k, kind in enumerate(kinds):
        for column, cell in enumerate(cells):
            fields = np.full((len(scales), len(lengths)), None)
            for row in rows:
                if (row["cell"], row["kind"]) == (cell, kind):
                    fields[scales.index(row["scale"]), lengths.index(row["length"])] = row
            images.append(_panel(axes[k, column], fields, scales, lengths))
            if k == 0:
                axes[k, column].set_title(cell)
            if k == len(kinds) - 1:
                axes[k, column].set_xlabel("length T [steps]")
        axes[k, 0].set_ylabel(f"{kind} W2\nscale")
    fig.colorbar(images[0], ax=axes, label="log10 |dL/dh_1| [decades]", extend="both", pad=0.01)
    return run.figure(
        "map",
        fig,
        alt="Heat maps of the log gradient that reaches step 1 by scale of W2 and length, one a cell and kind.",
        caption="Decades of gradient that reach step 1 (mean over seeds): dark vanishes, bright explodes. A zero in an "
        "empty field means that exactly nothing arrives, ∞ that the state itself overflows.",
    )


def _panel(ax: Axes, fields: np.ndarray, scales: tuple[float, ...], lengths: tuple[int, ...]) -> AxesImage:
    """`fields` [scale, length] holds rows of the summary."""
    means = [[row["log10_gradient_mean"] for row in line] for line in fields]
    values = np.array(means, float)  # NaN for None
    image = ax.imshow(values, norm=_NORM, cmap="cividis", aspect="auto", origin="lower")
    for (i, j), value in np.ndenumerate(values):
        text = "0" if np.isnan(value) or abs(value) < 0.5 else f"{value:.0f}".replace("-", "−")
        text = "∞" if fields[i, j]["verdict"] == "overflow" else text
        ink = "black" if np.isnan(value) or _NORM(value) > 0.55 else "white"
        ax.text(j, i, text, ha="center", va="center", fontsize=7.5, color=ink)
    ax.grid(False)
    ax.set_xticks(range(len(lengths)), [str(length) for length in lengths], rotation=90)
    ax.set_yticks(range(len(scales)), [f"{scale:g}" for scale in scales])
    return image

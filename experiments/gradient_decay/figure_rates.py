"""The third picture: growth per step against the scale of W2, measured and in theory."""

from typing import Any

from matplotlib.axes import Axes

from experiments import harness
from experiments.gradient_decay.options import Options
from experiments.harness import style


def rates_figure(run: harness.Run[Options], lag_rows: list[dict[str, Any]]) -> harness.Figure:
    """One panel a kind; markers with error bars are measured within the longest sequence, lines are theory."""
    options = run.options
    cells = list(dict.fromkeys(row["cell"] for row in lag_rows))
    fig, axes = style.figures(1, len(options.kinds), 4.6 * len(options.kinds), 4.2, sharey=True)
    for ax, kind in zip(axes[0], options.kinds, strict=True):
        ax.axhline(0, color="black", linewidth=0.8)
        for i, cell in enumerate(cells):
            rows = [row for row in lag_rows if (row["cell"], row["kind"]) == (cell, kind)]
            _cell(ax, style.line(i), cell, sorted(rows, key=lambda row: row["scale"]))
        ax.set_xscale("log")
        ax.set_xticks(options.scales, [f"{scale:g}" for scale in options.scales], rotation=90)
        ax.minorticks_off()
        ax.set_title(f"{kind} W2")
        ax.set_xlabel("scale of W2")
    axes[0, 0].set_ylabel("growth per step back [nats]")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return run.figure(
        "rates",
        fig,
        alt="Growth of the gradient per step in nats against the scale of W2, markers measured and lines theory.",
        caption="Slope of the log gradient over lags from a tenth of the longest sequence on: mean and standard "
        "deviation over seeds, lines theory. Below 0 the gradient vanishes, above it explodes.",
    )


def _cell(ax: Axes, look: style.LineStyle, cell: str, rows: list[dict[str, Any]]) -> None:
    measured = [row for row in rows if row["rate_nats_per_step"] is not None]
    scales, rates, stds = (
        [row[name] for row in measured] for name in ("scale", "rate_nats_per_step", "rate_nats_per_step_std")
    )
    ax.errorbar(scales, rates, stds, color=look.color, linestyle="none", marker=look.marker, label=cell, capsize=2)
    told = [row for row in rows if row["predicted_rate_nats_per_step"] is not None]
    if told:
        theory = [row["predicted_rate_nats_per_step"] for row in told]
        label = f"{cell}, theory"
        ax.plot([row["scale"] for row in told], theory, color=look.color, linestyle=look.linestyle, label=label)

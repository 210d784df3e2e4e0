"""The figure of the observatory: time a network against width, a panel a task and share of exponents."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness import reading
from benchmarks.harness.drawing import drawing, look, panels
from benchmarks.observatory.summary import per_network


def draw(result: Mapping[str, Any]) -> Figure:
    """Milliseconds a network on logarithmic axes, one line a contestant."""
    points = result["points"]
    names = reading.names(points)
    shares = sorted({round(point["k"] / point["H"], 2) for point in points})
    titles = [("spectrum", share, f"{share:.0%} of the H exponents") for share in shares]
    titles.append(("leading", shares[0], "the leading exponent alone"))
    with drawing():
        figure, axes = panels(1, len(titles), 3.1 * len(titles) + 0.6, 4.4, sharey=True)
        for ax, (task, share, title) in zip(axes[0], titles, strict=True):
            chosen = [point for point in points if round(point["k"] / point["H"], 2) == share]
            for number, name in enumerate(names):
                drawn = [(point["H"], per_network(reading.by_name(point)[name], task)) for point in chosen]
                drawn = [(size, ms) for size, ms in drawn if ms is not None]
                if drawn:
                    ax.plot(*zip(*drawn, strict=True), label=name, **look(number))
            ax.set(xscale="log", yscale="log", xlabel="width H [units]", title=title)
            sizes = sorted({point["H"] for point in chosen})
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.minorticks_off()
        axes[0, 0].set_ylabel("time of a network [ms]")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        title = f"Lyapunov exponents of {points[0]['networks']} tanh networks over {points[0]['T']} steps, float64"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure

"""Two pictures: one gradient on its way down in three arithmetics, and all horizons against theory."""

from typing import Any

import numpy as np

from experiments import harness
from experiments.float_horizon.measure import DTYPES, KINDS, closed_form_lag
from experiments.harness import style

_LOOKS = {
    ("norm", "float32"): style.line(0),
    ("gradient", "float32"): style.line(1),
    ("norm", "float64"): style.line(2),
    ("gradient", "float64"): style.line(3),
}
_EXPONENTS = {
    ("norm", "float32"): -63,
    ("gradient", "float32"): -126,
    ("norm", "float64"): -511,
    ("gradient", "float64"): -1022,
}


def curve_figure(run: harness.Run[Any], curves: dict[str, dict[str, np.ndarray]]) -> harness.Figure:
    """log10 norm against lag of the most decaying nonlinear cell there is, exact and plain."""
    name = next((each for each in ("tanh", "relu", "gru", "lstm", "linear") if each in curves), next(iter(curves)))
    found = curves[name]
    exact = found["log_norm"] / np.log(10)
    lags = np.arange(len(exact))
    fig, ax = style.figure(7.5, 4.4)
    ax.plot(lags, exact, color="black", linewidth=1.2, label="exact log-adjoint")
    end = len(lags) - 1
    for kind in KINDS:
        for dtype in DTYPES:
            look, plain = _LOOKS[kind, dtype], found[f"{kind}/{dtype}"]
            alive = np.isfinite(plain) & (plain > 0)
            last = int(np.flatnonzero(~alive)[0]) if not alive.all() else end
            ax.axhline(_EXPONENTS[kind, dtype] * np.log10(2), color=look.color, linestyle=look.linestyle, linewidth=1)
            label = f"{dtype}, {kind}: 0 from lag {last}" if last < end else f"{dtype}, {kind}: alive"
            ax.plot(last, exact[last], look.marker, color=look.color, markersize=9, linestyle="none", label=label)
            if kind == "norm":
                some = slice(0, last, max(1, last // 12))
                with np.errstate(divide="ignore"):
                    ax.plot(lags[some], np.log10(plain[some]), look.marker, color=look.color, markerfacecolor="white")
    if exact.min() < -330:
        end = int(np.argmax(exact < -330))
    ax.set_xlim(0, end)
    ax.set_ylim(max(exact.min(), -340), 10)
    ax.set_xlabel("lag T − t [steps]")
    ax.set_ylabel("log10 |dL/dh| [decades]")
    ax.set_title(f"{name}, orthogonal W2")
    ax.legend(loc="lower left", frameon=True, framealpha=1, edgecolor="none")
    return run.figure(
        "curves",
        fig,
        alt="Log norm of the gradient against lag: the exact line falls on, plain ones end at four levels.",
        caption="Exact log-adjoint (line) and plain norms (open markers) of one network. Horizontal lines: the range "
        "of each format, at 2^-63, 2^-126, 2^-511 and 2^-1022; filled markers: from that lag on the plain result is 0.",
    )


def horizon_figure(run: harness.Run[Any], rows: list[dict[str, Any]]) -> harness.Figure:
    """Left: death against scale for the linear cell, closed form drawn; right: measured against foretold, all cells."""
    fig, axes = style.figures(1, 2, 9.2, 4.1)
    left, right = axes[0]
    linear = [row for row in rows if row["cell"] == "linear"]
    for (kind, dtype), look in _LOOKS.items():
        label = f"{dtype}, {kind}"
        own = [row for row in linear if (row["what"], row["dtype"]) == (kind, dtype)]
        died = [row for row in own if row["dies_at_lag_steps"] is not None]
        left.plot([r["scale"] for r in died], [r["dies_at_lag_steps"] for r in died], look.marker, color=look.color,
                  label=label)  # fmt: skip
        if own:
            scales = np.geomspace(min(r["scale"] for r in own), max(r["scale"] for r in own), 400)
            theory = np.array([closed_form_lag(kind, dtype, float(scale)) for scale in scales])
            left.plot(scales, theory, color=look.color, linestyle=look.linestyle, linewidth=1.2)
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_ylim(20, 10**4)
    left.set_xlabel("scale of the orthogonal W2")
    left.set_ylabel("lag of death [steps]")
    left.set_title("linear cell; lines: closed form")
    left.legend(loc="upper right", fontsize=8)
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    for i, cell in enumerate(cells):
        look = style.line(i)
        own = [r for r in rows if r["cell"] == cell and r["dies_at_lag_steps"] and r["foretold_lag_steps"]]
        right.plot([r["foretold_lag_steps"] for r in own], [r["dies_at_lag_steps"] for r in own], look.marker,
                   color=look.color, label=cell, markersize=6, markerfacecolor="white")  # fmt: skip
    right.plot([20, 10**4], [20, 10**4], color="black", linewidth=1)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("lag foretold by the exact log-adjoint [steps]")
    right.set_ylabel("lag of death, plain arithmetic [steps]")
    right.set_title("every cell, format and scale; line: equal")
    right.legend()
    return run.figure(
        "horizons",
        fig,
        alt="Lags of death against scale, markers on the closed-form lines; and measured against foretold, on the "
        "diagonal.",
        caption="Left: medians over seeds (markers) and log(smallest or largest number) / log(scale), halved for a "
        "norm (lines). Right: the lag at which plain arithmetic dies against the one that the exact log-adjoint and "
        "the range of the format foretell.",
    )

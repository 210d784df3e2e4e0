"""Where floating point loses a gradient that the log form keeps.

Question: at which lag does the norm of a gradient die in float32 and in float64, and the gradient itself?
Command: python -m experiments.float_horizon
Minutes: 0.5 on one core; 0.3 with --quick.
Expected: for a linear network with an orthogonal W2 of scale s the norm dies near lag 63 log 2 / |log s| in float32 and
511 log 2 / |log s| in float64 (s = 0.5: 63 and 511), the gradient itself at 126 and 1022. The norm of a tanh network of
32 units at scale 1, driven by white noise, dies in float32 before lag 100, where the true norm is about 1e-19. In every
network the norm dies within a step of the lag that the exact log-adjoint predicts; the gradient itself dies up to 5%
earlier than predicted, since the products inside a matmul underflow before their sum does.

A norm squares before it sums, so it dies at half the exponent at which the gradient itself does. "Plain" is
`adjoint_by_perturbation`, one backward pass of automatic differentiation in float32 or float64; "exact" is `adjoint`,
which carries a unit vector and the log of a norm. Where the plain norm is alive, the two must agree.

The prediction: the norm vanishes once the square of the largest entry is below the smallest normal number (XLA flushes
smaller ones to zero), and overflows once the sum of squares passes the largest number; the gradient vanishes and
overflows with its largest entry. The loss is the inner product of the last output with a random unit vector.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax import gradients

from . import lab
from .gradient_decay import CELLS, redraw
from .lab import style

INPUT_SIZE = 3
FORMATS = (("norm", "float32"), ("gradient", "float32"), ("norm", "float64"), ("gradient", "float64"))
BORDERS = (-63, -126, -511, -1022)  # the powers of two below which these underflow
CellName = Literal["linear", "tanh", "relu", "lstm", "gru"]


@lab.options(quick={"scales": (0.25, 0.5, 2.0), "seeds": 2, "steps": 1200})
class Options(lab.Options):
    """Lags at which float32 and float64 lose a gradient."""

    cells: lab.Distinct[CellName] = ("linear", "tanh", "lstm", "gru")
    """Built-in cells: linear, tanh, relu (Elman), lstm, gru."""
    scales: lab.Distinct[PositiveFloat] = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0)
    """Scales of the orthogonal W2 of the linear cell [dimensionless]; the other cells have scale 1."""
    hidden_size: PositiveInt = 32
    """H [units]."""
    seeds: PositiveInt = 4
    """How many networks are drawn per scale."""
    steps: PositiveInt = 4000
    """Length of the sequences [steps]; a gradient that outlives it has no lag in the table."""


class Curves(NamedTuple):
    """By lag 0..T of N networks, each `[N, T + 1]`.

    Attributes:
      log_norm: exact log |dL/d(carry)| [nats].
      log_largest: exact log of the largest absolute entry [nats].
      plain: by (kind, dtype) of `FORMATS`: the norm or the largest absolute entry in plain arithmetic.
    """

    log_norm: Any
    log_largest: Any
    plain: dict[tuple[str, str], Any]


def gradient_curves(
    name: str, scale: float, networks: Sequence[int], hidden_size: int, steps: int, seed: int
) -> Curves:
    """Exact and plain gradients of the networks with these indices among those that `seed` draws.

    W2 is scale times orthogonal. The input is white noise N(0, 1), but nothing for the linear cell, whose Jacobian does
    not depend on its state, while a growing state would overflow first.
    """
    cell = CELLS[name](hidden_size)
    key_params, key_input = jax.random.split(jax.random.key(seed))
    xs = jax.random.normal(key_input, (steps, INPUT_SIZE), "float64")
    if name == "linear":
        xs = jnp.zeros_like(xs)

    def draw(key: Array) -> tuple[Any, Array]:
        key_params, key_recurrent, key_direction = jax.random.split(key, 3)
        params = redraw(cell.init(key_params, INPUT_SIZE, xs.dtype), [".w_h"], key_recurrent, "orthogonal")
        direction = jax.random.normal(key_direction, (hidden_size,), xs.dtype)
        return params._replace(w_h=params.w_h * scale), direction / jnp.linalg.norm(direction)

    keys = jax.random.split(key_params, max(networks) + 1)
    drawn = [draw(keys[network]) for network in networks]  # LAPACK's QR outside the program with the time loops
    params, directions = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    return jax.tree.map(np.asarray, _curves(cell, params, directions, xs))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
def _curves(cell: rnnjax.Cell, params: Any, direction: Array, xs: Array) -> Curves:
    def loss(ys: Array) -> Array:
        return ys[-1] @ direction.astype(ys.dtype)

    exact = gradients.adjoint(cell, params, xs, loss)
    plain = {}
    for dtype in ("float32", "float64"):
        cast_params, cast_xs = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), (params, xs))
        gradient = gradients.adjoint_by_perturbation(cell, cast_params, cast_xs, loss)
        squares = [(leaf * leaf).sum(axis=-1) for leaf in jax.tree.leaves(gradient)]
        plain["norm", dtype] = jnp.sqrt(sum(squares[1:], start=squares[0]))[::-1]
        plain["gradient", dtype] = _largest(gradient)[::-1]
    log_largest = exact.log_norm + jnp.log(_largest(exact.direction))
    return Curves(exact.log_norm[::-1], log_largest[::-1], plain)


def _largest(tree: Any) -> Array:
    return functools.reduce(jnp.maximum, [jnp.abs(leaf).max(axis=-1) for leaf in jax.tree.leaves(tree)])


def death_lags(plain: np.ndarray) -> np.ndarray:
    """The first lag at which each row of `[N, T + 1]` is 0, inf or NaN; NaN for rows that live to the end."""
    return _first((plain == 0) | ~np.isfinite(plain))


def predicted_lags(kind: str, dtype: str, log_norm: np.ndarray, log_largest: np.ndarray) -> np.ndarray:
    """The same lag from the exact curves `[N, T + 1]` and the range of the number format alone."""
    log_tiny, log_max = _range(dtype)
    if kind == "norm":
        return _first((2 * log_largest < log_tiny) | (2 * log_norm >= log_max))
    return _first((log_largest < log_tiny) | (log_largest >= log_max))


def closed_form_lag(kind: str, dtype: str, scale: float) -> float:
    """The lag at which scale^k leaves the format, squared or not, as one unit would; inf at scale 1."""
    if scale == 1:
        return float("inf")
    log_tiny, log_max = _range(dtype)
    return (log_tiny if scale < 1 else log_max) / float(np.log(scale)) / (2 if kind == "norm" else 1)


def _range(dtype: str) -> tuple[float, float]:
    """log of the smallest normal and of the largest number, slightly inside: powers of two lie on the border."""
    limits = np.finfo(dtype)
    return float(np.log(float(limits.tiny))) - 1e-9, float(np.log(float(limits.max))) - 1e-9


def _first(flags: np.ndarray) -> np.ndarray:
    return np.where(flags.any(axis=1), flags.argmax(axis=1).astype(float), np.nan)


def horizons(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Networks of one cell and scale in one program: when each dies, when it is predicted to, and its curves.

    `disagreement_nats` is the largest |log of the plain float64 norm - exact log norm| where the plain one is alive.
    """
    sizes = {name: asked[0][name] for name in ("hidden_size", "steps", "seed")}
    curves = gradient_curves(asked[0]["cell"], asked[0]["scale"], [each["network"] for each in asked], **sizes)
    plain, log_tiny = curves.plain["norm", "float64"], float(np.log(np.finfo("float64").tiny))
    # Entries within a factor of 2^26 of where their square dies have lost digits; there the two need not agree.
    alive = np.isfinite(plain) & (plain > 0) & (2 * curves.log_largest > log_tiny + 26 * 2 * np.log(2))
    off = np.abs(np.log(np.where(alive, plain, 1)) - np.where(alive, curves.log_norm, 0)).max(axis=1)
    found = [{"disagreement_nats": off[n], "log_norm": curves.log_norm[n]} for n in range(len(asked))]
    for kind, dtype in FORMATS:
        plain = curves.plain[kind, dtype]
        predicted = predicted_lags(kind, dtype, curves.log_norm, curves.log_largest)
        for n, lags in enumerate(zip(death_lags(plain), predicted, strict=True)):
            for what, lag in zip(("dies", "predicted"), lags, strict=True):
                found[n][f"{kind}_{dtype}_{what}"] = None if np.isnan(lag) else int(lag)
            if kind == "norm":
                found[n][f"norm_{dtype}"] = plain[n]
    return found


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    sizes = {"hidden_size": options.hidden_size, "steps": options.steps, "seed": options.seed}
    asked = [
        {"cell": cell, "scale": scale, "network": network, **sizes}
        for cell in options.cells
        for scale in (options.scales if cell == "linear" else (1.0,))
        for network in range(options.seeds)
    ]
    return run.rows(horizons, asked, "networks", together=("cell", "scale"))


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    networks: dict[tuple[str, float], list[lab.Row]] = {}
    for row in rows:
        networks.setdefault((row["cell"], row["scale"]), []).append(row)
    table = [_over_networks(*format_, own) for own in networks.values() for format_ in FORMATS]
    residuals = []
    for row in table:
        died, closed = row["dies_at_lag_steps"], row["closed_form_lag_steps"]
        if died is not None and closed is not None:
            quantity = f"{row['dtype']} {row['what']} dies, scale {row['scale']:g}"
            residuals.append(lab.residual(quantity, died, closed, unit="steps"))
    worst = max(row["disagreement_nats"] for row in rows)
    furthest = max(row["worst_difference_steps"] or 0.0 for row in table)
    page.text("Results", [
        "The exact log-adjoint has no horizon. Where the plain float64 norm is alive it differs from the exact one by "
        f"at most {worst:.1e} nats; where a plain result dies, it dies within {furthest:.0f} steps of the predicted "
        "lag (every cell, scale, format and network)."
    ])  # fmt: skip
    shown = next(name for name in ("tanh", "relu", "gru", "lstm", "linear") if name in page.options.cells)
    page.figure(
        "curves",
        _curves_figure(next(row for row in rows if row["cell"] == shown)),
        alt="Log norm of the gradient against lag: the exact line falls on and on, the plain ones end at four levels.",
        caption="Exact log-adjoint (line) and plain norms (open markers) of one network. Horizontal lines: the range "
        "of each format, at 2^-63, 2^-126, 2^-511 and 2^-1022. Filled markers: from that lag on the plain result is 0.",
    )
    page.figure(
        "horizons",
        _horizons_figure(table),
        alt="Lag of death against scale, with markers on the closed-form lines; and measured against predicted lag, "
        "on the diagonal.",
        caption="(a) Medians over networks (markers) and log(smallest or largest number) / log(scale), halved for a "
        "norm (lines). (b) The lag at which plain arithmetic dies against the lag that the exact log-adjoint and the "
        "range of the format predict.",
    )
    page.residuals(residuals, "Linear cell: measured and closed form")
    page.table(table, caption="Lags at which a gradient dies, medians over networks")
    page.summary |= {"rows": table, "residuals": residuals, "exact_against_plain_float64_worst_nats": worst}


def _over_networks(kind: str, dtype: str, rows: list[lab.Row]) -> dict[str, Any]:
    """Medians; None where most networks outlive the sequence."""
    cell, scale = rows[0]["cell"], rows[0]["scale"]
    died, told = (np.array([row[f"{kind}_{dtype}_{what}"] for row in rows], float) for what in ("dies", "predicted"))
    both = np.isfinite(died) & np.isfinite(told)
    medians = [float(np.median(np.where(np.isnan(lags), np.inf, lags))) for lags in (died, told)]
    return {
        "cell": cell,
        "scale": scale,
        "what": kind,
        "dtype": dtype,
        "dies_at_lag_steps": medians[0] if math.isfinite(medians[0]) else None,
        "foretold_lag_steps": medians[1] if math.isfinite(medians[1]) else None,
        "closed_form_lag_steps": closed_form_lag(kind, dtype, scale) if cell == "linear" else None,
        "worst_difference_steps": float(np.abs(died - told)[both].max()) if both.any() else None,
        "one_foretold_other_not_count": int((np.isfinite(died) != np.isfinite(told)).sum()),
    }


def _curves_figure(row: lab.Row) -> style.Figure:
    """log10 norm against lag of one network, exact and plain."""
    exact = row["log_norm"] / np.log(10)
    lags, end = np.arange(len(exact)), len(exact) - 1
    fig, ax = style.figure(7.5, 4.4)
    ax.plot(lags, exact, color="black", linewidth=1.2, label="exact log-adjoint")
    for i, (kind, dtype) in enumerate(FORMATS):
        look, died = style.line(i), row[f"{kind}_{dtype}_dies"]
        last = end if died is None else int(died)
        label = f"{dtype}, {kind}: {'alive' if died is None else f'0 from lag {last}'}"
        ax.axhline(BORDERS[i] * np.log10(2), **style.curve(i), linewidth=1)
        ax.plot(last, exact[last], look["marker"], color=look["color"], markersize=9, label=label)
        if kind == "norm":
            some = slice(0, last, max(1, last // 12))
            ax.plot(lags[some], np.log10(row[f"norm_{dtype}"][some]), **style.markers(i))
    right = int(np.argmax(exact < -330)) if exact.min() < -330 else end
    ax.set(title=f"{row['cell']}, orthogonal W2", xlim=(0, right), ylim=(max(exact.min(), -340), 10))
    ax.set(xlabel="lag T − t [steps]", ylabel="log10 |dL/dh| [decades]")
    ax.legend(loc="lower left", frameon=True, framealpha=1, edgecolor="none")
    return fig


def _horizons_figure(table: list[dict[str, Any]]) -> style.Figure:
    fig, axes = style.figures(1, 2, 9.2, 4.1)
    left, right = axes[0]
    for i, (kind, dtype) in enumerate(FORMATS):
        own = [row for row in table if (row["cell"], row["what"], row["dtype"]) == ("linear", kind, dtype)]
        scales, died = [row["scale"] for row in own], [row["dies_at_lag_steps"] for row in own]
        # NaN, and so not drawn, where most outlive the sequence
        left.plot(scales, np.array(died, float), **style.markers(i), label=f"{dtype}, {kind}")
        if own:
            fine = np.geomspace(min(scales), max(scales), 400)
            closed = [closed_form_lag(kind, dtype, float(scale)) for scale in fine]
            left.plot(fine, closed, **style.curve(i), linewidth=1.2)
    for i, cell in enumerate(dict.fromkeys(row["cell"] for row in table)):
        own = [row for row in table if row["cell"] == cell]
        told, died = (np.array([row[f"{what}_lag_steps"] for row in own], float) for what in ("foretold", "dies_at"))
        right.plot(told, died, **style.markers(i), label=cell)
    right.plot([20, 10**4], [20, 10**4], color="black", linewidth=1)
    left.set_xscale("log", base=2)
    left.set(title="linear cell; lines: closed form", yscale="log", ylim=(10, 10**4))
    left.set(xlabel="scale of the orthogonal W2", ylabel="lag of death [steps]")
    left.legend(loc="lower center", fontsize=8)
    right.set(title="every cell, format and scale; line: equal", xscale="log", yscale="log")
    right.set(xlabel="predicted lag of death [steps]", ylabel="lag of death, plain arithmetic [steps]")
    right.legend()
    style.letters(axes)
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

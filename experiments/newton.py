"""Newton's method in time: how many iterations it needs, and where it breaks, against the leading Lyapunov exponent.

Question: does the measured exponent of a network say whether all its time steps can be solved at once, and how fast?
Command: python -m experiments.newton
Minutes: 5 on two cores; with --quick 1.
Expected: networks with an exponent below -0.2 need 3 to 5 iterations at every length. From -0.1 towards zero the number
rises, to some 15 to 50 at T = 300. Above zero no network converges in 50 iterations at T = 1,000, and all are reported;
at T = 100 some do, as rounding errors forbid it only where λ T > ln(tolerance / ε) = 12. What converges is within 1e-10
of the scan. The exponent is that of the solution: a network at scale 5 with -0.17 fails at every length, since products
of Jacobians grow along the iterates.

    K(λ, n) = Σ_{i<n} e^{iλ},   κ K(λ, n*) = θ
    iterations = log2(1 + log tolerance / log min(κ K(λ, T), θ)) + T / n*

The networks have a Gaussian W2 of variance scale²/H for each gate and an input of variance 1/16; their exponent is
measured over the last four fifths of the same sequence.

References: Gonzalez et al., Predictability enables parallelization of nonlinear state space models, arXiv 2508.16817;
Lim et al., arXiv 2309.12252, for the method.
"""

import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax import cells, gradients, parallel

from . import lab
from .lab import style

CELLS = ("elman", "gru", "lstm")
FEATURES = 2
EPSILON = float(np.finfo(np.float64).eps)
TOLERANCE = EPSILON ** (2 / 3)  # the default of `rnnjax.Parallel`


@lab.options(quick={"cells": ("elman", "lstm"), "scales": (0.6, 1.2, 3.0), "lengths": (100, 1000), "seeds": 1})
class Options(lab.Options):
    """Iterations and error of Newton's method in time against the leading exponent."""

    cells: lab.Distinct[str] = CELLS
    """Names in the catalogue of cells with `w_h`: elman, gru, lstm."""
    scales: lab.Distinct[PositiveFloat] = (0.3, 0.6, 0.9, 1.2, 1.5, 2.0, 3.0, 5.0)
    """Scale of W2 [dimensionless]."""
    lengths: lab.Distinct[Annotated[int, Ge(20)]] = (100, 300, 1000)
    """T [steps]."""
    hidden_size: PositiveInt = 16
    """H [units]."""
    iterations: PositiveInt = 50
    """The most iterations."""
    seeds: PositiveInt = 2
    """Networks at each point."""

    def check(self) -> None:
        unknown = set(self.cells) - set(CELLS)
        if unknown:
            raise lab.UsageError(f"--cells: {', '.join(sorted(unknown))}; choose of {', '.join(CELLS)}.")


def network(cell: Any, scale: float, seed: int) -> Any:
    rng, size = np.random.default_rng(seed), cell.hidden_size
    shapes = jax.eval_shape(lambda key: cell.init(key, FEATURES), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    w_x, w_h = (rng.normal(size=leaf.shape) for leaf in (shapes.w_x, shapes.w_h))
    return params._replace(w_x=jnp.asarray(w_x / FEATURES**0.5), w_h=jnp.asarray(scale * w_h / size**0.5))


def at_scale(cell: str, scale: float, steps: int, hidden_size: int, iterations: int, seed: int) -> dict[str, Any]:
    """The exponent of one network [nats per step], and what Newton's method makes of it."""
    made = cells.catalogue()[cell](hidden_size)
    params = network(made, scale, seed)
    xs = 0.25 * jnp.asarray(np.random.default_rng(seed + 1000).normal(size=(steps, FEATURES)))
    found = parallel.solve(made, params, xs, iterations=iterations, certify=False)
    exponent, error = _measured(made, steps // 5, params, xs, found.carries)
    return {
        "exponent_nats_per_step": float(exponent),
        "iterations_count": int(found.iterations),
        "converged": bool(found.converged),
        "residual": float(found.residual),
        "estimate": float(found.estimate),
        "error": float(error),
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measured(cell: Any, transient: int, params: Any, xs: Array, carries: Any) -> tuple[Array, Array]:
    exponent = gradients.leading_exponent(cell, params, xs, transient=transient).exponent
    truth = rnnjax.unroll(cell, params, xs, engine="scan", carries=True)[2]
    gaps = [jnp.abs(a - b).max() for a, b in zip(jax.tree.leaves(carries), jax.tree.leaves(truth), strict=True)]
    return exponent, functools.reduce(jnp.maximum, gaps)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o = options
    points = [
        {"cell": cell, "scale": scale, "steps": steps, "hidden_size": o.hidden_size, "iterations": o.iterations}
        | {"seed": o.seed + i}
        for steps in o.lengths
        for cell in o.cells
        for scale in o.scales
        for i in range(o.seeds)
    ]
    return run.rows(at_scale, points, "networks")


def edge(steps: int) -> float:
    """The λ at which ε K(λ, T) = tolerance: beyond it, rounding errors alone are above the tolerance."""
    low, high = -1.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        above = EPSILON * parallel.amplification(middle, steps) > TOLERANCE
        low, high = (low, middle) if above else (middle, high)
    return low


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    o = page.options
    good = [row for row in rows if row["converged"]]
    positive = [row for row in rows if row["exponent_nats_per_step"] > 0]
    long_positive = [row for row in positive if row["steps"] >= 1000]
    wrong = [row for row in good if not row["error"] <= 1e-9]
    factors = np.array([_predicted(row) / row["iterations_count"] for row in good])
    far = np.array([row["exponent_nats_per_step"] < -0.1 for row in good], bool)
    expected = [row for row in rows if row["exponent_nats_per_step"] < edge(row["steps"])]
    fewer = [row for row in expected if _predicted(row) <= o.iterations]
    page.text("Results", [
        f"{len(good)} of {len(rows)} networks converge within {o.iterations} iterations. The largest error among them "
        f"is {max([row['error'] for row in good], default=0.0):.1e}; {len(wrong)} are further than 1e-9 from the scan.",
        f"Of {len(long_positive)} networks with a positive exponent at T >= 1,000, "
        f"{sum(row['converged'] for row in long_positive)} converge; the others are reported as not converged. Of "
        f"{len(fewer)} networks for which at most {o.iterations} iterations are predicted, "
        f"{sum(row['converged'] for row in fewer)} converge.",
        f"Predicted over measured iterations, of those that converge: median {_median(factors):.2g}, from "
        f"{_lowest(factors):.2g} to {_highest(factors):.2g}; with exponents below -0.1 from "
        f"{_lowest(factors[far]):.2g} to {_highest(factors[far]):.2g}.",
    ])  # fmt: skip
    page.figure(
        "iterations",
        _iterations_figure(rows, o),
        alt="Iterations against the exponent, by length: few below -0.2, rising to the limit towards zero.",
        caption=f"Iterations against the measured exponent (open: converged; crosses: not within {o.iterations}), and "
        "the prediction from the exponent alone (line). Dotted: beyond this exponent rounding errors, amplified over T "
        "steps, are above the tolerance.",
    )
    page.figure(
        "errors",
        _errors_figure(rows, o),
        alt="Error and estimate against the exponent: below the tolerance where converged, up to large values beyond.",
        caption="(a) The largest error against the scan. (b) Error against the estimate, the size of the next "
        "correction; against the residual, in grey, which is smaller than the error where perturbations last. Dashed: "
        "equal.",
    )
    page.summary |= {"rows": [row.plain for row in rows]}
    page.summary |= {"predicted_over_measured_median": _median(factors), "converged_count": len(good)}
    page.summary |= {"converged_but_wrong_count": len(wrong)}
    page.summary |= {"edge_nats_per_step": {str(steps): edge(steps) for steps in o.lengths}}


def _predicted(row: lab.Row) -> int:
    return parallel.expected_iterations(row["exponent_nats_per_step"], row["steps"], TOLERANCE)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _lowest(values: np.ndarray) -> float:
    return float(np.min(values)) if len(values) else float("nan")


def _highest(values: np.ndarray) -> float:
    return float(np.max(values)) if len(values) else float("nan")


def _iterations_figure(rows: list[lab.Row], o: Options) -> style.Figure:
    fig, axes = style.figures(1, len(o.lengths), 3.6 * len(o.lengths), 4.2, sharey=True)
    exponents = [row["exponent_nats_per_step"] for row in rows]
    fine = np.linspace(min(exponents) - 0.05, max(max(exponents), 0.1) + 0.05, 400)
    for ax, steps in zip(axes[0], o.lengths, strict=True):
        predicted = np.array([parallel.expected_iterations(each, steps, TOLERANCE) for each in fine], float)
        inside = (predicted <= o.iterations) & (fine < edge(steps))
        ax.plot(fine, np.where(inside, predicted, np.nan), color=style.BLACK, label="predicted")
        for i, cell in enumerate(o.cells):
            own = [row for row in rows if row["cell"] == cell and row["steps"] == steps]
            good, bad = ([row for row in own if row["converged"] == flag] for flag in (True, False))
            look = style.markers(i)
            ax.plot(_of(good, "exponent_nats_per_step"), _of(good, "iterations_count"), **look, label=cell)
            ax.plot(_of(bad, "exponent_nats_per_step"), _of(bad, "iterations_count"), **look | {"marker": "x"})
        ax.axvline(edge(steps), color=style.VERMILLION, linestyle=":")
        ax.set(title=f"T = {steps:,}", xlabel="leading exponent λ [nats/step]", yscale="log")
        ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50, 100, 200) if tick <= 2 * o.iterations]
        ax.set_yticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
    axes[0, 0].set(ylabel="iterations")
    axes[0, 0].legend(loc="upper left")
    style.letters(axes)
    return fig


def _errors_figure(rows: list[lab.Row], o: Options) -> style.Figure:
    fig, axes = style.figures(1, 2, 9.6, 4.2)
    by_exponent, by_estimate = axes[0]
    least = 1e-17
    for i, cell in enumerate(o.cells):
        own = [row for row in rows if row["cell"] == cell]
        errors = np.maximum(_of(own, "error"), least)
        by_exponent.plot(_of(own, "exponent_nats_per_step"), errors, **style.markers(i), label=cell)
        grey = style.markers(i) | {"color": style.GREY, "markersize": 3}
        by_estimate.plot(np.maximum(_of(own, "residual"), least), errors, **grey, zorder=1)
        by_estimate.plot(np.maximum(_of(own, "estimate"), least), errors, **style.markers(i), zorder=2)
    by_exponent.axhline(TOLERANCE, color=style.BLACK, linestyle=":", label="tolerance")
    by_exponent.axvline(0, color=style.GREY, linewidth=0.8)
    by_exponent.set(xlabel="leading exponent λ [nats/step]", ylabel="error", yscale="log", title="Error")
    by_exponent.legend(loc="upper left")
    ends = [least, 1e3]
    by_estimate.plot(ends, ends, color=style.BLACK, linestyle="--")
    by_estimate.set(xlabel="estimate (grey: residual)", ylabel="error", xscale="log", yscale="log")
    by_estimate.set(title="Estimate")
    style.letters(axes)
    return fig


def _of(rows: list[lab.Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

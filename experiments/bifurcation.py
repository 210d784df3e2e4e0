"""Bifurcations: what the scale of W2 does to the fixed points of a network, and to its gradient.

Question: where do fixed points of a tanh network appear and lose their stability as W2 is scaled up, and how does the
gradient decay at each of them?
Command: python -m experiments.bifurcation
Minutes: half of one on one core; with --quick a quarter.
Expected: with a symmetric W2 whose eigenvectors are patterns of ±1, everything has a closed form. The origin loses its
stability at the scale 1/λ of the largest eigenvalue, where a pair of points m = tanh(s λ m) branches off, another pair
at the next 1/λ; both scales are located to 1e-10. At the origin the adjoint grows by log s per step, so it explodes for
s > 1, where it vanishes at the points that the network comes to rest at, by log((1 - m²) s). The adjoint's decay, the
leading Lyapunov exponent and the log of the spectral radius agree to 1e-6. With a Gaussian W2 they agree too, within
20/T where the leading eigenvalues are complex; there, further pairs of points appear in folds, none of them stable.

    h_t = tanh(s h_{t-1} W2),     J = s (1 - h²) W2^T at a fixed point h

On a pattern v = ±1 with W2 v = λ v, h = m v gives J = (1 - m²) s W2, whose eigenvalues are (1 - m²) s λ_j. Two more
points branch off each point of the second pair where (1 - m²) s λ_1 = 1.

Reference: Sussillo and Barak, Opening the black box, Neural Computation 25 (2013), 626.
"""

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

import rnnjax
from rnnjax import gradients
from rnnjax.dynamics import Branch, continue_in, fixed_points, plot_branches, plot_eigenvalues

from . import lab
from .lab import style

NAMES = {"symmetric": "symmetric W2, eigenvectors ±1", "gaussian": "Gaussian W2, spectral radius 1"}
BEFORE = 2000  # steps for the network to settle where no fixed point is stable


@lab.options(quick={"scales": (0.6, 0.9, 1.1, 1.4, 1.7, 2.0), "starts": 64, "steps": 200})
class Options(lab.Options):
    """Fixed points, eigenvalues and gradients against the scale of W2."""

    scales: lab.Distinct[PositiveFloat] = tuple([round(0.5 + 0.05 * i, 2) for i in range(36)])
    """s: what W2 is multiplied by [dimensionless]."""
    eigenvalues: tuple[float, ...] = (1.0, 0.6, 0.4, 0.3, 0.1, -0.2, -0.5, -0.8)
    """Of the symmetric W2, largest first; their number is H and a power of two [dimensionless]."""
    gaussian_seed: NonNegativeInt = 8
    """Seed of the Gaussian W2; of the first twelve, one that has stable points at all scales, and folds."""
    starts: PositiveInt = 256
    """Starts of the search for fixed points."""
    steps: Annotated[int, Ge(20)] = 400
    """T: steps over which exponents and the adjoint are measured [steps]."""

    def check(self) -> None:
        size = len(self.eigenvalues)
        if size < 2 or size & (size - 1) or not max(self.eigenvalues) == self.eigenvalues[0] > 0:
            raise lab.UsageError("--eigenvalues: give 2, 4, 8, ... numbers, the largest of them first and positive.")


def recurrent(matrix: str, eigenvalues: tuple[float, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """W2, and the unit vector along which points are drawn: of the leading eigenvalue."""
    size = len(eigenvalues)
    if matrix == "symmetric":
        signs = np.ones((1, 1))
        while len(signs) < size:
            signs = np.block([[signs, signs], [signs, -signs]])
        basis = signs / math.sqrt(size)
        return basis * np.asarray(eigenvalues) @ basis.T, basis[:, 0]
    w = np.random.default_rng(seed).normal(size=(size, size)) / math.sqrt(size)
    values, vectors = np.linalg.eig(w.T)
    leading = np.real(vectors[:, np.abs(values).argmax()])
    return w / np.abs(values).max(), leading / np.linalg.norm(leading)


def network(w_h: Array) -> rnnjax.ElmanParams:
    size = w_h.shape[0]
    return rnnjax.ElmanParams(jnp.zeros((1, size), w_h.dtype), w_h, jnp.zeros(size, w_h.dtype))


def at_scale(
    matrix: str, scale: float, eigenvalues: tuple[float, ...], starts: int, steps: int, seed: int
) -> dict[str, Any]:
    """The fixed points at one scale, and the three instruments at the origin and where the network comes to rest.

    Returns:
      Counts; rates in nats per step, those of `rest` None if no point is stable; `overlap` `[N]`, h along the leading
      direction; `index` `[N]`; `origin_eigenvalues` and `rest_eigenvalues` `[H]`.
    """
    w, along = recurrent(matrix, eigenvalues, seed)
    size, rng = len(w), np.random.default_rng(seed)
    cell, params, x = rnnjax.Elman(size), network(jnp.asarray(scale * w)), jnp.zeros(1)
    begin = beginnings(size, starts, rng)
    found = fixed_points(cell, params, x, jnp.asarray(begin))
    isolated = found.kind == "point"
    overlap = np.asarray(found.carry) @ along
    at_rest = np.flatnonzero(isolated & found.stable)
    origin = scale * w.T
    spectrum = np.asarray(np.linalg.eigvals(origin), complex)
    result: dict[str, Any] = {
        "points_count": int(isolated.sum()),
        "stable_count": len(at_rest),
        "certified_count": int(found.certified.sum()),
        "slow_count": int((~isolated).sum()),
        "overlap": overlap[isolated],
        "index": found.index[isolated],
        "origin_eigenvalues_real": np.real(spectrum),
        "origin_eigenvalues_imag": np.imag(spectrum),
    }
    weights = jnp.asarray(rng.normal(size=size))
    places: dict[str, Array] = {"origin": jnp.zeros(size)}
    if len(at_rest):
        rest = at_rest[np.abs(overlap[at_rest]).argmax()]
        places["rest"] = jnp.asarray(found.carry[rest])
        result |= {
            "rest_radius_nats_per_step": float(np.log(np.abs(found.eigenvalues[rest, 0]))),
            "rest_eigenvalues_real": np.real(found.eigenvalues[rest]),
            "rest_eigenvalues_imag": np.imag(found.eigenvalues[rest]),
        }
    else:
        places["moving"] = rnnjax.unroll(cell, params, jnp.zeros((BEFORE, 1)), carry=jnp.asarray(begin[-1]))[0]
    result["origin_radius_nats_per_step"] = float(np.log(np.abs(spectrum).max()))
    for name, carry in places.items():
        exponent, rate = _instruments(size, steps, params, carry, weights)
        result |= {f"{name}_exponent_nats_per_step": float(exponent), f"{name}_adjoint_nats_per_step": float(rate)}
    return result


def beginnings(size: int, starts: int, rng: np.random.Generator) -> np.ndarray:
    """`[starts, size]`: the origin, and Gaussian ones."""
    return np.concatenate([np.zeros((1, size)), 0.7 * rng.normal(size=(starts - 1, size))])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _instruments(
    size: int, steps: int, params: rnnjax.ElmanParams, carry: Array, weights: Array
) -> tuple[Array, Array]:
    """The leading Lyapunov exponent, and the adjoint's growth per step back over the first half, from one carry."""
    cell, xs, half = rnnjax.Elman(size), jnp.zeros((steps, 1)), steps // 2
    exponents = gradients.lyapunov_spectrum(cell, params, xs, carry=carry, transient=half).exponents
    found = gradients.adjoint(cell, params, xs, lambda ys: ys[-1] @ weights, carry=carry)
    return exponents[0], (found.log_norm[0] - found.log_norm[half]) / half


def branches(
    matrix: str, eigenvalues: tuple[float, ...], lowest: float, highest: float, starts: int, seed: int
) -> dict[str, Any]:
    """The branches through all points found at the highest scale, the origin first, followed down in the scale.

    Returns:
      Arrays over all their points, and the bifurcations.
    """
    w, along = recurrent(matrix, eigenvalues, seed)
    size, fixed = len(w), jnp.asarray(w)
    cell, x = rnnjax.Elman(size), jnp.zeros(1)
    begin = jnp.asarray(beginnings(size, starts, np.random.default_rng(seed)))
    points = fixed_points(cell, network(highest * fixed), x, begin, certify=False).carry
    points = jnp.concatenate([jnp.zeros((1, size)), jnp.asarray(points)])
    found = continue_in(cell, lambda s: network(s * fixed), x, points, highest, between=(lowest, highest))
    return {
        "branch": np.concatenate([np.full(len(each.values), i) for i, each in enumerate(found)]),
        "value": np.concatenate([each.values for each in found]),
        "overlap": np.concatenate([np.asarray(each.carry) @ along for each in found]),
        "stable": np.concatenate([each.stable for each in found]),
        "branches_count": len(found),
        "bifurcations": [
            {"branch": i, "kind": at.kind, "scale": at.value, "overlap": float(np.asarray(at.carry) @ along)}
            for i, each in enumerate(found)
            for at in each.bifurcations
        ],
    }


def amplitude(slope: Any) -> np.ndarray:
    """m >= 0 with m = tanh(slope m); 0 where slope <= 1."""
    slope = np.asarray(slope, float)
    m = np.where(slope > 1, 1.0, 0.0)
    for _ in range(100):  # Newton from above, where m - tanh(slope m) is convex
        bend = 1 - slope * (1 - np.tanh(slope * m) ** 2)
        m = np.where(slope > 1, m - (m - np.tanh(slope * m)) / np.where(bend > 0, bend, 1), 0.0)
    return m


def rest_rate(scales: Any, eigenvalues: tuple[float, ...]) -> np.ndarray:
    """log ρ(J) at the points of the leading pattern (at the origin before them), closed form."""
    slopes = np.asarray(scales, float) * (1 - amplitude(np.asarray(scales) * eigenvalues[0]) ** 2)
    return np.log(slopes * np.abs(eigenvalues).max())


def secondary(eigenvalues: tuple[float, ...]) -> float:
    """The scale at which each point of the second pair gets two more: (1 - m²) s λ_1 = 1; inf if there is none."""
    first, second = eigenvalues[0], sorted(eigenvalues)[-2]
    if second <= 0:
        return math.inf
    low, high = 1 / second, 64 / second  # there the left side is above 1, and near 0
    for _ in range(200):
        middle = (low + high) / 2
        above = (1 - amplitude(middle * second) ** 2) * middle * first > 1
        low, high = (middle, high) if above else (low, middle)
    return low


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o = options
    common: dict[str, Any] = {"eigenvalues": o.eigenvalues, "starts": o.starts}
    seeds = {"symmetric": o.seed, "gaussian": o.gaussian_seed}
    points = [
        {"matrix": kind, "scale": scale, "steps": o.steps, "seed": seeds[kind]} | common
        for kind in NAMES
        for scale in sorted(o.scales)
    ]
    ends = {"lowest": min(o.scales), "highest": max(o.scales) + 0.01}
    lines = [{"matrix": kind, "seed": seeds[kind]} | ends | common for kind in NAMES]
    return [*run.rows(at_scale, points, "fixed points"), *run.rows(branches, lines, "branches")]


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    o = page.options
    points = {kind: [row for row in rows if row["matrix"] == kind and "scale" in row] for kind in NAMES}
    lines = {kind: next(row for row in rows if row["matrix"] == kind and "lowest" in row) for kind in NAMES}
    residuals = _residuals(points, lines["symmetric"], o.eigenvalues)
    gaps = {kind: _largest_gaps(points[kind]) for kind in NAMES}
    last = points["symmetric"][-1]
    kinds = [at["kind"] for at in lines["gaussian"]["bifurcations"]]
    symmetric, gaussian = gaps["symmetric"], gaps["gaussian"]
    highest = max(o.scales)
    page.text("Results", [
        f"Symmetric W2: the origin branches at the scales {_listed(_of_origin(lines['symmetric'], 'branching'))}, and "
        f"flips at {_listed(_of_origin(lines['symmetric'], 'flip'))}; the closed forms are "
        f"{_listed(_inverse(o.eigenvalues, 1, highest))} and {_listed(_inverse(o.eigenvalues, -1, highest))}. At s = "
        f"{last['scale']:g} there are {last['points_count']} fixed points, {last['stable_count']} of them stable and "
        f"{last['certified_count']} certified.",
        f"Where the network comes to rest, the adjoint's rate and log ρ(J) differ by at most {symmetric[0]:.1e} nats "
        f"per step, the leading Lyapunov exponent and log ρ(J) by {symmetric[1]:.1e}; with the Gaussian W2 by "
        f"{gaussian[0]:.1e} and {gaussian[1]:.1e} (20/T is {20 / o.steps:.1e}).",
        f"The Gaussian W2 has {len(kinds)} bifurcations on its {lines['gaussian']['branches_count']} branches"
        + (f": {', '.join(f'{kinds.count(kind)} × {kind}' for kind in dict.fromkeys(kinds))}." if kinds else "."),
    ])  # fmt: skip
    page.figure(
        "three_instruments",
        _instruments_figure(points, lines, o.eigenvalues),
        alt="Above, fixed points against the scale of W2: a pitchfork. Below, three instruments on one curve.",
        caption="(a, b) Fixed points along the leading direction: branches followed in the scale (solid: stable, "
        "dashed: unstable, with bifurcations), the points that a search finds at each scale (circles), and closed "
        "forms (dotted; vertical lines: 1/λ). (c, d) The growth per step of the adjoint, the leading Lyapunov exponent "
        "and log ρ(J): at the origin, where gradients explode beyond s = 1, and where the network comes to rest, where "
        "they vanish. Lines: closed form. Triangles: no point is stable, and the rates are those of a trajectory.",
    )
    page.figure(
        "counts",
        _counts_figure(points, o.eigenvalues),
        alt="Numbers of fixed points against the scale, in steps: one, three, five, nine.",
        caption="How many fixed points there are, by the number of their unstable directions. Line in (a): closed "
        "form, 1, 3, 5 and then 9 points, up to the next branching.",
    )
    page.figure(
        "eigenvalues",
        _eigenvalues_figure(points),
        alt="Eigenvalues in the complex plane: at the origin some are outside of the unit circle, at rest none.",
        caption=f"Eigenvalues of J at s = {last['scale']:g}, at the origin and where the network comes to rest (if any "
        "point is stable).",
    )
    page.residuals(residuals)
    page.summary |= {"residuals": residuals, "rows": [row.plain for row in rows]}
    page.summary |= {"worst_adjoint_minus_log_radius_nats_per_step": {kind: gap[0] for kind, gap in gaps.items()}}
    page.summary |= {"worst_exponent_minus_log_radius_nats_per_step": {kind: gap[1] for kind, gap in gaps.items()}}


def _inverse(eigenvalues: tuple[float, ...], sign: int, highest: float) -> list[float]:
    """1/λ of the eigenvalues with this sign, below the highest scale."""
    return sorted(1 / (sign * value) for value in eigenvalues if sign * value * highest > 1)


def _of_origin(row: lab.Row, kind: str) -> list[float]:
    return sorted(at["scale"] for at in row["bifurcations"] if at["branch"] == 0 and at["kind"] == kind)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values) or "none"


def _largest_gaps(rows: list[lab.Row]) -> tuple[float, float]:
    """The largest differences from log ρ(J) at rest: of the adjoint's rate, and of the exponent."""
    at_rest = [row for row in rows if row["stable_count"]]
    gaps = [
        max((abs(row[f"rest_{name}_nats_per_step"] - row["rest_radius_nats_per_step"]) for row in at_rest), default=0.0)
        for name in ("adjoint", "exponent")
    ]
    return gaps[0], gaps[1]


def _residuals(points: dict[str, list[lab.Row]], line: lab.Row, eigenvalues: tuple[float, ...]) -> list[dict[str, Any]]:
    found = []
    for kind, sign in (("branching", 1), ("flip", -1)):
        for at, closed in zip(_of_origin(line, kind), _inverse(eigenvalues, sign, line["highest"]), strict=False):
            found.append(lab.residual(f"scale of a {kind} of the origin, λ = {sign / closed:g}", at, closed, unit="1"))
    seconds = [at["scale"] for at in line["bifurcations"] if at["branch"] and at["kind"] == "branching"]
    closed = secondary(eigenvalues)
    if seconds and closed < line["highest"]:
        found.append(lab.residual("scale of a branching of the second pair", min(seconds), closed, unit="1"))
    for row in points["symmetric"]:
        scale = row["scale"]
        m = float(amplitude(scale * eigenvalues[0])) * math.sqrt(len(eigenvalues))
        found.append(lab.residual(f"s = {scale:g}: largest overlap", max(row["overlap"]), m, unit="1"))
        for place, closed in (("origin", math.log(scale * max(map(abs, eigenvalues)))), ("rest", None)):
            if closed is None and not row["stable_count"]:
                continue
            closed = float(rest_rate(scale, eigenvalues)) if closed is None else closed
            rate = row[f"{place}_adjoint_nats_per_step"]
            found.append(lab.residual(f"s = {scale:g}: adjoint, {place}", rate, closed, unit="nats/step"))
    return found


def _instruments_figure(
    points: dict[str, list[lab.Row]], lines: dict[str, lab.Row], eigenvalues: tuple[float, ...]
) -> style.Figure:
    fig, axes = style.figures(2, 2, 11, 8, sharex=True)
    for column, kind in enumerate(NAMES):
        upper, lower = axes[:, column]
        _diagram(upper, points[kind], lines[kind])
        upper.set(title=NAMES[kind], xlabel="", ylabel="h along the leading direction")
        _rates(lower, points[kind])
        if kind == "symmetric":
            fine = np.linspace(lines[kind]["lowest"], lines[kind]["highest"], 400)
            size = math.sqrt(len(eigenvalues))
            for sign in (1, -1):
                m = sign * size * amplitude(fine * eigenvalues[0])
                label = "closed form, m = tanh(s λ m)" if sign > 0 else None
                upper.plot(fine, m, color="black", linestyle=":", linewidth=2.6, label=label)
            for at in _inverse(eigenvalues, 1, fine[-1]):
                upper.axvline(at, color="0.6", linewidth=0.8, zorder=0)
                lower.axvline(at, color="0.6", linewidth=0.8, zorder=0)
            radius = np.log(fine * np.abs(eigenvalues).max())
            lower.plot(fine, radius, color="black", linestyle="--", linewidth=1, label="closed form, origin: log s")
            label = "closed form, at rest: log((1 − m²) s)"
            lower.plot(fine, rest_rate(fine, eigenvalues), color="black", linestyle=":", linewidth=2, label=label)
        else:
            fine = np.linspace(lines[kind]["lowest"], lines[kind]["highest"], 50)
            lower.plot(
                fine, np.log(fine), color="black", linestyle="--", linewidth=1, label="closed form, origin: log s"
            )
        lower.axhline(0, color="0.4", linewidth=0.8)
        lower.margins(y=0.15)
        lower.set(xlabel="scale s of W2", ylabel="growth of the gradient [nats/step]", title="three instruments")
        for ax in (upper, lower):
            ax.legend(fontsize="x-small", loc="lower left" if ax is upper else "best")
    style.letters(axes)
    return fig


def _diagram(ax: Any, rows: list[lab.Row], line: lab.Row) -> None:
    """Branches, and the points found at each scale."""
    drawn = []
    for number in range(line["branches_count"]):
        own = line["branch"] == number
        found = [at for at in line["bifurcations"] if at["branch"] == number]
        none = np.zeros((own.sum(), 0))
        from_rows = Branch(line["value"][own], line["overlap"][own], none, line["stable"][own], (), False)
        drawn.append(from_rows)
        for at in found:
            mark = {"branching": "P", "fold": "<", "flip": "d", "neimark-sacker": "*"}[at["kind"]]
            seen = ax.get_legend_handles_labels()[1]
            label = at["kind"] if at["kind"] not in seen else None
            ax.plot(at["scale"], at["overlap"], mark, color="black", markersize=7, zorder=5, label=label)
    plot_branches(ax, drawn, of=float)
    for row in rows:
        first = row is rows[0]
        ax.plot(
            np.full(len(row["overlap"]), row["scale"]), row["overlap"], "o", markersize=3.5, zorder=4,
            markerfacecolor="white", color=style.GREEN, label="found at one scale" if first else None,
        )  # fmt: skip


def _rates(ax: Any, rows: list[lab.Row]) -> None:
    names = {"adjoint": "adjoint", "exponent": "leading Lyapunov exponent", "radius": "log ρ(J)"}
    for i, (name, said) in enumerate(names.items()):
        for place, where in (("origin", "origin"), ("rest", "at rest")):
            found = [row for row in rows if f"{place}_{name}_nats_per_step" in row]
            rates = [row[f"{place}_{name}_nats_per_step"] for row in found]
            look: dict[str, Any] = style.markers(i) | {"markersize": (9, 5.5, 2.5)[i]}
            label = said if place == "origin" else None
            ax.plot([row["scale"] for row in found], rates, label=label, **look)
            if found:
                up = 10 if place == "origin" else -14
                ax.annotate(where, (found[-1]["scale"], rates[-1]), (-12, up), textcoords="offset points", ha="right")
    moving = [row for row in rows if "moving_exponent_nats_per_step" in row]
    for i, name in enumerate(("adjoint", "exponent")):
        look = style.markers(i) | {"marker": "^", "markersize": (9, 5.5)[i]}
        label = f"{names[name]}, no stable point" if moving else None
        ax.plot(
            [row["scale"] for row in moving], [r[f"moving_{name}_nats_per_step"] for r in moving], label=label, **look
        )


def _counts_figure(points: dict[str, list[lab.Row]], eigenvalues: tuple[float, ...]) -> style.Figure:
    fig, axes = style.figures(1, 2, 10, 4.2, sharey=True)
    for ax, kind in zip(axes[0], NAMES, strict=True):
        rows = points[kind]
        scales = [row["scale"] for row in rows]
        most = max(int(row["index"].max(initial=0)) for row in rows)
        for k in range(most + 1):
            counts = [int((row["index"] == k).sum()) for row in rows]
            label = f"{k} unstable direction{'s' * (k != 1)}"
            ax.plot(scales, counts, label=label, linewidth=0.8, markersize=4, **style.line(k))
        total = [row["points_count"] for row in rows]
        ax.plot(scales, total, "o", markersize=7, markerfacecolor="none", color="black", label="all")
        if kind == "symmetric":
            events = [*_inverse(eigenvalues, 1, scales[-1])[:2], secondary(eigenvalues)]
            fine = np.linspace(scales[0], scales[-1], 1000)
            closed = 1 + 2 * (fine > events[0]) + 2 * (fine > events[-2]) * (len(events) > 2) + 4 * (fine > events[-1])
            ax.plot(fine, closed, color="black", linewidth=1.2, label="all, closed form")
        ax.set(title=NAMES[kind], xlabel="scale s of W2")
        ax.legend(fontsize="small")
    axes[0, 0].set_ylabel("number of fixed points")
    style.letters(axes)
    return fig


def _eigenvalues_figure(points: dict[str, list[lab.Row]]) -> style.Figure:
    fig, axes = style.figures(1, 2, 9, 4.6)
    for ax, kind in zip(axes[0], NAMES, strict=True):
        row = points[kind][-1]
        places = [place for place in ("origin", "rest") if f"{place}_eigenvalues_real" in row]
        values = [row[f"{place}_eigenvalues_real"] + 1j * row[f"{place}_eigenvalues_imag"] for place in places]
        plot_eigenvalues(ax, values, ["origin", "at rest"][: len(values)])
        ax.set_title(NAMES[kind])
    style.letters(axes)
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

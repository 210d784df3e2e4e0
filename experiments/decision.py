"""A decision about noisy evidence: an approximate line attractor, and how long it remembers.

Question: where does a network that integrates evidence keep the sum, how long does it keep it, and what of the input
enters it?
Command: python -m experiments.decision
Minutes: 2 on two cores; half a minute with --quick.
Expected: the five networks decide as well as an ideal observer (0.89 to 0.90 of 0.897). At zero input each has three
certified fixed points on a line, a saddle between two stable ones; along the line the largest |λ| is 0.94 to 1.02, the
second about 0.8. At the fixed points adjoint and pulse decay by log |λ| per step, within 4e-4 nats: memories of 20 to
120 steps at the stable ones. At work evidence is forgotten by 0.003 to 0.008 nats per step, 0.004 to 0.009 faster than
the line predicts: noise keeps the network off it. The left vector of λ is twice as much along the input (|cosine| 0.3)
as other left vectors and random ones are (0.14).

    x_t = ±coherence + noise ε_t;    decision variable: the difference of the two outputs

At zero input, what the network holds lies on a line. At every place on it one eigenvalue λ is near 1; its left vector u
says what of a step's input enters (by u K x, with K the Jacobian with respect to the input), its right vector v where
it shows. At a fixed point the adjoint decays by log |λ| per step, and so does the effect of a pulse. At work, evidence
of k steps ago should count by the product of λ over the places that the network has visited since.

References: Mante, Sussillo, Shenoy and Newsome, Nature 503 (2013), 78; Maheswaranathan, Williams, Golub, Ganguli and
Sussillo, Reverse engineering recurrent networks for sentiment classification reveals line attractor dynamics, NeurIPS
2019.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax import gradients, tasks
from rnnjax.dynamics import fixed_points, linearize

from . import lab
from .flip_flop import CELLS, fitted, network_of, starts_of
from .lab import style

CLASSES = 2
COHERENCES = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
"""Of the trajectories that are drawn, in units of the coherence trained on."""

TRIALS, PLACES, SETTLING = 1000, 41, 15  # trials measured; places on the line; steps at zero input until one is on it
PULSE, NEAR, FAR = 1e-4, 60, 120  # evidence at a fixed point; lags between which the rate of forgetting is taken
LAGS = 5  # at work the rate is taken over lags from so many steps to T less so many


@lab.options(quick={"seeds": 2, "hidden_size": 16, "updates": 150})
class Options(lab.Options):
    """The line attractors of networks trained on a perceptual decision."""

    cell: Literal["elman", "gru"] = "gru"
    """gru, elman."""
    seeds: PositiveInt = 5
    """Networks."""
    hidden_size: PositiveInt = 32
    """H [units]."""
    steps: Annotated[int, Ge(20)] = 40
    """T of a trial [steps]."""
    coherence: PositiveFloat = 0.06
    """Mean of the evidence per step."""
    noise: PositiveFloat = 0.3
    """Standard deviation of the evidence per step."""
    updates: PositiveInt = 600
    """Updates of Adam in training."""
    batch: PositiveInt = 64
    """Trials in a batch."""
    rate: PositiveFloat = 3e-3
    """Adam's learning rate; it falls to zero along half a cosine."""
    starts: PositiveInt = 512
    """Starts of the search for fixed points."""


def train(asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Trains networks in one program; they differ in "index" alone."""
    first = asked[0]
    model = rnnjax.Readout(CELLS[first["cell"]](first["hidden_size"]), CLASSES)
    task = functools.partial(tasks.perceptual_decision, coherence=first["coherence"], noise=first["noise"])

    def of(score: Any) -> Any:
        return lambda params, batch: score(rnnjax.unroll(model, params, batch.xs)[1], batch)

    loss, accuracy = of(tasks.cross_entropy), of(tasks.accuracy)
    return fitted(asked, model, 1, task, loss, {"accuracy": accuracy})


def line(
    cell: str, hidden_size: int, index: int, weights: str, steps: int, coherence: float, noise: float, starts: int,
    seed: int, networks: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The fixed points, the places on the line, and rates of forgetting, of the network with these weights.

    Returns:
      `accuracy`, rates at work in nats per step; arrays: of fixed points `point_...` `[N]` and `pulses` `[N, FAR + 1]`,
      effects of a unit of evidence on the decision variable by lag; of places on the line `line_...` `[PLACES]`;
      `kernel` and `predicted` `[T]`, the mean effect at work and the product of λ over the places visited; and what is
      drawn in the first two principal components of the states at work.
    """
    rnn, x = CELLS[cell](hidden_size), jnp.zeros(1)
    params = network_of(networks[weights], rnnjax.Readout(rnn, CLASSES), 1)
    out = params.w_out[:, 1] - params.w_out[:, 0]

    def variable(states: Any) -> np.ndarray:
        return np.asarray(states) @ np.asarray(out) + float(params.b_out[1] - params.b_out[0])

    key = jax.random.key(seed)
    trials = functools.partial(tasks.perceptual_decision, key, steps, dtype="float64")
    batch = trials((TRIALS,), coherence=coherence, noise=noise)
    states, kernels = map(np.asarray, _at_work(rnn, params.rnn, batch.xs, out))
    decided = variable(states)

    places = np.asarray(_settled(rnn, params.rnn, x, jnp.asarray(_spread(states, decided))))
    modes = [linearize(rnn, params.rnn, x, jnp.asarray(place), readout=out[:, None]) for place in places]
    after = np.asarray(rnn.step(params.rnn, jnp.asarray(places), jnp.zeros((PLACES, 1)))[0])
    log_there = np.log([abs(mode.eigenvalues[0]) for mode in modes])
    order = np.argsort(variable(places))
    kept = np.interp(decided[:-1], variable(places)[order], log_there[order])  # of step t + 1, from where t ended
    products = np.exp(np.concatenate([np.zeros((1, TRIALS)), np.cumsum(kept[::-1], axis=0)])).mean(1)
    kernel = kernels.mean(1)[::-1]
    lags = np.arange(LAGS, steps - LAGS + 1)

    found = fixed_points(rnn, params.rnn, x, jnp.asarray(starts_of(states, starts, 0.1, seed + index)))
    fixed = np.flatnonzero(found.kind == "point")
    points = np.asarray(found.carry)[fixed]
    pulses, adjoints = map(np.asarray, _at_rest(rnn, params.rnn, jnp.asarray(points), out))

    mean = np.stack([
        np.asarray(rnnjax.unroll(rnn, params.rnn, trials((TRIALS,), coherence=0.0, noise=noise).xs + at)[1]).mean(1)
        for at in coherence * np.array(COHERENCES)
    ])  # fmt: skip
    rows = states.reshape(-1, hidden_size)
    centre = rows.mean(0)
    axes = np.linalg.eigh(np.cov((rows - centre).T))[1][:, :-3:-1].T
    along = {
        "selection": [_cosine(mode.left[0], mode.input[:, 0]) for mode in modes],
        "selection_others": [
            np.mean([_cosine(left, mode.input[:, 0]) for left in mode.left[1:]]) for mode in modes
        ],
        "right_and_input": [_cosine(mode.right[:, 0], mode.input[:, 0]) for mode in modes],
        "right_and_readout": [float(mode.readout_right[0, 0]) for mode in modes],  # pyright: ignore
        "speed": ((after - places) ** 2).sum(-1) / 2,
        "largest": np.exp(log_there),
        "second": [abs(mode.eigenvalues[1]) for mode in modes],
        "variable": variable(places),
    }  # fmt: skip
    return {
        "accuracy": float(((decided[-1] > 0) == (np.asarray(batch.targets[-1]) == 1)).mean()),
        "kernel_nats_per_step": _slope(lags, np.log(np.abs(kernel[lags]))),
        "predicted_nats_per_step": _slope(lags, np.log(products[lags])),
        "slow_count": int((found.kind != "point").sum()),
        "point_variable": variable(points),
        "point_index": found.index[fixed],
        "point_certified": found.certified[fixed],
        "point_largest": np.abs(found.eigenvalues[fixed, 0]),
        "point_second": np.abs(found.eigenvalues[fixed, 1]),
        "point_adjoint_nats_per_step": adjoints,
        "point_pulse_nats_per_step": np.log(np.abs(pulses[:, FAR] / pulses[:, NEAR])) / (FAR - NEAR),
        "pulses": pulses,
        "kernel": kernel,
        "predicted": products,
        **{f"line_{name}": np.asarray(values) for name, values in along.items()},
        "seen_points": (points - centre) @ axes.T,
        "seen_places": (places - centre)[order] @ axes.T,
        "seen_trials": (states[:, :12] - centre) @ axes.T,
        "seen_means": (mean - centre) @ axes.T,
    }


def _spread(states: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """States of the second half of the trials, evenly spaced in the decision variable: `[PLACES, H]`."""
    late = slice(len(states) // 2, None)
    values, rows = decided[late].ravel(), states[late].reshape(-1, states.shape[-1])
    low, high = np.quantile(values, (0.01, 0.99))
    wanted = np.linspace(low, high, PLACES)
    return rows[[int(np.abs(values - each).argmin()) for each in wanted]]


@functools.partial(jax.jit, static_argnums=0)
def _at_work(rnn: rnnjax.Cell, params: Any, xs: Array, out: Array) -> tuple[Array, Array]:
    """States `[T, B, H]`, and the derivative of the decision variable at the end by each step's evidence, `[T, B]`."""

    def last(xs: Array) -> tuple[Array, Array]:
        states = rnnjax.unroll(rnn, params, xs)[1]
        return (states[-1] @ out).sum(), states

    by_evidence, states = jax.grad(last, has_aux=True)(xs)
    return states, by_evidence[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def _settled(rnn: rnnjax.Cell, params: Any, x: Array, rows: Array) -> Array:
    return rnnjax.unroll(rnn, params, jnp.zeros((SETTLING, len(rows), x.size)), carry=rows)[0]


@functools.partial(jax.jit, static_argnums=0)
def _at_rest(rnn: rnnjax.Cell, params: Any, points: Array, out: Array) -> tuple[Array, Array]:
    """At fixed points `[N, H]`: the effect of a unit of evidence by lag, `[N, FAR + 1]`, measured with small pulses
    to both sides; and the rate of the adjoint, `[N]`."""
    xs = jnp.zeros((FAR + 1, len(points), 1))
    up, down = (rnnjax.unroll(rnn, params, xs.at[0].set(pulse), carry=points)[1] for pulse in (PULSE, -PULSE))
    norms = gradients.adjoint(rnn, params, xs, lambda ys: (ys[-1] @ out).sum(), carry=points).log_norm[::-1]
    return ((up - down) @ out).T / (2 * PULSE), (norms[FAR] - norms[NEAR]) / (FAR - NEAR)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(abs(one @ other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0])


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o = options
    names = ("cell", "hidden_size", "steps", "coherence", "noise", "seed")
    shared = {name: getattr(o, name) for name in names}
    asked = [{"index": i, "updates": o.updates, "batch": o.batch, "rate": o.rate} | shared for i in range(o.seeds)]
    trained = run.rows(train, asked, "trained networks", together=names)
    measured = [{"index": row["index"], "weights": row["weights"], "starts": o.starts} | shared for row in trained]
    given = {"networks": {row["weights"]: row for row in trained}}  # in a row's arguments, the hash stands for them
    return [*trained, *run.rows(line, measured, "networks", given=given)]


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    o, found = page.options, [row for row in rows if "accuracy" in row]
    ideal = (1 + math.erf(o.coherence * math.sqrt(o.steps) / o.noise / math.sqrt(2))) / 2
    points = [line for row in found for line in _point_lines(row)]
    lines = [_line(row) for row in found]
    gaps = [
        max(abs(line[name] - line["log_modulus"]) for line in points) if points else 0.0
        for name in ("adjoint", "pulse")
    ]
    largest = np.concatenate([row["line_largest"] for row in found])
    second = np.concatenate([row["line_second"] for row in found])
    chance = math.sqrt(2 / math.pi / o.hidden_size)
    means = {name: np.mean([line[name] for line in lines]) for name in lines[0]}
    page.text("Results", [
        f"Accuracy: {means['accuracy']:.3f} (an ideal observer has {ideal:.3f}).",
        f"On the line, the largest |λ| is {largest.min():.3f} to {largest.max():.3f}, in the median "
        f"{np.median(largest):.3f}; the median of the second is {np.median(second):.2f}.",
        f"At the {len(points)} fixed points the adjoint's rate and log |λ| differ by at most {gaps[0]:.1e} nats per "
        f"step, the rate of a pulse of evidence and log |λ| by {gaps[1]:.1e}.",
        f"At work, the effect of evidence changes by {means['kernel']:+.4f} nats per step back; "
        f"{means['predicted']:+.4f} are predicted from the places that the network visits (means over networks).",
        f"|cosine| of the left vector of λ with the input: {means['selection']:.2f}; of the other left vectors: "
        f"{means['others']:.2f}; of random vectors: {chance:.2f}.",
    ])  # fmt: skip
    page.figure(
        "line",
        _line_figure(found, o.coherence),
        alt="Left, trajectories that go out along a line, to one side or the other by coherence; right, eigenvalues "
        "along it, the first near 1, the second well below.",
        caption=f"(a) Network 0 in its first two principal components: means of {TRIALS} trials by coherence, single "
        f"trials (thin), the places where the network is after {SETTLING} steps without input (black), and fixed "
        "points. (b) The two largest |λ| at these places, for every network, against the decision variable.",
    )
    page.figure(
        "memory",
        _memory_figure(found),
        alt="Left, effects of a pulse against lag on lines of slope log λ; right, effects of evidence at work.",
        caption="(a) At the fixed points of network 0: how much a unit of evidence changes the decision variable after "
        "so many steps (marks), and c λ^k (lines). (b) At work: the mean effect of evidence on the decision by lag, "
        f"relative to lag {LAGS} (marks, one kind per network), and products of λ over the places visited (lines).",
    )
    page.figure(
        "selection",
        _selection_figure(lines, chance),
        alt="Cosines by network: the left vector of the line is along the input far more than the others are.",
        caption="|cosine|, mean over the line. u: left vector of the largest |λ|, what enters; v: its right vector, "
        "where it shows. Dotted: the mean of random vectors.",
    )
    heads = {
        "network": "network", "variable": "decision variable", "index": "unstable directions", "certified": "certified",
        "largest": "|λ|", "second": "second |λ|", "log_modulus": "log |λ|", "adjoint": "adjoint [nats/step]",
        "pulse": "pulse [nats/step]", "time_constant": "-1/log |λ| [steps]", "memory": "memory of the pulse [steps]",
    }  # fmt: skip
    page.table(points, heads, "Fixed points at zero input")
    heads = {
        "network": "network", "accuracy": "accuracy", "kernel": "forgotten at work [nats/step]",
        "predicted": "predicted from the line [nats/step]", "slow": "slow points", "largest": "|λ| on the line, median",
        "second": "second |λ|, median", "speed": "largest q", "selection": "cosine of u and input",
        "others": "other left vectors", "shown": "cosine of v and read-out",
    }  # fmt: skip
    page.table(lines, heads, "Along the line")
    page.summary |= {"ideal_accuracy": ideal, "points": points, "networks": lines, "rows": [row.plain for row in found]}


def _point_lines(row: lab.Row) -> list[dict[str, Any]]:
    return [
        {
            "network": row["index"], "variable": float(row["point_variable"][i]), "index": int(row["point_index"][i]),
            "certified": bool(row["point_certified"][i]), "largest": float(row["point_largest"][i]),
            "second": float(row["point_second"][i]), "log_modulus": float(np.log(row["point_largest"][i])),
            "adjoint": float(row["point_adjoint_nats_per_step"][i]),
            "pulse": float(row["point_pulse_nats_per_step"][i]),
            "time_constant": float(-1 / np.log(row["point_largest"][i])),
            "memory": float(-1 / row["point_pulse_nats_per_step"][i]),
        }
        for i in np.argsort(row["point_variable"])
    ]  # fmt: skip


def _line(row: lab.Row) -> dict[str, Any]:
    return {
        "network": row["index"], "accuracy": row["accuracy"], "kernel": row["kernel_nats_per_step"],
        "predicted": row["predicted_nats_per_step"], "slow": row["slow_count"],
        "largest": float(np.median(row["line_largest"])),
        "second": float(np.median(row["line_second"])), "speed": float(row["line_speed"].max()),
        "selection": float(row["line_selection"].mean()), "others": float(row["line_selection_others"].mean()),
        "right_and_input": float(row["line_right_and_input"].mean()),
        "shown": float(row["line_right_and_readout"].mean()),
    }  # fmt: skip


def _mark(ax: Any, across: Any, up: Any, index: int, label: str | None) -> None:
    color, mark, face = (style.BLUE, "o", style.BLUE) if index == 0 else (style.VERMILLION, "^", "white")
    look: dict[str, Any] = {"marker": mark, "markerfacecolor": face, "markersize": 6.5, "markeredgewidth": 1.6}
    ax.plot(across, up, color=color, linestyle="none", zorder=6, label=label, **look)


def _line_figure(found: list[lab.Row], coherence: float) -> Figure:
    fig, axes = style.figures(1, 2, 12, 5)
    left, right = axes[0]
    first = found[0]
    scale = Normalize(COHERENCES[0] * coherence, COHERENCES[-1] * coherence)
    for i in range(first["seen_trials"].shape[1]):
        left.plot(*first["seen_trials"][:, i].T, color="0.8", linewidth=0.5, zorder=1)
    for at, path in zip(COHERENCES, first["seen_means"], strict=True):
        color = colormaps["cividis"](scale(at * coherence))
        left.plot(*path.T, color=color, linewidth=2.4, zorder=3)
        left.annotate(
            f"{at * coherence:+.2g}", tuple(path[-1]), (3, -10), textcoords="offset points", fontsize="x-small"
        )
    look: dict[str, Any] = {"color": "black", "marker": ".", "markersize": 4, "linewidth": 0.8, "zorder": 4}
    left.plot(*first["seen_places"].T, label="places on the line", **look)
    for index, label in ((0, "stable point"), (1, "unstable point")):
        own = np.minimum(first["point_index"], 1) == index
        if own.any():
            _mark(left, first["seen_points"][own, 0], first["seen_points"][own, 1], index, label)
    fig.colorbar(ScalarMappable(scale, "cividis"), ax=left, label="coherence")
    left.set(xlabel="PC 1", ylabel="PC 2", title="trajectories and the line")
    left.legend(fontsize="small")
    for i, row in enumerate(found):
        order = np.argsort(row["line_variable"])
        color = style.line(i)["color"]
        right.plot(row["line_variable"][order], row["line_largest"][order], color=color, linewidth=1.6)
        right.plot(row["line_variable"][order], row["line_second"][order], color=color, linewidth=1.2, linestyle=":")
        for j, index in enumerate(row["point_index"]):
            _mark(right, row["point_variable"][j], row["point_largest"][j], min(int(index), 1), None)
    right.plot([], [], color="black", label="largest |λ|, a line per network")
    right.plot([], [], color="black", linestyle=":", label="second |λ|")
    right.axhline(1, color="0.5", linewidth=0.8, zorder=0)
    right.set(xlabel="decision variable", ylabel="|λ|", title="eigenvalues along the line")
    right.legend(fontsize="small")
    style.letters(axes)
    return fig


def _memory_figure(found: list[lab.Row]) -> Figure:
    fig, axes = style.figures(1, 2, 11, 4.4)
    left, right = axes[0]
    first = found[0]
    k = np.arange(FAR + 1)
    for i, j in enumerate(np.argsort(first["point_variable"])):
        values, modulus = np.abs(first["pulses"][j]), first["point_largest"][j]
        label = f"{'stable' if first['point_index'][j] == 0 else 'unstable'}, |λ| = {modulus:.4f}"
        left.plot(k[::6], values[::6], label=label, **style.markers(i))
        left.plot(k, values[NEAR] * modulus ** (k - NEAR), **style.curve(i), linewidth=1)
    left.set_yscale("log")
    left.set(xlabel="lag [steps]", ylabel="effect of a unit of evidence", title="at fixed points")
    left.legend(fontsize="small")
    for i, row in enumerate(found):
        at = np.arange(len(row["kernel"]))
        kernel = row["kernel"] / row["kernel"][LAGS]
        right.plot(at[::3], kernel[::3], label=f"network {row['index']}", **style.markers(i))
        right.plot(at, row["predicted"] / row["predicted"][LAGS], **style.curve(i), linewidth=1)
    right.axhline(1, color="0.5", linewidth=0.8, zorder=0)
    right.set(xlabel="lag [steps]", ylabel=f"effect of evidence, relative to lag {LAGS}", title="at work")
    right.set_ylim(0, None)
    right.legend(fontsize="small", ncols=2)
    style.letters(axes)
    return fig


def _selection_figure(lines: list[dict[str, Any]], chance: float) -> Figure:
    fig, ax = style.figure(8, 4)
    shown = {
        "selection": "u and input", "others": "other left vectors and input, mean",
        "right_and_input": "v and input", "shown": "v and read-out",
    }  # fmt: skip
    for i, (name, label) in enumerate(shown.items()):
        ax.plot([line["network"] for line in lines], [line[name] for line in lines], label=label, **style.markers(i))
    ax.axhline(chance, color="0.35", linestyle=":", linewidth=1.2, label="random vectors")
    ax.set(xlabel="network", ylabel="|cosine|", title="What enters the line, and where it shows", ylim=(0, 1))
    ax.set_xticks([line["network"] for line in lines])
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

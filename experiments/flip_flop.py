"""A network that remembers three bits: its fixed points, and what it costs to find them.

Question: how does a trained network hold three bits, and how many evaluations of a step does it take to see that, by
Newton's and Broyden's steps and by gradient descent?
Command: python -m experiments.flip_flop
Minutes: 3 on two cores; one with --quick.
Expected: all ten networks have eight stable points, one for each pattern of bits, and 12, 6 and 1 points with one, two
and three unstable directions, as a cube has edges, faces and a centre; all 27 are certified. Until
q <= 1e-12 the search here takes 45 evaluations in the median, 33 of them for F and its Jacobian at the start; Adam
takes 573 with FixedPointFinder's defaults, 12.7 times as many, and 541 at the best rate. The heavy-ball method, with a
momentum tuned to these networks, takes 215. Until 1e-24: 52, 1097, 1067 and 463.

    q(h) = ½‖F(h) - h‖²,   F(h): the state after one step from h at zero input

F maps a cube into itself, so over all fixed points, if they are isolated, Σ sign det(I - J) = 1 (Lefschetz): any other
sum says that points are missing. Gradient descent is on q in float64, from the same starts: Adam with the
defaults of FixedPointFinder's PyTorch code (rate 1, times 0.95 after three steps without progress of the mean q), Adam
with rates that halve at a fixed pace, and heavy-ball descent, of both the best. An evaluation is one of F; a Jacobian
counts as H of them, a gradient of q as one more than q itself.

References: Sussillo and Barak, Opening the black box, Neural Computation 25 (2013), 626; Golub and Sussillo,
FixedPointFinder, Journal of Open Source Software 3 (2018), 1003.
"""

import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

import rnnjax
from rnnjax import tasks
from rnnjax.dynamics import FixedPoints, fixed_points, linearize, plot_eigenvalues
from rnnjax.dynamics.solve import search, tolerance_of
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many

from . import lab
from .lab import style

CELLS = {"elman": rnnjax.Elman, "gru": rnnjax.GRU}
BITS = 3
LEVELS = (1e-12, 1e-24)
"""Of q, which a start has to reach: FixedPointFinder's tolerance, and near rounding error."""


class Rule(NamedTuple):
    """Of descent on q.

    Attributes:
      method: what it is.
      rate: the first rate.
      halving: the iterations in which it halves; 0: it falls when the mean of q stops falling.
      momentum: of the heavy-ball method; 0: Adam.
    """

    method: str
    rate: float
    halving: float
    momentum: float


FINDER = Rule("Adam, FixedPointFinder's defaults", 1.0, 0.0, 0.0)
ADAM = [
    Rule(f"Adam, rate {rate:g}, halved every {halving:g}", rate, halving, 0.0)
    for rate, halving in itertools.product((0.1, 0.2, 0.4), (500.0, 2000.0))
]
HEAVY = [
    Rule(f"heavy ball, rate {rate:g}, momentum {momentum:g}", rate, np.inf, momentum)
    for rate, momentum in itertools.product((0.6, 0.8), (0.7, 0.75, 0.8))
]
RULES = [FINDER, *ADAM, *HEAVY]
OURS = "here: Newton's and Broyden's steps"

HELD_OUT, SHOWN, SETTLING = 256, 6, 150  # sequences of the test; of the picture; steps from a saddle to a stable point
EXPECTED = {0: 8, 1: 12, 2: 6, 3: 1}
"""Points by number of unstable directions, of three flip-flops that do not meet: a cube's corners, edges, faces, and
its centre."""


@lab.options(
    quick={"seeds": 2, "hidden_size": 16, "updates": 400, "starts": 256, "compared": 32, "iterations": 2000},
)
class Options(lab.Options):
    """The fixed points of networks trained on the 3-bit flip-flop."""

    cell: Literal["elman", "gru"] = "elman"
    """elman, gru."""
    seeds: PositiveInt = 10
    """Networks."""
    hidden_size: PositiveInt = 32
    """H [units]."""
    steps: PositiveInt = 60
    """T of a training sequence [steps]."""
    updates: PositiveInt = 1500
    """Updates of Adam in training."""
    batch: PositiveInt = 64
    """Sequences in a batch."""
    rate: PositiveFloat = 3e-3
    """Adam's learning rate in training; it falls to zero along half a cosine."""
    starts: PositiveInt = 2048
    """Starts of the search for fixed points: states on trajectories, with noise."""
    noise: NonNegativeFloat = 0.3
    """Standard deviation of the noise [units of the state]."""
    compared: PositiveInt = 256
    """Starts from which gradient descent searches too."""
    iterations: PositiveInt = 5000
    """The most iterations of gradient descent."""


def train(asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Trains networks in one program; they differ in "index" alone."""
    first = asked[0]
    model = rnnjax.Readout(CELLS[first["cell"]](first["hidden_size"]), BITS)

    def error(params: rnnjax.ReadoutParams, batch: tasks.Batch) -> Array:
        return tasks.squared_error(rnnjax.unroll(model, params, batch.xs)[1], batch)

    return fitted(asked, model, BITS, tasks.flip_flop, error, {"error": error})


def fitted(
    asked: Sequence[Mapping[str, Any]], model: rnnjax.Readout, inputs: int, task: Any, loss: Any, measures: Any
) -> list[dict[str, Any]]:
    """Networks trained on `task(key, steps, batch_shape)`, in float32, in one program.

    Returns:
      For each: measures on held-out sequences, "weights", the SHA-256 of its parameters, and these as "leaf_0", ...
    """
    first = asked[0]
    with jax.enable_x64(False):
        optimizer = optax.chain(
            clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(first["rate"], first["updates"]))
        )
        found = fit_many(
            loss,
            lambda key, setting: model.init(key, inputs),
            optimizer,
            lambda key, step: task(key, first["steps"], (first["batch"],)),
            {"key": jax.vmap(lambda i: jax.random.fold_in(jax.random.key(first["seed"]), i))(
                jnp.array([each["index"] for each in asked], jnp.uint32)
            )},
            FitOptions(steps=first["updates"], chunk=first["updates"]),
            key=jax.random.key(first["seed"]),
            held_out=lambda key, index: task(key, first["steps"], (HELD_OUT,)),
            measure=lambda params, batch: {name: of(params, batch) for name, of in measures.items()},
        )  # fmt: skip
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(found.params)]
    rows = []
    for i in range(len(asked)):
        own = {f"leaf_{number}": leaf[i] for number, leaf in enumerate(leaves)}
        weights = hashlib.sha256(b"".join(leaf.tobytes() for leaf in own.values())).hexdigest()
        measured = {f"held_out_{name}": float(found.history[f"held_out_{name}"][-1, i]) for name in measures}
        rows.append(measured | {"weights": weights} | own)
    return rows


def network_of(row: Mapping[str, Any], model: rnnjax.Readout, inputs: int) -> rnnjax.ReadoutParams:
    """The parameters of a row of `fitted`, in float64."""
    like = jax.eval_shape(lambda key: model.init(key, inputs), jax.random.key(0))
    leaves = [jnp.asarray(row[f"leaf_{number}"], "float64") for number in range(len(jax.tree.leaves(like)))]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def starts_of(states: np.ndarray, count: int, noise: float, seed: int) -> np.ndarray:
    """Some of the states `[..., H]` of trajectories, with noise: `[count, H]`."""
    rng = np.random.default_rng(seed)
    rows = states.reshape(-1, states.shape[-1])
    return rows[rng.integers(len(rows), size=count)] + noise * rng.normal(size=(count, rows.shape[-1]))


def network(
    cell: str, hidden_size: int, index: int, weights: str, steps: int, starts: int, noise: float, compared: int,
    iterations: int, seed: int, networks: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The fixed points of the network with these weights, and evaluations of F until q is small.

    Returns:
      Counts, and as arrays `point_index` `[N]`, eigenvalues `[N, H]`, what is drawn in the first three principal
      components of the stable points: `points`, `paths`, `edges` (from saddles with one unstable direction along it);
      `ours` `[2, compared]` and `descent` `[rules, 2, compared]`, evaluations until each level (-1: never);
      `ours_steps` `[2, compared]`; `arrived` and `descent_arrived`, the numbers of the points (-1: none).
    """
    rnn, x = CELLS[cell](hidden_size), jnp.zeros(BITS)
    model = rnnjax.Readout(rnn, BITS)
    params = network_of(networks[weights], model, BITS)
    batch = tasks.flip_flop(jax.random.key(seed), steps, (HELD_OUT,), dtype="float64")
    states = np.asarray(rnnjax.unroll(rnn, params.rnn, batch.xs)[1])
    rows = starts_of(states, starts, noise, seed + index)
    found = fixed_points(rnn, params.rnn, x, jnp.asarray(rows))
    isolated = found.kind == "point"
    stable = isolated & found.stable
    points = np.asarray(found.carry)
    above_one = ((np.real(found.eigenvalues) > 1) & (np.imag(found.eigenvalues) == 0)).sum(-1)
    outputs = points @ np.asarray(params.w_out) + np.asarray(params.b_out)
    patterns = {tuple(bits) for bits in np.sign(outputs[stable]).astype(int).tolist()}

    centre = points[stable].mean(0) if stable.any() else points.mean(0)
    axes = np.linalg.svd((points[stable] if stable.sum() > 3 else points) - centre)[2][:3]
    saddles = np.flatnonzero(isolated & (found.index == 1))
    edges = _unfolded(rnn, params.rnn, x, points[saddles])
    ends = np.sign(edges[:, :, -1] @ np.asarray(params.w_out) + np.asarray(params.b_out))
    one_bit = int(((ends[:, 0] != ends[:, 1]).sum(-1) == 1).sum())
    return {
        "points_count": int(isolated.sum()),
        "stable_count": int(stable.sum()),
        "patterns_count": len(patterns),
        "by_index": [int((isolated & (found.index == k)).sum()) for k in range(4)],
        "higher_count": int((isolated & (found.index > 3)).sum()),
        "sign_sum": int(((-1) ** above_one[isolated]).sum()),
        "certified_count": int(found.certified.sum()),
        "not_isolated_count": int((~isolated).sum()),
        "largest_radius_of_stable": float(np.abs(found.eigenvalues[stable, 0]).max(initial=0)),
        "saddles_that_part_one_bit": one_bit,
        "point_index": np.where(isolated, found.index, -1),
        "eigenvalues_real": np.real(found.eigenvalues),
        "eigenvalues_imag": np.imag(found.eigenvalues),
        "points": (points - centre) @ axes.T,
        "paths": (states[:, :SHOWN] - centre) @ axes.T,
        "edges": (edges - centre) @ axes.T,
        **_compared(rnn, params.rnn, x, rows[:compared], found, iterations),
    }


def _unfolded(rnn: rnnjax.Cell, params: Any, x: Array, saddles: np.ndarray) -> np.ndarray:
    """Where the network goes from beside each saddle, to both sides of it: `[N, 2, SETTLING, H]`."""
    if not len(saddles):
        return np.zeros((0, 2, SETTLING, saddles.shape[-1]))
    along = np.stack([np.real(linearize(rnn, params, x, jnp.asarray(point)).right[:, 0]) for point in saddles])
    beside = saddles[:, None] + 0.02 * np.array([[-1.0], [1.0]]) * along[:, None]
    xs = jnp.zeros((SETTLING, len(saddles), 2, x.size))
    return np.moveaxis(np.asarray(rnnjax.unroll(rnn, params, xs, carry=jnp.asarray(beside))[1]), 0, 2)


def _compared(
    rnn: rnnjax.Cell, params: Any, x: Array, rows: np.ndarray, found: FixedPoints, iterations: int
) -> dict[str, np.ndarray]:
    ours, steps = np.full((2, len(LEVELS), len(rows)), -1)
    whole = found.evaluations[: len(rows)]
    for k in itertools.count(1):  # the same search, stopped after k steps
        ends = search(rnn, 1, params, x, rows, tolerance_of(rows.dtype), k)
        new = (ours < 0) & (ends.speed <= np.array(LEVELS)[:, None])
        ours, steps = np.where(new, ends.evaluations, ours), np.where(new, k, steps)
        if (ours >= 0).all() or (ends.evaluations == whole).all():
            break
    rules = [jnp.array([getattr(rule, name) for rule in RULES]) for name in ("rate", "halving", "momentum")]
    when, states = map(np.asarray, _descents(rnn, iterations, params, x, jnp.asarray(rows), *rules))
    points = np.asarray(found.carry)
    distance = np.abs(states[:, :, None] - points).max(-1)
    near = np.where((distance.min(-1) < 1e-3) & (when[:, 0] > 0), distance.argmin(-1), -1)
    return {
        "ours": ours,
        "ours_steps": steps,
        "arrived": found.arrived[: len(rows)],
        "descent": when,
        "descent_arrived": near,
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _descents(
    rnn: rnnjax.Cell, iterations: int, params: Any, x: Array, rows: Array, rates: Array, halvings: Array, momenta: Array
) -> tuple[Array, Array]:
    """Descent on q by each rule: evaluations until each level `[rules, 2, N]`, and where it was when it reached the
    first (the last state, if it never did), `[rules, N, H]`."""
    xs, levels = jnp.broadcast_to(x, (len(rows), x.size)), jnp.array(LEVELS)[:, None]

    def mean_q(h: Array) -> tuple[Array, Array]:
        q = ((rnn.step(params, h, xs)[0] - h) ** 2).sum(-1) / 2
        return q.mean(), q

    def by(rate: Array, halving: Array, momentum: Array) -> tuple[Array, Array]:
        plateau, heavy = halving == 0, momentum > 0

        def update(state: Any) -> Any:
            t, h, m, v, (best, bad, falling), when, at = state
            (mean, q), gradient = jax.value_and_grad(mean_q, has_aux=True)(h)
            new = (when < 0) & (q <= levels)
            at = jnp.where((when[0] < 0)[:, None], h, at)
            when = jnp.where(new, 2 * t + 1, when)
            gradient = jnp.where(plateau, gradient, gradient * len(h))  # Adam's ε is 1e-8 in both
            m = jnp.where(heavy, momentum * m + gradient, 0.9 * m + 0.1 * gradient)
            v = 0.999 * v + 0.001 * gradient**2
            now = jnp.where(plateau, falling, rate * 0.5 ** (t / halving))
            adam = (m / (1 - 0.9 ** (t + 1.0))) / (jnp.sqrt(v / (1 - 0.999 ** (t + 1.0))) + 1e-8)
            h = h - now * jnp.where(heavy, m, adam)
            better = mean < best * (1 - 1e-4)
            bad = jnp.where(better, 0, bad + 1)
            falling = jnp.where(bad > 2, 0.95 * falling, falling)
            progress = jnp.where(better, mean, best), jnp.where(bad > 2, 0, bad), falling
            return t + 1, h, m, v, progress, when, at

        never = jnp.full((len(LEVELS), len(rows)), -1, jnp.int32)
        zero = jnp.zeros((), jnp.int32)
        start = zero, rows, 0 * rows, 0 * rows, (jnp.asarray(jnp.inf, rows.dtype), zero, rate), never, rows
        *_, when, at = lax.while_loop(lambda s: (s[0] < iterations) & (s[5] < 0).any(), update, start)
        return when, at

    return jax.vmap(by)(rates, halvings, momenta)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o = options
    sizes: dict[str, Any] = {"cell": o.cell, "hidden_size": o.hidden_size, "steps": o.steps, "seed": o.seed}
    asked = [{"index": i, "updates": o.updates, "batch": o.batch, "rate": o.rate} | sizes for i in range(o.seeds)]
    trained = run.rows(train, asked, "trained networks", together=tuple(sizes))
    searches = {name: getattr(o, name) for name in ("starts", "noise", "compared", "iterations")}
    measured = [{"index": row["index"], "weights": row["weights"]} | sizes | searches for row in trained]
    given = {"networks": {row["weights"]: row for row in trained}}  # in a row's arguments, the hash stands for them
    return [*trained, *run.rows(network, measured, "networks searched", given=given)]


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    errors = {row["weights"]: row["held_out_error"] for row in rows if "held_out_error" in row}
    found = [row for row in rows if "points_count" in row]
    lines = [_line(row, errors[row["weights"]]) for row in found]
    costs = _costs(found)
    ours, finder, adam, heavy = costs[0], costs[1], *(
        min(costs[first:last], key=lambda line: (line["median"], -line["arrived"]))
        for first, last in ((2, 2 + len(ADAM)), (2 + len(ADAM), None))
    )  # fmt: skip
    eight = sum(row["stable_count"] == row["patterns_count"] == 2**BITS for row in found)
    whole = [row for row in found if row["sign_sum"] == 1 and not row["not_isolated_count"]]
    cube = sum(row["by_index"] == list(EXPECTED.values()) and not row["higher_count"] for row in found)
    points, certified, parted = (
        sum(row[name] for row in found) for name in ("points_count", "certified_count", "saddles_that_part_one_bit")
    )
    saddles = sum(row["by_index"][1] for row in found)
    page.text("Results", [
        f"{eight} of {len(found)} networks have exactly {2**BITS} stable points, one for each pattern of bits; {cube} "
        f"have {', '.join(map(str, EXPECTED.values()))} points with 0, 1, 2 and 3 unstable directions, as a cube has "
        f"corners, edges, faces and one centre. {certified} of {points} points are certified. From {parted} of "
        f"{saddles} saddles with one unstable direction, the network goes to two memories that differ in one bit.",
        f"In {len(whole)} networks Σ sign det(I - J) = 1, as it must be if no point is missing.",
        f"Median evaluations of F until q <= {LEVELS[0]:g}: {ours['median']:g} here, {finder['median']:g} with "
        f"FixedPointFinder's rule ({finder['ratio']:.1f} times as many), {adam['median']:g} with {adam['method']}, the "
        f"best of {len(ADAM)} ({adam['ratio']:.1f} times), {heavy['median']:g} with {heavy['method']}, the best of "
        f"{len(HEAVY)} ({heavy['ratio']:.1f} times); until q <= {LEVELS[1]:g}: {ours['median_tight']:g}, "
        f"{', '.join(_many(line['median_tight']) for line in (finder, adam, heavy))}. One after the other there are "
        f"{ours['passes']:g}, {finder['passes']:g}, {adam['passes']:g} and {heavy['passes']:g} steps.",
    ])  # fmt: skip
    first = found[0]
    page.figure(
        "cube",
        _cube_figure(first),
        alt="Left, eight stable points at the corners of a cube, joined along its edges through saddles, with thin "
        "trajectories; right, eigenvalues with the unit circle.",
        caption="Network 0. (a) Its fixed points at zero input in the first three principal components of the stable "
        "ones, by the number of unstable directions. Thick: where the network goes from beside a saddle with one "
        "unstable direction. Thin: the network at work. (b) Eigenvalues of J at a point of each kind.",
    )
    page.figure(
        "evaluations",
        _evaluations_figure(found, [adam["rule"], heavy["rule"]]),
        alt="Shares of starts that have arrived against evaluations: the search here is ten times sooner than Adam.",
        caption=f"Share of {first['compared']} starts per network whose q is small, against evaluations of F (log "
        f"scale; a Jacobian counts as H = {first['hidden_size']}, a gradient as one more than q). Vertical: medians.",
    )
    heads = {
        "index": "network", "error": "held-out error", "stable": "stable", "patterns": "patterns of bits",
        "one": "1 unstable", "two": "2", "three": "3", "more": "more", "other": "slow points or lines",
        "sum": "Σ sign det(I - J)", "certified": "certified",
    }  # fmt: skip
    page.table(lines, heads, "Fixed points at zero input")
    shown = {
        "method": "method", "median": "evaluations to q <= 1e-12, median", "median_points": "median over points",
        "ratio": "times ours", "arrived": "arrived", "found": "points found, mean", "passes": "steps, median",
        "median_tight": "evaluations to 1e-24, median", "arrived_tight": "arrived there",
    }  # fmt: skip
    page.table(costs, shown, f"Evaluations of F from {first['compared']} starts per network")
    page.summary |= {"networks": lines, "costs": costs, "rows": [row.plain for row in found]}


def _line(row: lab.Row, error: float) -> dict[str, Any]:
    one, two, three = row["by_index"][1:]
    return {
        "index": row["index"], "error": error, "stable": row["stable_count"], "patterns": row["patterns_count"],
        "one": one, "two": two, "three": three, "more": row["higher_count"], "other": row["not_isolated_count"],
        "sum": row["sign_sum"], "certified": f"{row['certified_count']} of {row['points_count']}",
    }  # fmt: skip


def _costs(found: list[lab.Row]) -> list[dict[str, Any]]:
    """A line for our search and for each rule of Adam: medians over starts of all networks; never counts as inf."""
    lines, base = [], 1.0
    steps = float(np.median(np.concatenate([_late(row["ours_steps"][0]) for row in found])))
    for number, name in enumerate([OURS, *(rule.method for rule in RULES)]):
        reached = [row["ours"] if number == 0 else row["descent"][number - 1] for row in found]
        ends = [row["arrived"] if number == 0 else row["descent_arrived"][number - 1] for row in found]
        near, tight = (np.concatenate([_late(each[level]) for each in reached]) for level in range(len(LEVELS)))
        by_point = [
            np.median(_late(each[0])[own == point])
            for each, own in zip(reached, ends, strict=True)
            for point in set(own.tolist()) - {-1}
        ]
        median = float(np.median(near))
        base = median if number == 0 else base
        passes = steps if number == 0 else (median - 1) / 2
        lines.append({
            "method": name, "rule": number - 1, "median": median, "ratio": median / base,
            "median_points": float(np.median(by_point)) if by_point else None,
            "arrived": float(np.isfinite(near).mean()),
            "found": float(np.mean([len(set(own.tolist()) - {-1}) for own in ends])), "passes": passes,
            "median_tight": float(np.median(tight)), "arrived_tight": float(np.isfinite(tight).mean()),
        })  # fmt: skip
    return lines


def _late(evaluations: np.ndarray) -> np.ndarray:
    return np.where(evaluations < 0, np.inf, evaluations)


def _many(value: float) -> str:
    return f"{value:g}" if np.isfinite(value) else "never"


LOOKS = {
    0: ("stable", "o", style.BLUE, style.BLUE),
    1: ("1 unstable direction", "^", style.ORANGE, "white"),
    2: ("2 unstable directions", "s", style.BLACK, "white"),
    3: ("3 unstable directions", "D", style.GREEN, style.GREEN),
}


def _cube_figure(row: lab.Row) -> Figure:
    fig = Figure(figsize=(12, 5.6))
    ax: Any = fig.add_subplot(1, 2, 1, projection="3d")
    for i in range(row["paths"].shape[1]):
        ax.plot(*row["paths"][:, i].T, color="0.75", linewidth=0.5, zorder=1)
    for both in row["edges"]:
        for path in both:
            ax.plot(*path.T, color=style.ORANGE, linewidth=1.6, zorder=2)
    for index, (label, mark, color, face) in LOOKS.items():
        own = row["points"][row["point_index"] == index]
        if len(own):
            look = {"marker": mark, "color": color, "markerfacecolor": face, "linestyle": "none", "zorder": 5}
            ax.plot(*own.T, label=f"{label} ({len(own)})", **look)
    ax.set(xlabel="PC 1", ylabel="PC 2", zlabel="PC 3")
    ax.set_title("(a) fixed points and trajectories", loc="left")
    ax.view_init(elev=18, azim=-62)
    ax.set_box_aspect(None, zoom=1.1)
    plane: Any = fig.add_subplot(1, 2, 2)
    values, labels = [], []
    for index, (label, *_) in LOOKS.items():
        own = np.flatnonzero(row["point_index"] == index)[:1]
        values.append((row["eigenvalues_real"] + 1j * row["eigenvalues_imag"])[own].ravel())
        labels.append(label)
    plot_eigenvalues(plane, [*values[:3], np.zeros(0), values[3]], [*labels[:3], "", labels[3]])  # marks as in LOOKS
    plane.get_legend().remove()
    plane.set_title("(b) eigenvalues of J", loc="left")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def _evaluations_figure(found: list[lab.Row], rules: list[int]) -> Figure:
    fig, axes = style.figures(1, len(LEVELS), 11, 4.4, sharey=True)
    curves = {OURS: [row["ours"] for row in found]}
    curves |= {RULES[rule].method: [row["descent"][rule] for row in found] for rule in (0, *rules)}
    for number, (ax, level) in enumerate(zip(axes[0], LEVELS, strict=True)):
        for i, (name, reached) in enumerate(curves.items()):
            values = np.sort(np.concatenate([_late(each[number]) for each in reached]))
            seen = values[np.isfinite(values)]
            look = style.line(i) | {"marker": ""}
            share = np.arange(1, len(seen) + 1) / len(values)
            ax.step(seen, share, where="post", linewidth=1.8, label=name, **look)
            if np.isfinite(median := np.median(values)):
                ax.axvline(median, color=look["color"], linestyle=look["linestyle"], linewidth=0.8)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set(xlabel="evaluations of F", title=f"until q <= {level:g}")
    axes[0, 0].set_ylabel("share of starts")
    style.letters(axes)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()

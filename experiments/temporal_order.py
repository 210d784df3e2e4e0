"""Temporal order: what clipping and Pascanu's Ω make trainable.

Question: up to which length T does stochastic gradient descent learn which of two symbols came first: plain, with the
gradient clipped, and with Ω as well?
Command: python -m experiments.temporal_order
Minutes: 13 on a share of one core; with --quick one.
Expected: three curves in the paper's order. Of 5 seeds within 4000 updates plain descent solves none at any length,
except two of the basic networks at T = 20; clipped all at 20, then 5 (smart) and 4 (basic) at 35 and none at 50; with Ω
all at 20, 35 and 50. At 80 none is solved. No run diverged into NaN. Which seeds are solved near the limit depends on
rounding: with the same draws, and sums rounded otherwise, clipping has solved 4 and 2 at 35, and 1 and 0 at 50.

After Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, section 4.1, and
its authors' code: 50 units, batches of 20, norms clipped at 1, Ω with weight 4 (of squared norms, averaged over steps,
differentiated through W2 alone), three initialisations. A run is solved if less than 1% of 10,000 fresh sequences are
wrong at its end; it ends early once 2,000 held-out ones are 99.5% right. The learning rate is 0.1, ten times that of
the authors, who had millions of updates: at their 0.01, five thousand updates lead to T = 30, where of 5 seeds plain
descent solves none, clipped 2 and with Ω 4 (smart), and sigmoid units (`--initialisations sigmoid`) hardly improve at
T = 10.
"""

import functools
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge
from jax import Array
from jax.sharding import Mesh
from matplotlib.lines import Line2D
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax import tasks
from rnnjax.gradients import norm_ratios
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many

from . import lab
from .lab import style

METHODS = ("SGD", "SGD, clipped", "SGD, clipped, Ω")
INPUTS, CLASSES = 6, 4
FLOOR = 1e-10  # Ω leaves out adjoints below it, as in the authors' code, where the loss is a mean over rows
EVALUATE_EVERY = 500  # updates
HELD_OUT, ENOUGH = 2000, 0.995
TEST, TEST_AT_ONCE, SOLVED = 10_000, 1000, 0.99
CHANCE = 0.25


@lab.options(quick={"lengths": (20, 50), "initialisations": ("smart tanh",), "seeds": 3, "updates": 1500})
class Options(lab.ProcessOptions):
    """Temporal order with plain, clipped and regularised gradient descent."""

    lengths: lab.Distinct[Annotated[int, Ge(10)]] = (20, 35, 50, 80)
    """Sequence lengths T [steps]."""
    initialisations: lab.Distinct[Literal["sigmoid", "basic tanh", "smart tanh"]] = ("smart tanh", "basic tanh")
    """How the weights are drawn, after the paper."""
    seeds: PositiveInt = 5
    """Networks trained for each point."""
    updates: PositiveInt = 4000
    """Updates at most."""
    hidden_size: PositiveInt = 50
    """H [units]."""
    batch: PositiveInt = 20
    """Sequences in a batch."""
    rate: PositiveFloat = 0.1
    """Learning rate; ten times that of the authors, who had a thousand times the updates."""
    max_norm: PositiveFloat = 1.0
    """Norm at which the gradient is clipped."""
    omega_weight: PositiveFloat = 4.0
    """Weight of Ω."""


class Network(NamedTuple):
    rnn: Any
    w_out: Array  # [H, classes]
    b_out: Array  # [classes]


def cell_of(initialisation: str, hidden_size: int) -> Any:
    return rnnjax.Elman(hidden_size, jax.nn.sigmoid if initialisation == "sigmoid" else "tanh")


def init_network(initialisation: str, hidden_size: int, key: Array) -> Network:
    """N(0, 0.01²) for sigmoid, N(0, 0.1²) for basic tanh; smart tanh: 15 connections per unit, spectral radius 0.95.

    Biases are zero. Eigenvalues are LAPACK's: run this in a program of its own.
    """
    size = hidden_size
    scale = 0.1 if initialisation == "basic tanh" else 0.01
    key_in, key_h, key_out, key_which = jax.random.split(key, 4)
    w_h = scale * jax.random.normal(key_h, (size, size))
    if initialisation == "smart tanh":
        keys = jax.random.split(key_which, size)
        kept = jax.vmap(lambda key: jax.random.permutation(key, size) < min(15, size))(keys)
        w_h = jnp.where(kept, w_h, 0)
        w_h = 0.95 * w_h / jnp.abs(jnp.linalg.eigvals(w_h)).max()
    rnn = rnnjax.ElmanParams(scale * jax.random.normal(key_in, (INPUTS, size)), w_h, jnp.zeros(size))
    return Network(rnn, scale * jax.random.normal(key_out, (size, CLASSES)), jnp.zeros(CLASSES))


def logits(cell: Any, network: Network, batch: tasks.Batch) -> Array:
    """`[B, 4]`, of the last state, which `unroll` gives without storing all outputs."""
    last, _ = rnnjax.unroll(cell, network.rnn, batch.xs)
    return last @ network.w_out + network.b_out


def cross_entropy(scores: Array, batch: tasks.Batch) -> Array:
    """The mean over rows, in nats."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), batch.targets[-1][:, None], axis=-1)
    return -chosen.mean()


def accuracy(cell: Any, network: Network, batch: tasks.Batch) -> Array:
    return (logits(cell, network, batch).argmax(-1) == batch.targets[-1]).mean()


def omega(cell: Any, network: Network, batch: tasks.Batch) -> Array:
    """Ω as in the authors' code: of squared norms, the mean over the steps above the floor, through W2 alone."""

    def loss(ys: Array) -> Array:
        return cross_entropy(ys[-1] @ network.w_out + network.b_out, batch)

    ratio, counts = norm_ratios(cell, network.rnn, batch.xs, loss, floor=FLOOR)
    return jnp.where(counts, (ratio**2 - 1) ** 2, 0).sum() / jnp.maximum(counts.sum(), 1)


def total_loss(cell: Any, weight: float, network: Network, batch: tasks.Batch) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy, plus Ω times its weight."""
    value = cross_entropy(logits(cell, network, batch), batch)
    if weight == 0:
        return value, {}
    price = omega(cell, network, batch)
    return value + weight * price, {"omega": price}


def train(asked: list[dict[str, Any]], mesh: Mesh | None = None) -> list[dict[str, Any]]:
    """Trains networks in one program and tests them on fresh sequences.

    They differ in method and index; all other arguments, and steps (T), are the same. Returns for each whether it
    solved the task, test accuracy, updates until its end, whether it met NaN or inf, and over evaluations
    "evaluated_after" [updates], "accuracy", "loss", "gradient_norm" and with Ω "omega".
    """
    first = asked[0]
    cell, steps = cell_of(first["initialisation"], first["hidden_size"]), first["steps"]
    key = jax.random.fold_in(jax.random.key(first["seed"]), steps)
    index = np.array([each["index"] for each in asked])
    settings = {
        "max_norm": jnp.array([jnp.inf if each["method"] == METHODS[0] else each["max_norm"] for each in asked]),
        "key": jax.random.split(key, index.max() + 1)[index],  # the same start and data in every method
    }
    fitted = fit_many(
        functools.partial(total_loss, cell, first["omega_weight"]),
        lambda key, setting: init_network(first["initialisation"], first["hidden_size"], key),
        lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.sgd(first["rate"])),
        lambda key, step: tasks.temporal_order(key, steps, (first["batch"],)),
        settings,
        FitOptions(steps=first["updates"], chunk=min(EVALUATE_EVERY, first["updates"])),
        key=key,
        has_aux=True,
        held_out=lambda key, index: tasks.temporal_order(key, steps, (HELD_OUT,)),
        measure=lambda params, batch: {"accuracy": accuracy(cell, params, batch)},
        until=lambda metrics: metrics["accuracy"] >= ENOUGH,
        mesh=mesh,
    )

    @jax.jit
    def score(params: Any, key: Array) -> Array:
        batch = tasks.temporal_order(key, steps, (TEST_AT_ONCE,))
        return jax.vmap(lambda p: accuracy(cell, p, batch))(params)

    test_keys = jax.random.split(jax.random.fold_in(jax.random.key(first["seed"]), 10**6 + steps), TEST // TEST_AT_ONCE)
    tested = np.mean([score(fitted.state.params, each) for each in test_keys], axis=0)
    names = {"held_out_accuracy": "accuracy", "loss": "loss", "gradient_norm": "gradient_norm", "omega": "omega"}
    return [
        {"solved": tested[i] > SOLVED and fitted.faults[i] is None, "test_accuracy": tested[i]}
        | {"updates_done": fitted.state.step[i], "diverged": fitted.faults[i] is not None}
        | {"evaluated_after": fitted.history["step"]}
        | {names[name]: values[:, i] for name, values in fitted.history.items() if name in names}
        for i in range(len(asked))
    ]


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    fields = ("seed", "hidden_size", "updates", "batch", "rate", "max_norm")
    common = {field: getattr(options, field) for field in fields}
    asked = [
        {"initialisation": name, "steps": steps, "method": method, "index": index}
        | {"omega_weight": options.omega_weight if method == METHODS[2] else 0.0}
        | common
        for steps in options.lengths
        for name in options.initialisations
        for method in METHODS
        for index in range(options.seeds)
    ]
    together = ("initialisation", "steps", "omega_weight")
    return run.rows(train, asked, "networks", together=together, given={"mesh": run.mesh})


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    groups: dict[Any, list[lab.Row]] = {}
    for row in rows:
        groups.setdefault((row["initialisation"], row["steps"], row["method"]), []).append(row)
    lines = []
    for (name, steps, method), found in groups.items():
        of = {field: [row[field] for row in found] for field in ("solved", "test_accuracy", "updates_done", "diverged")}
        until = [row["updates_done"] if row["solved"] else np.inf for row in found]
        line = {"initialisation": name, "steps": steps, "seeds": len(found), "method": method}
        line |= {
            "solved_share": float(np.mean(of["solved"])),
            "mean_test_accuracy": float(np.mean(of["test_accuracy"])),
        }
        line |= {"median_updates": float(np.median(until)), "diverged": sum(of["diverged"])}
        line |= {"best_held_out_accuracy_by_seed": [float(np.nanmax(row["accuracy"])) for row in found]}
        line |= {"solved_by_seed": of["solved"], "test_accuracy_by_seed": of["test_accuracy"]}
        lines.append(line | {"updates_by_seed": of["updates_done"]})
    names = list(dict.fromkeys(line["initialisation"] for line in lines))
    page.text("Results", [f"{sum(row['solved'] for row in rows)} of {len(rows)} networks solve the task."])
    _success_figure(page, lines, names)
    _history_figure(page, rows, names)
    headings = {"initialisation": "initialisation", "steps": "length T [steps]", "method": "method"}
    headings |= {"solved_share": "share solved", "mean_test_accuracy": "mean test accuracy"}
    headings |= {"median_updates": "median updates until solved", "diverged": "diverged networks"}
    page.table(lines, headings, f"Solved, of {lines[0]['seeds']} seeds, {rows[0]['updates']} updates")
    page.summary |= {"rows": lines, "chance_accuracy": CHANCE, "updates_budget": rows[0]["updates"]}


def _panels(names: list[str]) -> tuple[Any, Any]:
    fig, axes = style.figures(1, len(names), max(6.4, 3.2 * len(names) + 0.6), 3.9, sharey=True, sharex=True)
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name)
    if len(names) > 1:
        style.letters(axes)
    return fig, axes[0]


def _success_figure(page: lab.Page, lines: list[dict[str, Any]], names: list[str]) -> None:
    fig, axes = _panels(names)
    for ax, name in zip(axes, names, strict=True):
        for i, method in enumerate(METHODS):
            found = [line for line in lines if (line["initialisation"], line["method"]) == (name, method)]
            shares = [line["solved_share"] + 0.012 * (i - 1) for line in found]  # so that none hides another at 0 or 1
            ax.plot([line["steps"] for line in found], shares, label=method, **style.line(i))
        ax.set(xlabel="length T [steps]", xticks=sorted({line["steps"] for line in lines}), ylim=(-0.06, 1.06))
    axes[0].set_ylabel(f"share of {lines[0]['seeds']} seeds solved")
    fig.legend(handles=axes[0].get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    alt = "For each initialisation the share of solved seeds against sequence length, one curve per method."
    caption = (
        "Share of seeds with less than 1% of 10,000 fresh sequences wrong. Curves are shifted by a hundredth each."
    )
    page.figure("success", fig, alt=alt, caption=caption)


def _history_figure(page: lab.Page, rows: list[lab.Row], names: list[str]) -> None:
    """Held-out accuracy of every network at the middle length."""
    lengths = sorted({row["steps"] for row in rows})
    steps = lengths[len(lengths) // 2]
    fig, axes = _panels(names)
    looks = [style.line(i) | {"markersize": 2.5, "linewidth": 1.1, "label": name} for i, name in enumerate(METHODS)]
    for row in rows:
        if row["steps"] == steps:
            best = np.maximum.accumulate(np.nan_to_num(row["accuracy"]))
            ax = axes[names.index(row["initialisation"])]
            ax.plot(row["evaluated_after"], best, alpha=0.9, **looks[METHODS.index(row["method"])])
    guesses: list[Any] = [{"color": "0.5", "linewidth": 0.8, "label": "guess"}]
    guesses += [{"color": "0.5", "linewidth": 0.8, "label": "one symbol of two known", "linestyle": ":"}]
    for ax in axes:
        ax.axhline(CHANCE, **guesses[0])
        ax.axhline(0.5, **guesses[1])
        ax.set(xlabel="updates", ylim=(0.2, 1.02))
    axes[0].set_ylabel("best held-out accuracy so far")
    handles = [Line2D([], [], **look) for look in looks + guesses]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    alt = f"Accuracy against updates at T = {steps} for each initialisation, one line per seed."
    caption = f"The best held-out accuracy so far at T = {steps}, by seed. Remembering one symbol of two gives 50%."
    page.figure("history", fig, alt=alt, caption=caption)


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

"""Gradient flossing: does it help to bring Lyapunov exponents close to zero before training starts?

Question: up to which delay does a tanh network learn delayed XOR, with and without its exponents brought to zero first?
Command: python -m experiments.flossing
Minutes: 4 on a share of one core; with --quick one.
Expected: flossing takes the mean square of 16 exponents from 0.4 to 0.001 in 500 updates. Both kinds learn delay 10; at
16, 24 and 36 the plain networks are right 67, 56 and 50% of the time (a guess is 50%), the flossed 100, 82 and 69%.

After Engelken, Gradient flossing, NeurIPS 2023, made small: 32 units (there 80), W2 ~ N(0, 1/H), the 16 leading of 32
exponents, mean of their squares as the loss, Adam at 1e-3. Both kinds start from the same networks; one is flossed for
some hundred updates on inputs of the task's kind, without targets; then both are trained alike.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge
from jax import Array
from jax.sharding import Mesh
from pydantic import PositiveFloat, PositiveInt

import rnnjax
from rnnjax.gradients import finite_time_exponents, flossing
from rnnjax.initializers import Normal
from rnnjax.tasks import Batch, accuracy, cross_entropy, delayed_xor
from rnnjax.training import FitOptions, clip_by_global_norm, fit_many

from . import lab
from .lab import style
from .temporal_order import Network

KINDS = ("plain", "flossed")
STAGES = ("before", "flossed", "plain_trained", "flossed_trained")
HELD_OUT = 200  # sequences
BEYOND = 20  # steps of a sequence after the first answer


@lab.options(quick={"delays": (4,), "seeds": 2, "updates": 200, "floss_updates": 50, "hidden_size": 16, "exponents": 8})
class Options(lab.ProcessOptions):
    """Delayed XOR with and without flossing before training."""

    delays: lab.Distinct[Annotated[int, Ge(2)]] = (10, 16, 24, 36)
    """Delays d of the task [steps]."""
    hidden_size: PositiveInt = 32
    """H [units]."""
    exponents: PositiveInt = 16
    """How many leading exponents are brought to zero."""
    seeds: PositiveInt = 5
    """Networks per delay."""
    floss_updates: PositiveInt = 500
    """Updates of flossing."""
    floss_steps: Annotated[int, Ge(4)] = 40
    """Length of the sequences for flossing [steps]."""
    updates: PositiveInt = 1500
    """Updates of training."""
    batch: PositiveInt = 16
    """Sequences in a batch."""
    rate: PositiveFloat = 1e-3
    """Learning rate of Adam, in both."""

    def check(self) -> None:
        super().check()
        if self.exponents > self.hidden_size:
            most = self.hidden_size
            raise lab.UsageError(f"--exponents is {self.exponents}; give at most {most}, the number of units.")


def logits(cell: Any, network: Network, batch: Batch) -> Array:
    return rnnjax.unroll(cell, network.rnn, batch.xs)[1] @ network.w_out + network.b_out


def train(asked: list[dict[str, Any]], mesh: Mesh | None = None) -> list[dict[str, Any]]:
    """Networks of one delay, each trained without and with flossing first, in one program.

    They differ in index; all other arguments are the same. Returns for each network and both kinds the last held-out
    accuracy and whether NaN or inf was met, the last loss of flossing, "exponents" `[stages, exponents]`, and over
    evaluations "evaluated_after" [updates] and "accuracy" `[lines, 2]`.
    """
    first, count = asked[0], len(asked)
    delay, k, steps = first["delay"], first["exponents"], first["delay"] + BEYOND
    cell = rnnjax.Elman(first["hidden_size"], w_h=Normal())  # at the edge of chaos of a network without input
    key = jax.random.fold_in(jax.random.key(first["seed"]), delay)
    index = np.array([each["index"] for each in asked])
    keys = jax.random.split(key, index.max() + 1)[index]

    @jax.jit
    @jax.vmap
    def init(key: Array) -> Network:
        key_rnn, key_out = jax.random.split(key)
        w_out = jax.random.normal(key_out, (cell.hidden_size, 2)) / cell.hidden_size**0.5
        return Network(cell.init(key_rnn, 1), w_out, jnp.zeros(2))

    def inputs(key: Array, rows: int) -> Array:
        return delayed_xor(key, first["floss_steps"], (rows,), delay=2).xs

    start = init(keys)
    flossed = fit_many(
        lambda network, xs: flossing(cell, network.rnn, xs, k=k),
        lambda key, setting: setting["network"],
        optax.adam(first["rate"]),
        lambda key, step: inputs(key, 1),
        {"network": start, "key": keys},
        FitOptions(steps=first["floss_updates"], chunk=first["floss_updates"]),
        key=key,
        mesh=mesh,
    )
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), start, flossed.state.params)
    fitted = fit_many(
        lambda network, batch: cross_entropy(logits(cell, network, batch), batch),
        lambda key, setting: setting["network"],
        optax.chain(clip_by_global_norm(1.0), optax.adam(first["rate"])),
        lambda key, step: delayed_xor(key, steps, (first["batch"],), delay=delay),
        {"network": both, "key": jnp.concatenate([keys, keys])},
        FitOptions(steps=first["updates"], chunk=max(1, first["updates"] // 10)),
        key=key,
        held_out=lambda key, index: delayed_xor(key, steps, (HELD_OUT,), delay=delay),
        measure=lambda network, batch: {"accuracy": accuracy(logits(cell, network, batch), batch)},
        mesh=mesh,
    )

    @jax.jit
    @jax.vmap
    def spectrum(network: Network) -> Array:
        xs = inputs(jax.random.fold_in(key, 1), 4)
        return finite_time_exponents(cell, network.rnn, xs, k=k).mean(0)

    by_stage = [np.asarray(spectrum(networks)).reshape(2, count, k) for networks in (both, fitted.state.params)]
    exponents = np.concatenate(by_stage)  # [stages, count, k]
    reached = fitted.history["held_out_accuracy"].reshape(-1, 2, count)
    return [
        {f"{kind}_accuracy": reached[-1, j, i] for j, kind in enumerate(KINDS)}
        | {f"{kind}_failed": fitted.faults[j * count + i] is not None for j, kind in enumerate(KINDS)}
        | {"floss_loss": flossed.history["loss"][-1, i], "exponents": exponents[:, i]}
        | {"evaluated_after": fitted.history["step"], "accuracy": reached[:, :, i]}
        for i in range(count)
    ]


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    fields = ("hidden_size", "exponents", "seed", "floss_updates", "floss_steps", "updates", "batch", "rate")
    common = {field: getattr(options, field) for field in fields}
    asked = [{"delay": d, "index": i} | common for d in sorted(options.delays) for i in range(options.seeds)]
    return run.rows(train, asked, "networks", together=("delay",), given={"mesh": run.mesh})


def summarised(found: list[lab.Row]) -> dict[str, Any]:
    """The networks of one delay: mean accuracies, and mean squares and first of the exponents at each stage."""
    line: dict[str, Any] = {"delay": found[0]["delay"]}
    for kind in KINDS:
        accuracies = np.array([row[f"{kind}_accuracy"] for row in found], float)
        line |= {f"{kind}_accuracy": float(accuracies.mean()), f"{kind}_accuracy_std": float(accuracies.std())}
    exponents = np.stack([row["exponents"] for row in found], axis=1)  # [stages, seeds, k]
    squares, leading = (exponents**2).mean(axis=(1, 2)), exponents[..., 0].mean(axis=1)
    line |= {f"mean_square_{stage}": float(square) for stage, square in zip(STAGES, squares, strict=True)}
    return line | {f"leading_exponent_{stage}": float(value) for stage, value in zip(STAGES, leading, strict=True)}


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    by_delay: dict[int, list[lab.Row]] = {}
    for row in rows:
        by_delay.setdefault(row["delay"], []).append(row)
    lines = [summarised(found) for found in by_delay.values()]
    fig, ax = style.figure(6.4, 4.0)
    for i, kind in enumerate(KINDS):
        means = [line[f"{kind}_accuracy"] for line in lines]
        ax.plot([line["delay"] for line in lines], means, label=f"{kind}, mean", **style.line(i))
        reached = np.array([row[f"{kind}_accuracy"] for row in rows], float)
        small: Any = style.markers(i) | {"markersize": 3}
        ax.plot([row["delay"] for row in rows], reached, **small)
    ax.axhline(0.5, color="0.5", linewidth=0.8, label="guess")
    ax.set(xlabel="delay d [steps]", xticks=[line["delay"] for line in lines])
    ax.set(ylabel="held-out accuracy", ylim=(0.45, 1.02), title="Delayed XOR after training")
    ax.legend()
    alt = "Accuracy against delay, with and without flossing before training."
    caption = "Held-out accuracy after the budget of updates. Lines: means over seeds; open markers: single seeds."
    page.figure("accuracy", fig, alt=alt, caption=caption)

    shown = list(dict.fromkeys((min(by_delay), max(by_delay))))
    fig, axes = style.figures(1, len(shown), max(6.4, 4.4 * len(shown)), 3.9, sharey=True)
    labels = ("drawn", "flossed", "drawn, then trained", "flossed, then trained")
    for ax, delay in zip(axes[0], shown, strict=True):
        means = np.mean([row["exponents"] for row in by_delay[delay]], axis=0)
        for j, label in enumerate(labels):
            ax.plot(np.arange(1, means.shape[1] + 1), means[j], label=label, markevery=2, **style.line(j))
        ax.axhline(0, color="0.5", linewidth=0.8)
        ax.set(title=f"Delay {delay} steps", xlabel="index i of the exponent")
    axes[0, 0].set_ylabel("finite-time $λ_i$ [nats per step]")
    if len(shown) > 1:
        style.letters(axes)
    fig.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=4)
    alt = "The leading exponents of drawn networks fall off; those of flossed ones lie at zero."
    caption = "The leading finite-time exponents on inputs of the task's kind, mean over seeds."
    page.figure("exponents", fig, alt=alt, caption=caption)

    headings = {"delay": "delay [steps]", "plain_accuracy": "accuracy, plain", "flossed_accuracy": "accuracy, flossed"}
    headings |= {f"mean_square_{stage}": f"mean λ² {stage} [(nats per step)²]" for stage in STAGES[:2]}
    page.table(lines, headings, f"Held-out accuracy, mean of {len(rows) // len(lines)} seeds")
    runs = [
        {"delay": delay, "floss_loss": [row["floss_loss"] for row in found]}
        | {kind: {name: [row[f"{kind}_{name}"] for row in found] for name in ("accuracy", "failed")} for kind in KINDS}
        for delay, found in by_delay.items()
    ]
    page.summary |= {"rows": lines, "runs": runs, "chance_accuracy": 0.5}


experiment = lab.Experiment(Options, measure, draw)

if __name__ == "__main__":
    experiment.main()

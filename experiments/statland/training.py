"""The same network, trained from scratch: forward, loss, backward, update, for many seeds at once.

    L = Σ_rows (prediction - tomorrow)²            the sum of squared residuals over the rules

Weights start from N(0, 1), biases from 0. One seed is one run of `train`; `vmap` makes all of them one program.

With one ReLU unit a run can die. If the last hidden state is 0 on every row, then dL/dW1, dL/dW2, dL/db1 and dL/dW3
are all exactly 0, and stay so; only b2 moves, and the best it can do is the same 0.5 for every row, L = 1. A seed
with W1 < 0 (half of them) is dead before the first update, since with b1 = 0 no day is below 0.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

import rnnjax
from experiments.statland.published import DAYS, RULES, THREE_DAYS, Network, Rows, encode, forward, weights
from rnnjax.sharding import spread

CURVE_POINTS = 120  # losses kept of each seed, evenly in the logarithm of the step

FATES = ("learned", "stuck", "dead", "diverged")
_DIVERGED_LOSS = 1e6  # no valley of this loss is so high: the step is too long for it


class Lesson(NamedTuple):
    """Rows to learn, with what follows each."""

    rows: Rows
    targets: np.ndarray  # [B]


def lesson(three_days: bool) -> Lesson:
    """The four rules; with `three_days` also the row of three days and the high that the published network says."""
    pairs = [*RULES, (THREE_DAYS, "high")] if three_days else list(RULES)
    return Lesson(encode([days for days, _ in pairs]), np.array([DAYS[tomorrow] for _, tomorrow in pairs]))


def draw(key: Array) -> Network:
    """Weights from N(0, 1), biases 0."""
    w = jax.random.normal(key, (3,))
    rnn = rnnjax.ElmanParams(w_x=w[0].reshape(1, 1), w_h=w[1].reshape(1, 1), b=jnp.zeros_like(w[:1]))
    return Network(rnn, w_out=w[2], b_out=jnp.zeros_like(w[2]))


def draw_seeds(seed: int, seeds: int) -> Network:
    """The initial networks of `train_seeds`, with a leading axis `[seeds]`."""
    return jax.vmap(draw)(jax.random.split(jax.random.key(seed), seeds))


def loss(network: Network, task: Lesson) -> tuple[Array, Array]:
    """The sum of squared residuals, and the predictions `[B]`."""
    predictions, _ = forward(network, task.rows)
    return jnp.sum((predictions - task.targets) ** 2), predictions


def optimizer(name: str, learning_rate: float, clip_norm: float | None) -> optax.GradientTransformation:
    """ "sgd" or "adam"; with `clip_norm`, gradients of a larger global norm are first scaled down to it."""
    rule = {"sgd": optax.sgd, "adam": optax.adam}[name](learning_rate)
    return rule if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), rule)


class Trained(NamedTuple):
    """What is left of one run; a leading axis of seeds under `vmap`."""

    network: Network
    losses: Array  # [K + 1] before the updates `curve_steps(steps)`; the last is after the last update
    gradient_norms: Array  # [K] global norm before clipping, at the same steps
    largest_gradient_norm: Array  # [] over all steps


def curve_steps(steps: int) -> np.ndarray:
    """Which updates the curves show: 0, 1, 2, ... and then ever fewer, up to `steps - 1`."""
    return np.unique(np.geomspace(1, steps, CURVE_POINTS).round().astype(int)) - 1


def train(key: Array, rule: optax.GradientTransformation, task: Lesson, steps: int) -> Trained:
    """One seed: draw, then `steps` times forward, loss, backward, update, as one scan."""
    network = draw(key)

    def update(state: tuple[Network, Any], _: None) -> tuple[tuple[Network, Any], tuple[Array, Array]]:
        network, memory = state
        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(network, task)
        change, memory = rule.update(gradient, memory, network)
        network = cast(Network, optax.apply_updates(network, change))  # pyright: ignore[reportArgumentType]
        return (network, memory), (value, optax.tree.norm(gradient))

    (network, _), (losses, norms) = jax.lax.scan(update, (network, rule.init(network)), None, length=steps)
    kept = curve_steps(steps)
    last = loss(network, task)[0]
    return Trained(network, jnp.append(losses[kept], last), norms[kept], jnp.max(norms))


def train_seeds(
    seed: int,
    seeds: int,
    steps: int,
    name: str,
    learning_rate: float,
    clip_norm: float | None,
    three_days: bool,
    mesh: Mesh | None = None,
) -> Trained:
    """`train` for all seeds in one compiled program; every leaf gains a leading axis `[seeds]`.

    The same `seed` gives the same initial networks whatever the optimizer, so runs can be compared seed by seed.
    """
    rule, task = optimizer(name, learning_rate, clip_norm), lesson(three_days)
    keys = jax.random.split(jax.random.key(seed), seeds)
    return spread(lambda key: train(key, rule, task, steps), mesh)(keys)


class Judged(NamedTuple):
    """How each seed ended."""

    predictions: np.ndarray  # [S, 4] for the rules
    fates: np.ndarray  # [S] index into FATES
    reads_right: np.ndarray  # [S] every rule right after rounding to the nearest of low, medium, high
    three_days: np.ndarray  # [S] prediction for THREE_DAYS


def judge(networks: Network, tolerance: float) -> Judged:
    """Sorts seeds by how they ended; every seed has one fate.

    learned: each of the four predictions within `tolerance` of its rule. diverged: a weight is not finite, or the loss
    is above 1e6. dead: the last hidden state is 0 on all four rows, so no gradient reaches the unit. stuck: none of
    these.
    """
    task = lesson(three_days=False)
    both = encode([*(days for days, _ in RULES), THREE_DAYS])
    outputs, last = map(np.asarray, jax.jit(jax.vmap(lambda network: forward(network, both)))(networks))
    predictions, beyond, hidden = outputs[:, :-1], outputs[:, -1], last[:, :-1]
    leaves = [np.asarray(leaf).reshape(len(predictions), -1) for leaf in jax.tree.leaves(networks)]
    finite = np.isfinite(np.concatenate(leaves, axis=1)).all(axis=1)
    residuals = predictions - task.targets
    finite &= np.square(residuals).sum(axis=1) < _DIVERGED_LOSS
    learned = finite & (np.abs(residuals) <= tolerance).all(axis=1)
    dead = finite & (hidden == 0).all(axis=1)
    fates = np.select([learned, ~finite, dead], [0, 3, 2], default=1)
    levels = np.array(list(DAYS.values()))
    nearest = levels[np.abs(predictions[..., None] - levels).argmin(axis=-1)]
    return Judged(predictions, fates, finite & (nearest == task.targets).all(axis=1), beyond)


def first_updates(
    seed: int, seeds: int, index: int, learning_rate: float, clip_norm: float, count: int
) -> list[dict[str, Any]]:
    """The first `count` updates of gradient descent with clipping, for one seed out of `seeds`, number by number.

    Returns:
      One mapping an update: `weights` before it, `predictions` [4], `loss`, `gradient` (by weight), `gradient_norm`,
      `clip_factor` = min(1, clip_norm / gradient_norm), `weights_after` = weights - rate * factor * gradient.
    """
    rule, task = optimizer("sgd", learning_rate, clip_norm), lesson(three_days=False)
    network = draw(jax.random.split(jax.random.key(seed), seeds)[index])
    memory = rule.init(network)
    shown = []
    differentiate = jax.jit(lambda network: jax.value_and_grad(loss, has_aux=True)(network, task))
    for _ in range(count):
        (value, predictions), gradient = differentiate(network)
        norm = float(optax.tree.norm(gradient))
        change, memory = rule.update(gradient, memory, network)
        after = cast(Network, optax.apply_updates(network, change))  # pyright: ignore[reportArgumentType]
        shown.append(
            {
                "weights": weights(network),
                "predictions": np.asarray(predictions).tolist(),
                "loss": float(value),
                "gradient": weights(gradient),
                "gradient_norm": norm,
                "clip_factor": min(1.0, clip_norm / norm) if norm > 0 else 1.0,
                "weights_after": weights(after),
            }
        )
        network = after
    return shown

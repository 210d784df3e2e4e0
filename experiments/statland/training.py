"""The same network, trained from scratch: forward, loss, backward, update, for many seeds at once.

    L = Σ_rows (prediction - tomorrow)²            the sum of squared residuals over the rules

A network is `w`, `[5]`: W1, W2, b1, W3, b2. Weights start from N(0, 1), biases from 0.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rnnjax
from rnnjax.sharding import spread
from rnnjax.training import pad

from .published import DAYS, GATES, RULES, THREE_DAYS, WEIGHTS, reading

CURVE_POINTS = 120  # losses kept of each seed, evenly in the logarithm of the step
DIVERGED_LOSS = 1e6  # a run with a larger loss never comes back


def forward(w: Array, rows: Sequence[Sequence[str]]) -> tuple[Array, Array]:
    """Predictions `[B]` and last hidden states `[B]` of rows of days, perhaps of unequal lengths, in one unroll."""
    params = rnnjax.ElmanParams(w_x=w[0].reshape(1, 1), w_h=w[1].reshape(1, 1), b=w[2].reshape(1))
    xs, lengths = pad([[[DAYS[day]] for day in row] for row in rows], dtype=w.dtype)
    h, _ = rnnjax.unroll(rnnjax.Elman(hidden_size=1, activation="relu"), params, jnp.asarray(xs), lengths=lengths)
    return h[:, 0] * w[3] + w[4], h[:, 0]


def published_network() -> Array:
    """The published network, in JAX's present float dtype."""
    return jnp.array(list(WEIGHTS.values()))


def lstm_prediction(prices: Sequence[float]) -> Array:
    """The last short-term memory of the published LSTM: gates stacked i, f, g, o on the last axis, H = D = 1."""
    short_term, from_input, bias = (jnp.array(column) for column in zip(*GATES.values(), strict=True))
    params = rnnjax.LSTMParams(w_x=from_input[None], w_h=short_term[None], b=bias)
    carry, _ = rnnjax.unroll(rnnjax.LSTM(hidden_size=1), params, jnp.array(prices)[:, None])
    return carry.h[0]


def draw(seed: int, indices: Sequence[int]) -> Array:
    """`[len(indices), 5]`; a network does not depend on how many others there are."""
    keys = jax.random.split(jax.random.key(seed), max(indices) + 1)[np.array(indices)]
    w = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    zero = jnp.zeros_like(w[:, 0])
    return jnp.stack([w[:, 0], w[:, 1], zero, w[:, 2], zero], axis=1)


def loss(w: Array, three_days: bool = False) -> tuple[Array, Array]:
    """The sum of squared residuals over the rules, and the predictions `[B]`; `three_days` and high may be a fifth."""
    pairs = [*RULES, (THREE_DAYS, "high")] if three_days else RULES
    predictions, _ = forward(w, [days for days, _ in pairs])
    return jnp.sum((predictions - np.array([DAYS[tomorrow] for _, tomorrow in pairs])) ** 2), predictions


def update(rule: Any, w: Any, memory: Any, three_days: bool = False) -> tuple[Any, Any, Array, Array, Array]:
    """Forward, loss, backward, update: `w` and memory after it, loss and predictions before it, gradient."""
    (value, predictions), gradient = jax.value_and_grad(loss, has_aux=True)(w, three_days)
    change, memory = rule.update(gradient, memory, w)
    return w + change, memory, value, predictions, gradient


def curve_steps(steps: int) -> np.ndarray:
    """Which updates the curves show: 0, 1, 2, ... and then ever fewer, up to `steps - 1`."""
    return np.unique(np.geomspace(1, steps, CURVE_POINTS).round().astype(int)) - 1


def train(asked: Sequence[dict[str, Any]], mesh: Any = None) -> list[dict[str, Any]]:
    """Trains networks that differ in `index` alone in one program; an index starts the same whatever the optimizer.

    Returns:
      For each network the entries of `judge`; `dead_at_start`; `gradient_norm_max` (before clipping, over all updates);
      `loss` `[K + 1]` before the updates `curve_steps(steps)` and after all.
    """
    first = asked[0]
    rule = {"sgd": optax.sgd, "adam": optax.adam}[first["optimizer"]](first["learning_rate"])
    if first["clip_norm"] is not None:
        rule = optax.chain(optax.clip_by_global_norm(first["clip_norm"]), rule)

    def run(start: Array) -> tuple[Array, Array, Array]:
        def body(state: tuple[Array, Any], _: Any) -> tuple[Any, tuple[Array, Array]]:
            w, memory, value, _, gradient = update(rule, *state, first["train_three_days"])
            return (w, memory), (value, optax.tree.norm(gradient))

        (end, _), (losses, norms) = jax.lax.scan(body, (start, rule.init(start)), length=first["steps"])
        last = loss(end, first["train_three_days"])[0]
        return end, jnp.append(losses[curve_steps(first["steps"])], last), jnp.max(norms)

    start = draw(first["seed"], [each["index"] for each in asked])
    end, losses, norms = spread(run, mesh)(start)
    both = judge(jnp.concatenate([end, start]), first["tolerance"])
    return [
        found | {"dead_at_start": was["fate"] == "dead", "gradient_norm_max": float(norm), "loss": np.asarray(curve)}
        for found, was, norm, curve in zip(both[: len(asked)], both[len(asked) :], norms, losses, strict=True)
    ]


def judge(networks: Array, tolerance: float) -> list[dict[str, Any]]:
    """How each of networks `[S, 5]` ended.

    Returns:
      For each `fate`: "learned", each of the four predictions is within `tolerance` of its rule; "diverged", a weight
      is not finite, or the loss is above 1e6; "dead", the last hidden state is 0 on all four rows, so no gradient
      reaches the unit; or "stuck". `predictions`; `reads_right`, whether each is nearest to its rule's day.
    """
    tomorrow = [tomorrow for _, tomorrow in RULES]
    outputs, last = map(np.asarray, jax.jit(jax.vmap(lambda w: forward(w, [*dict(RULES), THREE_DAYS])))(networks))
    judged = []
    for w, output, hidden in zip(np.asarray(networks), outputs, last, strict=True):
        residuals = output[:-1] - [DAYS[day] for day in tomorrow]
        finite = np.isfinite(w).all() and np.square(residuals).sum() < DIVERGED_LOSS
        within, dead = (np.abs(residuals) <= tolerance).all(), (hidden[:-1] == 0).all()
        fate = "diverged" if not finite else "learned" if within else "dead" if dead else "stuck"
        right = bool(finite and [reading(value) for value in output[:-1]] == tomorrow)
        found = {"fate": fate, "predictions": output[:-1].tolist(), "reads_right": right}
        judged.append(found | {"three_days_read_as": reading(output[-1])})
    return judged


def first_updates(seed: int, index: int, learning_rate: float, clip_norm: float, count: int) -> dict[str, Any]:
    """The first `count` updates of one network by gradient descent with clipping, number by number.

    Returns:
      `updates`, one mapping per update: `weights` before it, `predictions` [4], `loss`, `gradient` (by weight),
      `gradient_norm`, `clip_factor` = min(1, clip_norm / gradient_norm), `weights_after`.
    """

    def named(w: Array) -> dict[str, float]:
        return dict(zip(WEIGHTS, w.tolist(), strict=True))

    rule = optax.chain(optax.clip_by_global_norm(clip_norm), optax.sgd(learning_rate))
    step = jax.jit(functools.partial(update, rule))
    before: Any = draw(seed, [index])[0]
    memory, updates = rule.init(before), []
    for _ in range(count):
        after, memory, value, predictions, gradient = step(before, memory)
        norm = float(optax.tree.norm(gradient))
        told = {"weights": named(before), "predictions": predictions.tolist(), "loss": float(value)}
        told |= {"gradient": named(gradient), "gradient_norm": norm}
        told |= {"clip_factor": min(1.0, clip_norm / norm) if norm > 0 else 1.0, "weights_after": named(after)}
        updates.append(told)
        before = after
    return {"updates": updates}

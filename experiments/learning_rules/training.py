"""Networks that learn a stream by each rule, and the bias of the gradient of each."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rnnjax
from rnnjax import gradients, online

from . import streams

CELLS: dict[str, Callable[[int], Any]] = {
    "leaky": lambda size: rnnjax.cells.RateNetwork(size, form="rate", dt=0.2),
    "gru": rnnjax.GRU,
    "lstm": rnnjax.LSTM,
    "min_gru": rnnjax.cells.MinGRU,
}
"""A leaky network with α = 0.2, and MinGRU, whose recurrence is diagonal."""

RULES: dict[str, online.Rule] = {
    "RTRL": online.RTRL(),
    "SnAp-1": online.SnAp(1),
    "KF-RTRL": online.KFRTRL(),
    "UORO": online.UORO(),
    "KeRNL": online.KeRNL(),
    "e-prop": online.EProp(),
    "RFLO": online.RFLO(),
    "TBPTT-50": online.TBPTT(50),
    "TBPTT-4": online.TBPTT(4),
    "Immediate": online.Immediate(),
    "DNI": online.DNI(),
}
"""TBPTT-50 reaches the beginning of every sequence: it is exact, and computed anew with the current parameters."""
OPTIMIZERS = {"rmsprop": (optax.rmsprop, 1.0), "adam": (optax.adam, 1.0), "sgd": (optax.sgd, 10.0)}
"""Each with the factor of its learning rates."""
CLAIM = ("RTRL", "Immediate")
MATCH = 0.05  # of success: less than this below RTRL counts as a match
PARTS = 10  # of a stream, for its curve
OF_STREAM = ("task", "lag", "length", "rows", "push")


def network(cell: str, hidden_size: int, posed: streams.Problem) -> tuple[Any, Any]:
    """A model, and the loss of a step: the mean over rows, where the task scores the step."""

    def loss(y: Array, target: tuple[Array, Array]) -> Array:
        return (posed.error(y, target[0]) * target[1]).mean()

    return rnnjax.Readout(CELLS[cell](hidden_size), posed.outputs), loss


def learned(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Networks that differ in rate and seed, in one program.

    Returns:
      success: over the last tenth of the stream; 0 where it is negative or not finite.
      curve: the same over each tenth, not cut at 0.
      balanced_share: of the cart's starts, within 200 ticks.
      trace_bytes, flops: of the rule, for one row.
    """
    first, rule = asked[0], RULES[asked[0]["rule"]]
    make, factor = OPTIMIZERS[first["optimizer"]]
    where = {name: first[name] for name in OF_STREAM}
    posed = streams.problem(**where)
    model, loss = network(first["cell"], first["hidden_size"], posed)
    seeds = tuple(sorted({each["seed"] + each["index"] for each in asked}))
    at = np.array([seeds.index(each["seed"] + each["index"]) for each in asked])
    drawn = [model.init(jax.random.key(seed), posed.inputs) for seed in seeds]
    given = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn),
        streams.stream(**where, steps=first["steps"], seeds=seeds),
    )
    given = jax.tree.map(lambda leaf: leaf[at], given)
    cost = online.explain(model, drawn[0], rule, input_size=posed.inputs)

    def run(params: Any, given: Any, rate: Array, key: Array) -> tuple[Any, Array]:
        xs, targets, begins = given
        found = online.fit(
            model, params, xs, targets, loss, rule, make(rate), resets=begins, key=key if rule.random else None
        )
        driven = first["task"] == "cart_pole"
        return found.losses, streams.balanced(model, found.params, key) if driven else jnp.array(math.nan)

    rates = jnp.array([factor * each["rate"] for each in asked])
    keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))[at]
    losses, shares = jax.device_get(jax.jit(jax.vmap(run))(*given, rates, keys))
    weights = np.asarray(given[1][1][1]).mean(-1)
    baseline, rows = posed.baseline, []
    for own, weight, share in zip(losses, weights, shares, strict=True):
        parts = zip(np.array_split(own, PARTS), np.array_split(weight, PARTS), strict=True)
        curve = [1 - float(a.sum() / b.sum()) / baseline if b.any() else math.nan for a, b in parts]
        success = max(0.0, curve[-1]) if math.isfinite(curve[-1]) else 0.0
        row = {"success": success, "curve": curve, "length_steps": len(own), "balanced_share": float(share)}
        rows.append(row | {"trace_bytes": cost.trace_bytes, "flops": cost.flops, "step_flops": cost.step_flops})
    return rows


def biased(**asked: Any) -> dict[str, Any]:
    """Each rule's gradient against the exact one by lag, for a network as drawn, and the adjoint of its last loss."""
    lags, names = asked["lags"], asked["rules"]
    where = {"task": "flip_flop", "lag": asked["lag"], "length": 3 * lags, "rows": asked["rows"], "push": 0.0}
    posed = streams.problem(**where)
    model, loss = network(asked["cell"], asked["hidden_size"], posed)
    params = model.init(jax.random.key(asked["seed"]), posed.inputs)
    drawn = streams.stream(**where, steps=3 * lags, seeds=(asked["seed"],))
    xs, targets, _ = jax.tree.map(lambda leaf: leaf[0], drawn)
    rules = {name: RULES[name] for name in names}
    found = online.bias(model, params, xs, targets, loss, rules, lags=lags, seeds=asked["draws"])
    last = jax.tree.map(lambda leaf: leaf[-1], targets)
    adjoint = jax.jit(lambda params: gradients.adjoint(model, params, xs, lambda ys: loss(ys[-1], last)))(params)
    norms = jnp.exp(adjoint.log_norm).mean(-1)[::-1]  # from the last boundary back
    each = [found[name] for name in names]
    return {
        "exact_by_lag": each[0].exact_by_lag,
        "adjoint_by_lag": np.asarray(norms[:lags]),
        "bias_by_lag": np.stack([one.bias_by_lag for one in each]),
        "deviation_by_lag": np.stack([one.deviation_by_lag for one in each]),
        "cosine": [one.cosine for one in each],
        "norm_ratio": [one.norm_ratio for one in each],
        "deviation": [one.deviation for one in each],
    }


def defined(rule: str, cell: str) -> bool:
    """Whether a cell can be learned by a rule."""
    model = rnnjax.Readout(CELLS[cell](2), 1)
    try:
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), 1))
        online.explain(model, params, RULES[rule], input_size=1)
    except TypeError:
        return False
    return True

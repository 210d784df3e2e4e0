"""Learning without going back in time: what each rule of `rnnjax.online` learns, at what cost, and why.

Question: what is a rule's approximate gradient worth, by cell and lag, and do immediate derivatives match RTRL?
Command: python -m experiments.learning_rules
Minutes: 60 on two cores; with --quick 2.
Expected: RTRL learns most at the short lag, and rules without a trace fall behind it where the loss needs a memory that
the state does not hold by itself. The bias of a truncated rule is the exact gradient of the lags that it leaves out,
which falls as the adjoint does; the unbiased rules pay in variance.

A stream of new sequences, each begun with a reset, is learned with an update of θ at every step; losses count before an
update, so they are a test. Success is 1 - loss / loss of a predictor without memory, over the last tenth
of the stream. All rules see the same streams from the same parameters. Of the learning rates the best for each rule is
shown, by the median over seeds of this very success, which favours all rules alike.

  adding      two marked numbers, `lag` steps apart on average: their sum at the end of 2 `lag` steps
  copy        two of four symbols, to be repeated after `lag` steps
  flip_flop   two bits, each set every `lag` steps on average, reported at every step
  cart_pole   position and angle of a cart with a pole, without their velocities; to be imitated is the force of the
              linear-quadratic regulator, which sees all four and drives the cart, with noise added: imitation, not
              reinforcement. The predictor without memory is the best linear one. Trained networks then drive the cart.

The claim: «immediate derivatives with RMSprop match or exceed full RTRL» (arXiv 2603.28750, version 1; version 3 has
Adam and float64 in the place of RMSprop, and names fragilities of others). Its tasks are adaptations to drifting
signals; here are tasks with a known lag. With `--optimizers` after the first, `RTRL` and `Immediate` alone run.

References: `rnnjax.online` for the rules; Barto, Sutton and Anderson, Neuronlike adaptive elements that can solve
difficult learning control problems, IEEE Trans. SMC 13 (1983), for the cart and its failure at 12 degrees or 2.4 m.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge
from jax import Array
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

import rnnjax
from experiments import lab
from experiments.learning_rules import streams
from rnnjax import gradients, online

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
    "DNI": online.DNI(),
    "TBPTT-4": online.TBPTT(4),
    "Immediate": online.Immediate(),
}
OPTIMIZERS = {"rmsprop": (optax.rmsprop, 1.0), "adam": (optax.adam, 1.0), "sgd": (optax.sgd, 10.0)}
"""Each with the factor of its learning rates."""
CLAIM = ("RTRL", "Immediate")
MATCH = 0.05  # of success: less than this below RTRL counts as a match
PARTS = 10  # of a stream, for its curve


_QUICK = {"tasks": ("adding", "flip_flop", "cart_pole"), "cells": ("leaky",), "lags": (4,), "steps": 1000, "seeds": 1}
_QUICK |= {"rates": (3e-3,), "hidden_size": 8, "bias_lags": 12, "bias_seeds": 4}


@lab.options(quick=_QUICK)
class Options(lab.Options):
    """Online learning by rule, cell, task and lag."""

    tasks: lab.Distinct[Literal["adding", "copy", "flip_flop", "cart_pole"]] = (
        "adding",
        "copy",
        "flip_flop",
        "cart_pole",
    )
    """adding, copy, flip_flop, cart_pole (which has no lag)."""
    cells: lab.Distinct[Literal["leaky", "gru", "lstm", "min_gru"]] = ("leaky", "gru", "lstm", "min_gru")
    """leaky, gru, lstm, min_gru."""
    rules: lab.Distinct[str] = tuple(RULES)
    """Names of rules; one that is not defined for a cell is left out there."""
    lags: lab.Distinct[Annotated[int, Ge(2)]] = (4, 16)
    """Lags of the tasks [steps]."""
    length: Annotated[int, Ge(2)] = 50
    """Sequences of flip_flop and cart_pole; the others' follow from the lag [steps]."""
    steps: Annotated[int, Ge(100)] = 5000
    """The stream, rounded to whole sequences; as many updates [steps]."""
    rows: PositiveInt = 4
    """Rows of the stream."""
    hidden_size: PositiveInt = 16
    """H [units]."""
    seeds: PositiveInt = 3
    """Streams and networks at each point."""
    rates: lab.Distinct[PositiveFloat] = (1e-3, 3e-3, 1e-2)
    """Learning rates; ten times as large for sgd."""
    optimizers: lab.Distinct[Literal["rmsprop", "adam", "sgd"]] = ("rmsprop", "sgd")
    """Of Optax, with its defaults: the first for all rules, the others for RTRL and Immediate."""
    push: NonNegativeFloat = 3.0
    """Standard deviation of the noise in the cart's force [N]."""
    bias_lags: Annotated[int, Ge(2)] = 24
    """Lags at which gradients are compared, on flip_flop with the longest lag [steps]."""
    bias_seeds: PositiveInt = 16
    """Draws of rules that draw random numbers."""

    def check(self) -> None:
        if unknown := set(self.rules) - set(RULES):
            raise lab.UsageError(f"--rules: {', '.join(sorted(unknown))}; choose of {', '.join(RULES)}.")


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


def defined(rule: str, model: Any, inputs: int) -> bool:
    try:
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))
        online.explain(model, params, RULES[rule], input_size=inputs)
    except TypeError:
        return False
    return True


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o = options
    rules = {c: [r for r in o.rules if defined(r, rnnjax.Readout(CELLS[c](2), 1), 1)] for c in o.cells}
    common = {"rows": o.rows, "hidden_size": o.hidden_size, "seed": o.seed}
    points = [
        {"task": task, "lag": lag, "cell": cell, "rule": rule, "optimizer": optimizer, "rate": rate, "index": index}
        | {"length": o.length, "steps": o.steps, "push": o.push} | common
        for task in o.tasks
        for lag in (o.lags if task != "cart_pole" else (1,))
        for cell in o.cells
        for i, optimizer in enumerate(o.optimizers)
        for rule in rules[cell] if i == 0 or rule in CLAIM
        for rate in o.rates
        for index in range(o.seeds)
    ]  # fmt: skip
    compared = [
        {"cell": cell, "rules": rules[cell], "lag": max(o.lags), "lags": o.bias_lags, "draws": o.bias_seeds} | common
        for cell in o.cells
    ]
    found = run.rows(learned, points, "networks", together=("task", "lag", "cell", "rule", "optimizer"))
    return found + run.rows(biased, compared, "gradients")


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    from experiments.learning_rules import figures

    figures.draw(rows, page)


experiment = lab.Experiment(Options, measure, draw)

"""Learning without going back in time: what each rule of `rnnjax.online` learns, at what cost, and why.

Question: what is a rule's approximate gradient worth, by cell and lag, and do immediate derivatives match RTRL?
Command: python -m experiments.learning_rules
Minutes: 60 on two cores; with --quick 2.
Expected: an exact gradient is not always the best teacher. On flip_flop at lag 16 the leaky network ends at a success
of 0.75 by RTRL, 0.91 by TBPTT-50, 0.94 through 4 steps and 0.97 by immediate derivatives (medians of 3 seeds). RTRL
and TBPTT-50 are both exact for parameters at rest; with an update at every step, RTRL's trace is of older parameters.
Immediate derivatives match RTRL on flip_flop and cart_pole, and fail at copy, where no step between a symbol and its
repetition is scored: with rmsprop they are within 0.05 of RTRL, or above, in 15 of 28 settings.
The bias of a truncated rule is the exact gradient of the lags that it leaves out, which falls as the adjoint does;
unbiased rules pay in variance.

A stream of new sequences, each begun with a reset, is learned with an update at every step; a loss counts before its
update, so it is a test. Success is 1 - loss / loss of a predictor without memory, over the last tenth of the stream.
All rules see the same streams from the same parameters. Of the learning rates, the best for each rule is shown, by the
median over seeds of this very success, which favours all rules alike.

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

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from .. import lab
from .training import CLAIM, RULES, biased, defined, learned

_QUICK = {"tasks": ("adding", "flip_flop", "cart_pole"), "cells": ("leaky",), "lags": (4,), "steps": 1000, "seeds": 1}
_QUICK |= {"rates": (3e-3,), "hidden_size": 8, "bias_lags": 12, "bias_seeds": 4}
Task = Literal["adding", "copy", "flip_flop", "cart_pole"]


@lab.options(quick=_QUICK)
class Options(lab.Options):
    """Online learning by rule, cell, task and lag."""

    tasks: lab.Distinct[Task] = ("adding", "copy", "flip_flop", "cart_pole")
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


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    o = options
    rules = {c: [r for r in o.rules if defined(r, c)] for c in o.cells}
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
    from . import figures

    figures.draw(rows, page)


experiment = lab.Experiment(Options, measure, draw)

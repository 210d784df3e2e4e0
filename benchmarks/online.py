"""Exact gradients without going back in time: our RTRL and braintrace's, on one layer.

Question: how many steps per second does exact real-time recurrent learning make, here and in braintrace?
Command: python -m benchmarks.online --json benchmarks/results/online.json --figures benchmarks/results
Minutes: 3 on two cores; with --quick 1.
Expected: all gradients agree; rnnjax takes as many steps per second as braintrace, or more, at every H.

The layer is h_t = tanh(x_t W_x + h_{t-1} W_h + b) of one row, and the loss of a step a weighted sum of h_t.
  rnnjax        `online.RTRL`, which propagates the whole influence matrix of such a layer
  braintrace    `SnAp` with n = 2, whose pattern holds everything at a dense W_h (`ValinaRNNCell`)
  backpropagation    through all steps, by `rnnjax.unroll`: in memory that grows with T
One call learns all T steps, with the parameters fixed, and returns the sum of the gradients.
"""

# pyright: reportMissingImports=false
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from pydantic import PositiveInt

import rnnjax
from rnnjax import online

from . import contest, harness, lab, machine, style
from .libraries import require
from .problems import Point, Problem, make_problem

TASK = "gradient"
FEATURES = 3


@lab.options(quick={"hidden": (32, 64), "steps": 100, "rounds": 3})
class Options(harness.Options):
    """Options of online."""

    hidden: lab.Distinct[PositiveInt] = (32, 64, 128)
    """Numbers of units H."""
    steps: PositiveInt = 200
    """Length T [steps]."""


def measure(options: Options, run: harness.Run) -> None:
    for H in options.hidden:
        problem = make_problem("elman", Point(1, options.steps, FEATURES, H), seed=options.seed)
        directions = np.random.default_rng(options.seed + 1).normal(size=(options.steps, H)).astype("float32")
        builders = {"rnnjax": ours, "braintrace": braintrace, "backpropagation": backpropagation}
        made = [
            contest.Contestant(
                name, functools.partial(build, problem, directions), record={"version": machine.versions((name,))[name]}
            )
            for name, build in builders.items()
        ]
        run.add(run.contest({"H": H, "T": options.steps, "updates": options.steps}, made))


def _params(problem: Problem) -> rnnjax.ElmanParams:
    return rnnjax.ElmanParams(**{name: jnp.asarray(value) for name, value in problem.weights.items()})


def _shared(gradient: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in gradient._asdict().items()}


def ours(problem: Problem, directions: np.ndarray) -> dict[str, contest.Program]:
    cell, rule = rnnjax.Elman(problem.point.H), online.RTRL()

    def gradient(params: Any, xs: Array, directions: Array) -> Any:
        def step(state: Any, now: tuple[Array, Array]) -> tuple[Any, None]:
            carry, trace, summed = state
            found = rule.step(cell, params, carry, trace, now[0], lambda y: now[1])
            return (found.carry, found.trace, jax.tree.map(jnp.add, summed, found.gradient)), None

        start = cell.initial_carry(params), rule.init(cell, params), jax.tree.map(jnp.zeros_like, params)
        return lax.scan(step, start, (xs, directions))[0][2]

    arguments = _params(problem), problem.xs[:, 0], directions
    return {TASK: contest.compiled(gradient, *arguments, shared=_shared)}


def backpropagation(problem: Problem, directions: np.ndarray) -> dict[str, contest.Program]:
    cell = rnnjax.Elman(problem.point.H)

    def loss(params: Any, xs: Array, directions: Array) -> Array:
        return (rnnjax.unroll(cell, params, xs)[1] * directions).sum()

    arguments = _params(problem), problem.xs[:, 0], directions
    return {TASK: contest.compiled(jax.grad(loss), *arguments, shared=_shared)}


def braintrace(problem: Problem, directions: np.ndarray) -> dict[str, contest.Program]:
    """Its gradient is the mean over steps; the shared form is the sum."""
    require("braintrace")
    x64 = jax.config.read("jax_enable_x64")
    import brainstate
    import braintrace

    jax.config.update("jax_enable_x64", x64)  # their import sets it to False
    (_, T, D, H), weights = problem.point, problem.weights
    network = braintrace.nn.ValinaRNNCell(D, H, activation="tanh")
    brainstate.nn.init_all_states(network)
    (state,) = network.states(brainstate.ParamState).values()
    state.value = {"weight": jnp.concatenate([weights["w_x"], weights["w_h"]]), "bias": jnp.asarray(weights["b"])}
    hidden = list(network.states(brainstate.HiddenState).values())
    given = jnp.asarray(problem.xs[:, 0]), jnp.asarray(directions)
    with warnings.catch_warnings():  # it says that its pattern is full
        warnings.simplefilter("ignore")
        learner = braintrace.compile(network, braintrace.SnAp, given[0][0], n=2)

    @brainstate.transform.jit
    def gradient(xs: Array, directions: Array) -> Any:
        for each in hidden:
            each.value = jnp.zeros(H, given[0].dtype)
        learner.reset_state()
        return learner.etrace_grad(xs, directions, step_fn=lambda x, direction: (learner(x) * direction).sum())

    def shared(result: Any) -> dict[str, np.ndarray]:
        leaves = {np.ndim(leaf): T * np.asarray(leaf) for leaf in jax.tree.leaves(result)}
        return {"w_x": leaves[2][:D], "w_h": leaves[2][D:], "b": leaves[1]}

    return {TASK: contest.Program(lambda: jax.block_until_ready(gradient(*given)), shared)}


def draw(result: Mapping[str, Any], page: Any) -> None:
    points = result["points"]
    fig, axes = style.figures(1, 1, 6.0, 4.4)
    harness.plot_lines(axes[0, 0], points, "H", TASK, "unit_ms", harness.names(points))
    axes[0, 0].set(xlabel="hidden units H [count]", ylabel="time of a step [ms]")
    harness.save(
        page, "online", fig, axes, f"Exact gradients of a tanh layer, T = {points[0]['T']}",
        "Time of a step against the number of units, for rnnjax, braintrace and backpropagation",
    )  # fmt: skip


benchmark = harness.Benchmark(Options, measure, draw)

if __name__ == "__main__":
    benchmark.main()

"""What a training step keeps between its forward and its backward pass, as the sequence grows.

Question: how much temporary memory does a training step need at length T, with each engine and each checkpoint policy,
and what does less memory cost in time?
Command: python -m benchmarks.memory --json benchmarks/results/memory.json --figures benchmarks/results
Minutes: about 25 on two cores; with --quick 2.
Expected: memory grows in proportion to T without checkpoints, and as the square root of T with `checkpoint="sqrt"`,
which at T = 10,000 needs 50 to 90 times less when the loss depends on the last output (target: 20, for at most 1.6
times the time). When it depends on every output, these and their gradients are T times B times H numbers that no
policy can save, and it is 7 to 10 times less.

The memory is what XLA's buffer assignment plans for intermediate values: exact, and the same on a busy machine.
Parameters, inputs and their gradients come on top and are the same for all. Beside our own policies are the two that
people write by hand around `jax.lax.scan`: `jax.checkpoint` on the step, and a scan over checkpointed scans of √T
steps.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from pydantic import PositiveFloat, PositiveInt

import rnnjax

from . import contest, harness, lab, ours, style
from .problems import CellName, Point, Problem, SizeText, make_problem

Step = Callable[[Any, Array], tuple[Any, Array]]


@lab.options(quick={"steps": (100, 1000), "rounds": 3, "jitted_steps": 0})
class Options(harness.Options):
    """Options of memory."""

    cell: CellName = "lstm"
    """The cell."""
    size: SizeText = "8,32,64"
    """B,D,H."""
    losses: lab.Distinct[Literal["last", "every"]] = ("last", "every")
    """Whether the loss depends on the last output or on every one."""
    steps: lab.Distinct[PositiveInt] = (100, 300, 1000, 3000, 10000, 30000, 100000)
    """Lengths T [steps]."""
    every: PositiveInt = 100
    """A policy that keeps a carry every so many steps [steps]."""
    budget_mib: PositiveFloat = 16.0
    """A policy that keeps to this much memory [MiB]."""
    jitted_steps: int = 100
    """The jitted loop is left out beyond this length: its compile time grows faster than T [steps]."""


def measure(options: Options, run: harness.Run) -> None:
    for T in options.steps:
        problem = make_problem(options.cell, Point.of_size(options.size, T), seed=options.seed)
        for loss in options.losses:
            where = {"cell": options.cell, "size": options.size, "loss": loss, "T": T}
            run.add(run.contest(where, contestants(problem, options, loss == "last"), problem.forward_flops))


def contestants(problem: Problem, options: Options, last: bool) -> list[contest.Contestant]:
    """A plain scan first, then every engine with every policy, then what is written by hand."""
    policies = {f"every {options.every}": options.every, "sqrt": "sqrt"}
    policies[f"within {options.budget_mib:g} MiB"] = rnnjax.MemoryBudget(int(options.budget_mib * 2**20))
    make, made = functools.partial(ours.contestant, last=last, tasks=("train",), limit_bytes=options.limit_bytes), []
    for engine in ("scan", *ours.FAST_ENGINES):
        made.append(make(engine, problem, engine))
        for policy, checkpoint in policies.items():
            made.append(make(f"{engine}, {policy}", problem, engine, options={"checkpoint": checkpoint}))
    if options.jitted_steps >= problem.point.T:
        made.append(make("jitted loop", problem, "loop"))
    else:
        reason = f"beyond --jitted-steps {options.jitted_steps}, its compile time grows faster than T"
        made.append(contest.Contestant("jitted loop", left_out=reason))
    made.append(contest.Contestant("eager loop", left_out="not one program: nothing plans its memory"))
    made.append(make("by hand: checkpointed step", problem, run=functools.partial(_by_hand, problem, scan_of_steps)))
    made.append(make("by hand: √T stretches", problem, run=functools.partial(_by_hand, problem, scan_of_scans)))
    return made


def _by_hand(problem: Problem, unrolled: Callable, params: Any, xs: Array, lengths: Any) -> tuple[Any, Array]:
    cell = ours.cell_of(problem)
    carry = cell.initial_carry(params, (problem.point.B,))
    return unrolled(lambda c, x: cell.step(params, c, x), carry, xs)


def scan_of_steps(step: Step, carry: Any, xs: Array) -> tuple[Any, Array]:
    """Keeps the carries alone. JAX advises `prevent_cse=False` inside a scan: the loop keeps the computations apart."""
    return lax.scan(jax.checkpoint(step, prevent_cse=False), carry, xs)


def scan_of_scans(step: Step, carry: Any, xs: Array) -> tuple[Any, Array]:
    """Keeps every k-th carry, k near √T, and runs each stretch of k steps again in the backward pass.

    A rest that does not fill a stretch is run in a scan of its own.
    """
    steps = xs.shape[0]
    k = max(1, math.isqrt(steps))
    whole = steps // k * k

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def stretch(carry: Any, xs: Array) -> tuple[Any, Array]:
        return lax.scan(step, carry, xs)

    carry, ys = lax.scan(stretch, carry, xs[:whole].reshape(steps // k, k, *xs.shape[1:]))
    ys = ys.reshape(whole, *ys.shape[2:])
    if whole == steps:
        return carry, ys
    carry, rest = stretch(carry, xs[whole:])
    return carry, jnp.concatenate([ys, rest])


def draw(result: Mapping[str, Any], page: Any) -> None:
    """A row of panels for each loss, over T: temporary memory, and time with the matmul floor."""
    losses = [loss for loss in ("last", "every") if any(point["loss"] == loss for point in result["points"])]
    fig, axes = style.figures(len(losses), 2, 9.5, 3.1 * len(losses) + 1.6, sharex=True, sharey="col")
    for row, loss in zip(axes, losses, strict=True):
        points = [point for point in result["points"] if point["loss"] == loss]
        labels = {"temporary memory [MiB]": "temp_mib", "time of a training step [ms]": "median_ms"}
        for ax, (label, key) in zip(row, labels.items(), strict=True):
            harness.plot_lines(ax, points, "T", "train", key, harness.names(result["points"]))
            ax.set(ylabel=label, title=f"loss of {'the last output' if loss == 'last' else 'every output'}")
    for ax in axes[-1]:
        ax.set_xlabel("length T [steps]")
    cell, (B, D, H) = result["points"][0]["cell"].upper(), result["points"][0]["size"].split(",")
    title = f"{cell}, batch {B}, {D} features, {H} hidden units: forward and gradient"
    alt = "Temporary memory and time of a training step against length, by engine and checkpoint policy"
    harness.save(page, "memory", fig, axes, title, alt)


benchmark = harness.Benchmark(Options, measure, draw)

if __name__ == "__main__":
    benchmark.main()

"""What was tried to make the hoisted engine faster: each idea against the engine as it is.

Question: which of the ideas for a faster time loop help, at which sizes, and which are in the engine for a reason?
Command: python -m benchmarks.tried --json benchmarks/results/tried.json --figures benchmarks/results
Minutes: about 4 on two cores; with --quick 1.
Expected: no idea that is not in the engine is faster over all points; without those that are, it is slower at some.

Two contests per point. The first runs rnnjax on one device, with one thing changed at a time:
  unroll 2, unroll 4        so many steps in the body of the loop
  in 4 chunks               the input's projection for a quarter of the time at once
  slopes in the loop        always, where the engine decides by the size of a step
  slopes after the loop     the same, never
  projection whole          everything that needs no carry before the loop, elementwise parts too
  two halves                the batch as two independent loops in one program
The second is the loop's matrix product with a tanh and nothing else, forward and backward, in other orders:
  h W                       as it is: state [B, H], weight [H, G H]
  (W h)                     state [H, B], weight [G H, H]
  h (Wᵀ)ᵀ                   state [B, H], weight [G H, H] contracted over its last axis
  a product a gate          G weights [H, H]
"""

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import rnnjax
from rnnjax._unroll import hoist, reading

from . import contest, harness, lab, ours, style
from .harness import divided, geomean, number
from .problems import GATES, GRID, CellName, Point, PointText, Problem, make_problem


@lab.options(quick={"cells": ("lstm",), "points": ("8,200,32,64", "32,100,64,128"), "rounds": 3})
class Options(harness.Options):
    """Options of tried."""

    cells: lab.Distinct[CellName] = ("lstm", "gru")
    """The cells."""
    points: lab.Distinct[PointText] = GRID[1:6]
    """Sizes, each as B,T,D,H."""


def measure(options: Options, run: harness.Run) -> None:
    for point in options.points:
        for cell in options.cells:
            problem = make_problem(cell, Point.parse(point), seed=options.seed)
            for name, contestants in (("engine", engine), ("order of the product", orders)):
                run.add(run.contest({"contest": name, "cell": cell, "point": point}, contestants(problem)))


def engine(problem: Problem) -> Iterator[contest.Contestant]:
    """The engine as it is first: it is the reference."""

    def hoisted(name: str, **options: Any) -> contest.Contestant:
        return ours.contestant(name, problem, "hoisted", options=options)

    def patched(name: str, module: Any, **changes: Any) -> contest.Contestant:
        """Builds, which traces, with names of a module of the engine replaced."""

        def build() -> Mapping[str, contest.Program]:
            with mock.patch.multiple(module, **changes):
                return hoisted(name).build()

        return contest.Contestant(name, build)

    def two_halves(params: Any, xs: Array, lengths: Any) -> tuple[None, Array]:
        B = problem.point.B
        if B < 2:
            raise contest.LeftOut("one row has no halves")
        cell = ours.cell_of(problem)
        halves = [rnnjax.unroll(cell, params, part, engine="hoisted")[1] for part in jnp.split(xs, [B // 2], 1)]
        return None, jnp.concatenate(halves, 1)

    yield hoisted("as it is")
    yield hoisted("unroll 2", unroll=2)
    yield hoisted("unroll 4", unroll=4)
    yield hoisted("in 4 chunks", chunk=-(-problem.point.T // 4))
    yield patched("slopes in the loop", hoist, _LARGE_STEP=0)
    yield patched("slopes after the loop", hoist, _LARGE_STEP=math.inf)
    yield patched("projection whole", reading, _CHEAP=frozenset(), _READINGS=weakref.WeakKeyDictionary())
    yield ours.contestant("two halves", problem, run=two_halves)


def orders(problem: Problem) -> Iterator[contest.Contestant]:
    """The loop's product alone, h_t = Σ over gates of tanh((h_{t-1} W)_gate + u_t) / G, in other orders.

    Each step is `(weights, h, u_t) -> h`, given the weights [H, G H] in its own layout, and the state in its own.
    """
    gates, w = GATES[problem.cell], problem.weights["w_h"]

    def summed(r: Array, axis: int) -> Array:
        return jnp.asarray(sum(jnp.tanh(part) for part in jnp.split(r, gates, axis))) / gates

    def transposed(w: Array, h: Array, u: Array) -> Array:
        return summed(lax.dot_general(h, w, (((1,), (1,)), ((), ()))) + u, 1)

    def each(ws: tuple[Array, ...], h: Array, u: Array) -> Array:
        parts = jnp.split(u, gates, 1)
        return jnp.asarray(sum(jnp.tanh(h @ w + part) for w, part in zip(ws, parts, strict=True))) / gates

    yield _order("h W", problem, lambda w, h, u: summed(h @ w + u, 1), w, jnp.asarray)
    columns, turn = (lambda w, h, u: summed(w @ h + u, 0)), (lambda array: array.swapaxes(-1, -2))
    yield _order("(W h)", problem, columns, w.T.copy(), lambda dw: dw.T, turn)
    yield _order("h (Wᵀ)ᵀ", problem, transposed, w.T.copy(), lambda dw: dw.T)
    split = tuple(np.split(w, gates, 1))
    yield _order("a product a gate", problem, each, split, lambda dws: jnp.concatenate(dws, 1))


def _order(
    name: str, problem: Problem, step: Callable, weights: Any, read: Callable, turn: Callable = lambda array: array
) -> contest.Contestant:
    B, T, _, H = problem.point
    us = turn(np.random.default_rng(0).normal(size=(T, B, GATES[problem.cell] * H)).astype(np.float32))

    def forward(weights: Any, us: Array) -> Array:
        return lax.scan(lambda h, u: (step(weights, h, u),) * 2, turn(jnp.zeros((B, H), us.dtype)), us)[1]

    gradient = jax.grad(lambda weights, us: (forward(weights, us) ** 2).sum())

    def build() -> dict[str, contest.Program]:
        return {
            "forward": contest.compiled(forward, weights, us, shared=lambda ys: {"ys": turn(np.asarray(ys))}),
            "train": contest.compiled(gradient, weights, us, shared=lambda dw: {"w_h": np.asarray(read(dw))}),
        }

    return contest.Contestant(name, build)


def draw(result: Mapping[str, Any], page: Any) -> None:
    """1 is the reference; right of it an idea is faster. Open marks are points, the filled one is their mean."""
    points = [(next(iter(harness.by_name(point))), point) for point in result["points"]]  # each with its reference
    references = {reference for reference, _ in points}
    every = [name for name in harness.names(result["points"]) if name not in references]
    fig, axes = style.figures(1, 2, 9.5, 0.34 * len(every) + 1.8, sharey=True, sharex=True)
    for ax, (task, title) in zip(axes[0], {"forward": "forward", "train": "training step"}.items(), strict=True):
        for y, idea in enumerate(every):
            found = [divided(number(point, first, task), number(point, idea, task)) for first, point in points]
            if values := [value for value in found if value is not None]:
                ax.plot(values, [y] * len(values), "o", color=style.GREY, markerfacecolor="none")
                ax.plot(geomean(values), y, "D", color=style.BLUE, markersize=8)
        ax.axvline(1.0, color="#555555", linewidth=1)
        ax.set(xscale="log", title=title, xlabel="times as fast as the reference [1]")
        ax.set_xticks([0.5, 0.7, 1, 1.4], ["0.5", "0.7", "1", "1.4"])
        ax.minorticks_off()
    axes[0, 0].set_yticks(range(len(every)), every)
    axes[0, 0].invert_yaxis()
    title = "Ideas against the engine as it is (open: a cell and size; filled: their geometric mean)"
    harness.save(page, "tried", fig, axes, title, "Speed of each idea over the engine's; no mean lies above 1")


benchmark = harness.Benchmark(Options, measure, draw)

if __name__ == "__main__":
    benchmark.main()

"""rnnjax as a contestant: which engines there are, and one forward pass and one training step of each."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

import rnnjax
from rnnjax import cells, sharding

from . import contest
from .problems import Problem, params_of, programs

FAST_ENGINES = ("hoisted",)
"""Engines for every cell, beside scan and loop; "associative" is for cells that are linear in their carry, "parallel"
for few units that do not grow chaotic."""


def contestant(
    name: str,
    problem: Problem,
    engine: str = "auto",
    *,
    run: Callable[[Any, Array, Array | None], tuple[Any, Array]] | None = None,
    options: Mapping[str, Any] | None = None,
    devices: int = 1,
    generic: bool = False,
    last: bool = False,
    **compiling: Any,
) -> contest.Contestant:
    """`name` runs `problem`.

    Args:
      engine, options: of `rnnjax.unroll`.
      run: `(params, xs, lengths) -> (carry, ys)` in another way than `rnnjax.unroll`.
      devices: over how many devices the batch is split.
      generic: the cell is its step alone, as a user's own would be.
      last: the loss of a training step depends on the last output alone, not on every one.
      compiling: see `problems.programs`.
    """
    params_type = type(params_of(problem.cell, problem.point.D, problem.point.H))

    def unrolled(params: Any, xs: Array, lengths: Array | None) -> tuple[Any, Array]:
        cell = cell_of(problem)
        if generic:
            cell = rnnjax.StepCell(step_function=cell.step, initial_carry_function=cell.initial_carry)
        unroll: Callable = rnnjax.unroll
        if devices > 1:
            unroll = functools.partial(sharding.unroll, mesh=mesh(devices, problem.point.B, "rows"))
        return unroll(cell, params, xs, lengths=lengths, engine=engine, **(options or {}))

    def outputs(params: Any, xs: Array, lengths: Array | None) -> Array:
        carry, ys = (run or unrolled)(params, xs, lengths)
        return getattr(carry, "h", carry) if last else ys  # the carry holds the last output

    def place(params: Any, xs: Array, lengths: Array | None) -> tuple[Any, Array, Array | None]:
        if devices == 1:
            return params, xs, lengths
        over = mesh(devices, problem.point.B, "rows")
        lengths = None if lengths is None else sharding.place(lengths, over, 0)
        return sharding.place(params, over), sharding.place(xs, over, 1), lengths

    settings = {"place": place, "devices": devices, **compiling}
    build = functools.partial(programs, problem, outputs, lambda weights: params_type(**weights), **settings)
    return contest.Contestant(name, build)


def cell_of(problem: Problem) -> Any:
    return cells.catalogue()[problem.cell](problem.point.H)


def mesh(devices: int, count: int, what: str) -> Mesh:
    """The first `devices` devices; raises `LeftOut` where there are fewer, or `count` things cannot be split evenly."""
    if len(jax.devices()) < devices:
        raise contest.LeftOut(f"{devices} devices are asked for, JAX has {len(jax.devices())}")
    if count % devices:
        raise contest.LeftOut(f"{count} {what} cannot be split evenly over {devices} devices")
    return sharding.make_mesh(jax.devices()[:devices])


def spread(count: int, few: int) -> list[int]:
    """Which of `count` settings the slow contestants are run on: `few`, evenly over all."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(few, count))})

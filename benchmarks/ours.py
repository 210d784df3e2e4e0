"""rnnjax as a contestant: which engines there are, and one forward pass and one training step of each."""

import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

import rnnjax
from benchmarks import contest
from benchmarks.problems import Problem
from rnnjax import sharding
from rnnjax._unroll import Engine

CELLS: dict[str, tuple[type, type]] = {
    "lstm": (rnnjax.LSTM, rnnjax.LSTMParams),
    "gru": (rnnjax.GRU, rnnjax.GRUParams),
    "elman": (rnnjax.Elman, rnnjax.ElmanParams),
}

FAST_ENGINES = tuple(engine for engine in typing.get_args(Engine) if engine not in ("auto", "loop", "scan"))
"""A new engine of `rnnjax.unroll` joins the benchmarks by itself."""

Run = Callable[[Any, Array, Array | None], tuple[Any, Array]]
"""`(params, xs, lengths) -> (carry, ys)`."""


def contestant(
    name: str,
    problem: Problem,
    engine: str = "auto",
    *,
    run: Run | None = None,
    options: Mapping[str, Any] | None = None,
    devices: int = 1,
    jit: bool = True,
    generic: bool = False,
    last: bool = False,
    tasks: tuple[str, ...] = ("forward", "train"),
    **compiling: Any,
) -> contest.Contestant:
    """`name` runs `problem`; results in the shared form of `problem.weights`, "xs", "ys" and "loss".

    Args:
      engine, options: of `rnnjax.unroll`.
      run: computes in another way than `rnnjax.unroll`.
      devices: over how many devices the batch is split.
      jit: False runs it eagerly, as written.
      generic: the cell is its step alone, as a user's own would be.
      last: the loss of a training step depends on the last output alone, not on every one.
      compiling: see `contest.compiled`.
    """

    def unrolled(params: Any, xs: Array, lengths: Array | None) -> tuple[Any, Array]:
        cell = cell_of(problem)
        if generic:
            cell = rnnjax.StepCell(step_function=cell.step, initial_carry_function=cell.initial_carry)
        unroll: Callable = rnnjax.unroll
        if devices > 1:
            unroll = functools.partial(sharding.unroll, mesh=mesh(devices, problem.point.B, "rows"))
        return unroll(cell, params, xs, lengths=lengths, engine=engine, **(options or {}))

    both = run or unrolled

    def forward(params: Any, xs: Array, lengths: Array | None) -> Array:
        return both(params, xs, lengths)[1]

    def loss(params: Any, xs: Array, lengths: Array | None) -> Array:
        carry, ys = both(params, xs, lengths)
        return ((getattr(carry, "h", carry) if last else ys) ** 2).sum()  # the carry holds the last output

    def gradients(result: Any) -> dict[str, Any]:
        loss, (params, xs) = result
        return {**{name: np.asarray(value) for name, value in params._asdict().items()}, "xs": xs, "loss": loss}

    def build() -> dict[str, contest.Program]:
        arguments = _placed(problem, devices)
        functions: dict[str, tuple[Callable, Callable]] = {
            "forward": (forward, lambda ys: {"ys": ys}),
            "train": (jax.value_and_grad(loss, argnums=(0, 1)), gradients),
        }
        programs = {}
        for task in tasks:
            function, shared = functions[task]
            if jit:
                programs[task] = contest.compiled(function, *arguments, shared=shared, devices=devices, **compiling)
            else:
                call = functools.partial(lambda f: jax.block_until_ready(f(*arguments)), function)
                programs[task] = contest.Program(call, shared)
        return programs

    return contest.Contestant(name, build)


def cell_of(problem: Problem) -> Any:
    """The cell of a problem as rnnjax has it."""
    return CELLS[problem.cell][0](problem.point.H)


def _placed(problem: Problem, devices: int) -> tuple[Any, Array, Array | None]:
    """`(params, xs, lengths)` on the device, or with the batch split over the first `devices`."""
    params = CELLS[problem.cell][1](**{name: jnp.asarray(value) for name, value in problem.weights.items()})
    xs = jnp.asarray(problem.xs)
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)
    if devices == 1:
        return params, xs, lengths
    over = mesh(devices, problem.point.B, "rows")
    lengths = None if lengths is None else sharding.place(lengths, over, 0)
    return sharding.place(params, over), sharding.place(xs, over, 1), lengths


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

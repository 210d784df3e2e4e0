"""rnnjax as a contestant: which engines there are, and one forward pass and one training step of each."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to run a cell over time.

    Attributes:
      engine: of `rnnjax.unroll`.
      options: further arguments of `rnnjax.unroll`.
      devices: over how many devices the batch is split.
      jit: False runs it eagerly, as written.
      generic: the cell is given by the methods of the protocol alone, as a user's own would be.
      last: the loss of a training step depends on the last output alone, not on every one.
    """

    engine: str = "auto"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    devices: int = 1
    jit: bool = True
    generic: bool = False
    last: bool = False


@dataclasses.dataclass(frozen=True)
class Generic:
    """A cell with the protocol's methods and no others: nothing that an engine could treat specially."""

    cell: Any

    def init(self, key: Array, input_size: int, dtype: Any = None) -> Any:
        return self.cell.init(key, input_size, dtype)

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: Any, carry: Any, x: Array) -> tuple[Any, Any]:
        return self.cell.step(params, carry, x)


def contestant(
    name: str, problem: Problem, way: Way, *, tasks: tuple[str, ...] = ("forward", "train"), **compiling: Any
) -> contest.Contestant:
    """`name` runs `problem` in this `way`; results in the shared form of `problem.weights`, "xs", "ys" and "loss"."""

    def build() -> dict[str, contest.Program]:
        forward, train = functions(problem, way)
        arguments = placed(problem, way.devices)
        programs = {}
        for task, function, shared in (("forward", forward, outputs), ("train", train, gradients)):
            if task in tasks and way.jit:
                settings = {"devices": way.devices, **compiling}
                programs[task] = contest.compiled(function, *arguments, shared=shared, **settings)
            elif task in tasks:
                call = functools.partial(lambda f: jax.block_until_ready(f(*arguments)), function)
                programs[task] = contest.Program(call, shared)
        return programs

    return contest.Contestant(name, build)


def functions(problem: Problem, way: Way) -> tuple[Callable[..., Array], Callable[..., Any]]:
    """`forward(params, xs, lengths)` and `train(params, xs, lengths)`, split over devices where the way says so."""
    cell = Generic(cell_of(problem)) if way.generic else cell_of(problem)
    unroll: Callable = rnnjax.unroll
    if way.devices > 1:
        unroll = functools.partial(sharding.unroll, mesh=mesh(way.devices, problem.point.B, "rows"))

    def run(params: Any, xs: Array, lengths: Array | None) -> tuple[Any, Array]:
        return unroll(cell, params, xs, lengths=lengths, engine=way.engine, **way.options)

    def forward(params: Any, xs: Array, lengths: Array | None) -> Array:
        return run(params, xs, lengths)[1]

    def loss(params: Any, xs: Array, lengths: Array | None) -> Array:
        carry, ys = run(params, xs, lengths)
        return ((last_output(carry) if way.last else ys) ** 2).sum()

    return forward, jax.value_and_grad(loss, argnums=(0, 1))


def cell_of(problem: Problem) -> Any:
    """The cell of a problem as rnnjax has it."""
    return CELLS[problem.cell][0](problem.point.H)


def last_output(carry: Any) -> Array:
    """The output of the last step, which the carry holds: h."""
    return getattr(carry, "h", carry)


def placed(problem: Problem, devices: int) -> tuple[Any, Array, Array | None]:
    """`(params, xs, lengths)` on the device, or with the batch split over the first `devices`."""
    params = CELLS[problem.cell][1](**{name: jnp.asarray(value) for name, value in problem.weights.items()})
    xs = jnp.asarray(problem.xs)
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)
    if devices == 1:
        return params, xs, lengths
    over = mesh(devices, problem.point.B, "rows")
    lengths = None if lengths is None else sharding.place(lengths, over, 0)
    return sharding.place(params, over), sharding.place(xs, over, 1), lengths


def outputs(ys: Array) -> dict[str, Any]:
    return {"ys": ys}


def gradients(result: tuple[Array, tuple[Any, Array]]) -> dict[str, Any]:
    loss, (params, xs) = result
    return {**{name: np.asarray(value) for name, value in params._asdict().items()}, "xs": xs, "loss": loss}


def mesh(devices: int, count: int, what: str) -> Mesh:
    """The first `devices` devices; raises `LeftOut` where there are fewer, or `count` things cannot be split evenly."""
    if len(jax.devices()) < devices:
        raise contest.LeftOut(f"{devices} devices are asked for, JAX has {len(jax.devices())}")
    if count % devices:
        raise contest.LeftOut(f"{count} {what} cannot be split evenly over {devices} devices")
    return sharding.make_mesh(jax.devices()[:devices])

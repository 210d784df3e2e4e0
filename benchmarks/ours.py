"""rnnjax as a contestant: which engines there are, and one forward pass and one training step of each."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

import rnnjax
from benchmarks import harness
from benchmarks.problems import Problem
from rnnjax import sharding
from rnnjax._unroll import Engine

_CELLS: dict[str, tuple[type, type]] = {
    "lstm": (rnnjax.LSTM, rnnjax.LSTMParams),
    "gru": (rnnjax.GRU, rnnjax.GRUParams),
    "elman": (rnnjax.Elman, rnnjax.ElmanParams),
}

ENGINES: tuple[str, ...] = typing.get_args(Engine)
"""Every engine that `rnnjax.unroll` knows, "auto" among them: a new one joins the benchmarks by itself."""

FAST_ENGINES = tuple(engine for engine in ENGINES if engine not in ("auto", "loop", "scan"))

HAS_CHECKPOINT = "checkpoint" in inspect.signature(rnnjax.unroll).parameters


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to run a cell over time.

    Attributes:
      engine: of `rnnjax.unroll`.
      options: further arguments of `rnnjax.unroll`.
      devices: over how many devices the batch is split.
      jit: False runs it eagerly, as written.
      generic: the cell is given by the methods of the protocol alone, as a user's own would be.
      last: the loss of a training step looks at the last output alone, not at every one.
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
    name: str,
    problem: Problem,
    way: Way,
    *,
    tasks: tuple[str, ...] = ("forward", "train"),
    compiles: int = 2,
    limit_bytes: int | None = None,
) -> harness.Contestant:
    """`name` runs `problem` in this `way`; results in the shared form of `problem.weights`, "xs", "ys" and "loss"."""

    def build() -> dict[str, harness.Program]:
        forward, train = functions(problem, way)
        arguments = placed(problem, way.devices)
        chosen = {"forward": (forward, lambda ys: {"ys": ys}), "train": (train, shared_gradients)}
        programs = {}
        for task in tasks:
            function, shared = chosen[task]
            if way.jit:
                programs[task] = harness.compiled(
                    function,
                    *arguments,
                    shared=shared,
                    compiles=compiles,
                    limit_bytes=limit_bytes,
                    devices=way.devices,
                )
            else:
                call = _eager(function, arguments)
                programs[task] = harness.Program(call, shared)
        return programs

    return harness.Contestant(name, build)


def functions(problem: Problem, way: Way) -> tuple[Callable[..., Array], Callable[..., Any]]:
    """`forward(params, xs, lengths)` and `train(params, xs, lengths)`, split over devices where the way says so."""
    cell = Generic(cell_of(problem)) if way.generic else cell_of(problem)
    unroll: Callable = rnnjax.unroll
    if way.devices > 1:
        unroll = functools.partial(sharding.unroll, mesh=mesh_of(way.devices, problem))

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
    return _CELLS[problem.cell][0](problem.point.H)


def last_output(carry: Any) -> Array:
    """The output of the last step, which the carry holds: h."""
    return getattr(carry, "h", carry)


def placed(problem: Problem, devices: int) -> tuple[Any, Array, Array | None]:
    """`(params, xs, lengths)` on the device, or with the batch split over the first `devices`."""
    _, params_type = _CELLS[problem.cell]
    params = params_type(**{name: jnp.asarray(value) for name, value in problem.weights.items()})
    xs = jnp.asarray(problem.xs)
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)
    if devices == 1:
        return params, xs, lengths
    mesh = mesh_of(devices, problem)
    lengths = None if lengths is None else sharding.place(lengths, mesh, 0)
    return sharding.place(params, mesh), sharding.place(xs, mesh, 1), lengths


def shared_gradients(result: tuple[Array, tuple[Any, Array]]) -> dict[str, Any]:
    loss, (params, xs) = result
    return {**{name: np.asarray(value) for name, value in params._asdict().items()}, "xs": xs, "loss": loss}


def mesh_of(devices: int, problem: Problem) -> Mesh:
    """The first `devices` devices; raises `LeftOut` where there are fewer, or rows that do not go round."""
    if len(jax.devices()) < devices:
        raise harness.LeftOut(f"{devices} devices are asked for, JAX has {len(jax.devices())}")
    if problem.point.B % devices:
        raise harness.LeftOut(f"a batch of {problem.point.B} cannot be split evenly over {devices} devices")
    return sharding.make_mesh(jax.devices()[:devices])


def _eager(function: Callable, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(function(*arguments))

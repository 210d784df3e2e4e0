"""Contestants and measurement of the peers."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Literal

from benchmarks import harness, ours, peers
from benchmarks.floor import floor_row, large_matmul
from benchmarks.peers import dm_haiku, equinox_cells, flax_linen, flax_nnx, keras_layers, pytorch, summary
from benchmarks.problems import GATES, GRID, Point, Problem, make_problem

_QUICK_POINTS = ("8,200,32,64", "32,100,64,128")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of peers."""

    cells: tuple[str, ...] = tuple(GATES)
    """lstm, gru, elman."""
    points: tuple[str, ...] = tuple(map(str, GRID))
    """Sizes, each as B,T,D,H."""
    batches: Literal["dense", "padded", "both"] = "both"
    """Whole sequences, padded batches, or one after the other."""
    engine: str = "auto"
    """The engine of rnnjax that takes part."""
    generic: bool = True
    """Also the same cell without anything but the methods of the protocol, as a user's own would be."""
    doors: bool = True
    """Also Flax's modules with the RNN of `rnnjax.flax` in place of their own."""

    def check(self) -> None:
        super().check()
        if wrong := [cell for cell in self.cells if cell not in GATES]:
            raise ValueError(f"--cells has {wrong[0]!r}; choose from {', '.join(GATES)}.")
        if self.engine not in ours.ENGINES:
            raise ValueError(f"--engine is {self.engine!r}; choose one of {', '.join(ours.ENGINES)}.")
        for point in self.points:
            Point.parse(point)


def measure(run: harness.Run[Options]) -> None:
    for problem, where in problems(run.options):
        entries, matmul = run.contest(where, contestants(problem, run.options), large_matmul())
        floor = floor_row(matmul, problem.forward_flops)
        point = {**where, "floor": floor, "contestants": [entry.row() for entry in entries]}
        run.add({**point, "ratios": summary.ratios(point)})
        run.say(" ".join(map(str, where.values())) + ": done")
    run.result["summary"] = summary.overall(run.result["points"])
    for title, columns, rows in summary.tables(run.result):
        run.table(title, columns, rows)
    if run.options.figures is not None:
        from benchmarks.peers.figure import draw

        for name, figure in draw(run.result):
            run.figure(name, figure)


def problems(o: Options) -> Iterator[tuple[Problem, dict[str, str | bool]]]:
    """Every problem of a run. A padded batch of one row is just a shorter row, so B = 1 has none."""
    kinds = {"dense": (False,), "padded": (True,), "both": (False, True)}[o.batches]
    for padded in kinds:
        points = o.points[-1:] if o.quick and padded and o.points == _QUICK_POINTS else o.points
        for point in map(Point.parse, points):
            for cell in o.cells:
                if not (padded and point.B == 1):
                    where = {"cell": cell, "point": str(point), "padded": padded}
                    yield make_problem(cell, point, padded=padded, seed=o.seed), where


def contestants(problem: Problem, o: Options) -> list[harness.Contestant]:
    """rnnjax first: it is the reference."""
    ways = {summary.OURS: ours.Way(o.engine)}
    if o.devices > 1:
        ways[summary.OURS_SPLIT] = ours.Way(o.engine, devices=o.devices)
    if o.generic:
        ways[summary.OURS_GENERIC] = ours.Way(o.engine, generic=True)
    made = [ours.contestant(name, problem, way, compiles=1) for name, way in ways.items()]
    jax_peers: dict[str, Callable[..., dict[str, harness.Program]]] = {
        "Flax linen": flax_linen.build,
        "Flax nnx": flax_nnx.build,
        "Haiku": dm_haiku.build,
        "Equinox": equinox_cells.build,
        "Keras": keras_layers.build,
    }
    unchecked = {"Haiku": dm_haiku.UNCHECKED.get(problem.cell, "")}
    for name in summary.JAX_PEERS:
        made.append(harness.Contestant(name, functools.partial(jax_peers[name], problem), unchecked.get(name, "")))
    if o.doors:
        for name, door in summary.DOORS.items():
            made.append(harness.Contestant(door, functools.partial(jax_peers[name], problem, ours=True)))
    made.append(harness.Contestant(summary.TORCH, functools.partial(pytorch.build, problem)))
    return made


BENCHMARK = harness.Benchmark(
    "peers",
    peers.__doc__ or "",
    Options,
    measure,
    quick={"points": _QUICK_POINTS, "rounds": 3, "generic": False, "doors": False},
)

"""rnnjax beside Flax linen, Flax nnx, Haiku, Equinox, Keras on JAX, PyTorch and torchrecurrent.

Question: how long do a forward pass and a training step take, against the fastest of the peers at each point, against
PyTorch, and against the matmuls alone?
Command: python -m benchmarks.peers --json benchmarks/results/peers.json --figures benchmarks/results
Minutes: about 20 on two cores; with --quick less than 5.
Expected: the targets are a training step 2 times faster than the fastest JAX peer in the geometric mean over the
reference grid and nowhere under 1.1, no LSTM point slower than PyTorch's, and at most 1.4 times the floor from H = 128
and B = 16 on; and no other cell slower than its peer in training. What was reached is in benchmarks/results/peers.json.

Every peer is given the same weights in its own layout, runs as its own documentation has it, in the layout of time and
batch that costs it least, with the same allocator and cores, compiled ahead. Its outputs and gradients are compared
with rnnjax's before it is timed. Where a peer's cell is another function (Haiku's GRU resets before the product, its
vanilla RNN is a ReLU) it is timed and marked as not compared. Padded batches go through each peer's own lengths or
mask: `seq_lengths` in Flax, `mask` in Keras, packed sequences in PyTorch; Haiku and Equinox have none.

Other cells of the catalogue that a peer has run at one size, in whole sequences. Most of these peers are of
torchrecurrent, whose cells are eager PyTorch in a Python loop over time.

Install the peers with `pip install 'rnnjax[peers]'`; those that are missing are named and left out.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rnnjax._unroll import EngineName
from rnnjax.cells import catalogue

from . import contest, harness, lab, libraries, ours, style
from .harness import divided, floor_ms, geomean, number
from .problems import GATES, GRID, AnyCell, CellName, Point, PointText, Problem, make_problem

OURS, OURS_SPLIT, OURS_GENERIC = "rnnjax", "rnnjax, split", "rnnjax, generic"
JAX_PEERS: dict[str, Callable[..., libraries.Programs]] = {"Flax linen": libraries.flax_linen}
JAX_PEERS |= {"Flax nnx": libraries.flax_nnx, "Haiku": libraries.haiku}
JAX_PEERS |= {"Equinox": libraries.equinox, "Keras": libraries.keras}
TORCH, TORCHRECURRENT = "PyTorch", "torchrecurrent"
DOORS = {"Flax linen": "rnnjax in linen", "Flax nnx": "rnnjax in nnx"}  # Flax's own RNN, and ours in its place
TASKS = {"forward": "forward", "train": "training step"}

OTHERS = ("irnn", "lstm_projected", "gru_reset_before")
OTHERS += tuple(name for name, make in catalogue().items() if type(make(2)) in libraries.TORCHRECURRENT)
"""The other cells that a peer has."""

_QUICK_POINTS, _QUICK_OTHERS = ("8,200,32,64", "32,100,64,128"), ("gru_reset_before", "mgu", "ugrnn")


@lab.options(quick={"points": _QUICK_POINTS, "others": _QUICK_OTHERS, "rounds": 3, "generic": False, "doors": False})
class Options(harness.Options):
    """Options of peers."""

    cells: lab.Distinct[CellName] = tuple(GATES)  # pyright: ignore[reportAssignmentType]
    """The cells."""
    points: lab.Distinct[PointText] = GRID
    """Sizes, each as B,T,D,H."""
    others: lab.Distinct[AnyCell] = OTHERS
    """Other cells."""
    others_point: PointText = "32,100,64,64"
    """The size of the other cells, as B,T,D,H."""
    batches: Literal["dense", "padded", "both"] = "both"
    """Whole sequences, padded batches, or one after the other."""
    engine: EngineName = "auto"
    """The engine of rnnjax that takes part."""
    generic: bool = True
    """Also the same cell as a bare step, as a user's own would be."""
    doors: bool = True
    """Also Flax's modules with the RNN of `rnnjax.flax` in place of their own."""


def measure(options: Options, run: harness.Run) -> None:
    """Every point. A padded batch of one row is just a shorter row, so B = 1 has none."""
    for padded in {"dense": (False,), "padded": (True,), "both": (False, True)}[options.batches]:
        points = options.points[-1:] if options.quick and padded and options.points == _QUICK_POINTS else options.points
        for text in points:
            for cell in options.cells if not padded or Point.parse(text).B > 1 else ():
                problem = make_problem(cell, Point.parse(text), padded=padded, seed=options.seed)
                where = {"cell": cell, "point": text, "padded": padded}
                point = run.contest(where, contestants(problem, options), problem.forward_flops)
                run.add({**point, "ratios": ratios(point)})
    for cell in options.others:
        problem = make_problem(cell, Point.parse(options.others_point), seed=options.seed)
        where = {"cell": cell, "point": options.others_point, "padded": False}
        point = run.contest(where, contestants(problem, options), problem.forward_flops)
        run.add({**point, "ratios": ratios(point)})
    run.result["summary"] = overall(run.result["points"])


def contestants(problem: Problem, options: Options) -> list[contest.Contestant]:
    """rnnjax first: it is the reference."""
    made = [ours.contestant(OURS, problem, options.engine)]
    if options.devices > 1:
        made.append(ours.contestant(OURS_SPLIT, problem, options.engine, devices=options.devices))
    if options.generic:
        made.append(ours.contestant(OURS_GENERIC, problem, options.engine, generic=True))
    for name, build in JAX_PEERS.items():
        unchecked = libraries.HAIKU_UNCHECKED.get(problem.cell, "") if name == "Haiku" else ""
        made.append(contest.Contestant(name, functools.partial(build, problem), unchecked))
    if options.doors and problem.cell in GATES:
        for name, door in DOORS.items():
            made.append(contest.Contestant(door, functools.partial(JAX_PEERS[name], problem, ours=True)))
    made.append(contest.Contestant(TORCH, functools.partial(libraries.pytorch, problem)))
    if problem.cell not in GATES:
        made.append(contest.Contestant(TORCHRECURRENT, functools.partial(libraries.torchrecurrent, problem)))
    return made


_MEANS = ("one_vs_peer", "best_vs_peer", "one_vs_torch", "best_vs_torch", "best_over_floor", "generic_over_one")
_DOOR_KEYS = tuple(f"{door}_vs_flax" for door in DOORS.values())


def ratios(point: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Both tasks of one point, ratios of medians over the same rounds; None where a contestant is missing.

    A ratio above 1, of those to peers and PyTorch, says that rnnjax is faster. "One" is rnnjax on one device; "best" is
    the better of one and several. Within ten per cent it is a tie. "Torch" is PyTorch or torchrecurrent.
    """
    found = {}
    for task in TASKS:
        ms = {name: number(point, name, task) for name in harness.by_name(point)}
        one, floor = ms.get(OURS), floor_ms(point, task)
        best = min((t for t in (one, ms.get(OURS_SPLIT)) if t is not None), default=None)
        torch = min((t for t in (ms.get(TORCH), ms.get(TORCHRECURRENT)) if t is not None), default=None)
        peer, fastest = min(((t, name) for name in JAX_PEERS if (t := ms.get(name))), default=(None, None))
        found[task] = {
            "fastest_peer": fastest,
            "one_vs_peer": divided(peer, one),
            "best_vs_peer": divided(peer, best),
            "one_vs_torch": divided(torch, one),
            "best_vs_torch": divided(torch, best),
            "one_over_floor": divided(one, floor),
            "best_over_floor": divided(best, floor),
            "generic_over_one": divided(ms.get(OURS_GENERIC), one),
            **{f"{door}_vs_flax": divided(ms.get(flax), ms.get(door)) for flax, door in DOORS.items()},
        }
    return found


def overall(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means and the worst point of each ratio, for dense and padded batches, all cells and each.

    "All cells" are those of the grid; the others are a group of their own.
    """
    others = [point for point in points if point["cell"] not in GATES]
    points = [point for point in points if point["cell"] in GATES]
    groups, rows = {}, []
    for kind, padded in (("dense", False), ("padded", True)):
        for cell in ("all cells", *dict.fromkeys(point["cell"] for point in points)):
            inside = [p for p in points if p["padded"] == padded and cell in ("all cells", p["cell"])]
            groups[f"{kind}, {cell}"] = inside
    sized = [(p, Point.parse(p["point"])) for p in points if not p["padded"]]
    groups["dense, B >= 16 and H >= 128"] = [p for p, size in sized if size.B >= 16 and size.H >= 128]
    groups["other cells"] = others
    groups["all but dense lstm"] = [p for p in points if p["padded"] or p["cell"] != "lstm"]
    for group, members in groups.items():
        for task in TASKS if members else ():
            row: dict[str, Any] = {"group": group, "task": task, "points": len(members)}
            for key in (*_MEANS, *_DOOR_KEYS):
                values = [v for p in members if (v := p["ratios"][task][key]) is not None]
                worst = max if "_over_" in key else min
                row[key] = {"geomean": geomean(values), "worst": worst(values), "of": len(values)} if values else None
            rows.append(row)
    return rows


def tables(result: Mapping[str, Any], page: Any) -> None:
    """Times by task and point, and means of the ratios."""
    points = result["points"]
    every = harness.names(points)
    for task, title in TASKS.items():
        rows = []
        for point in points:
            place = f"{point['cell']} {point['point']}{' padded' * point['padded']}"
            rows.append([place, *(number(point, name, task) for name in every), floor_ms(point, task)])
        page.table(rows, ["cell and B,T,D,H", *every, "floor"], f"{title}, median [ms]")
    rows = []
    for row in result["summary"]:
        means = [row.get(key) for key in (*_MEANS, *_DOOR_KEYS)]
        said = [f"{mean['geomean']:.2f} ({mean['worst']:.2f})" if mean else None for mean in means]
        rows.append([f"{row['group']} ({row['points']})", TASKS[row["task"]], *said])
    heads = ["peer / one", "peer / best", "torch / one", "torch / best", "best / floor", "generic / one"]
    heads += ["linen / linen with ours", "nnx / nnx with ours"]
    caption = "Geometric means of ratios of medians, and the worst point; above 1 rnnjax is faster, up to the floor"
    page.table(rows, ["points", "task", *heads], caption)


def draw(result: Mapping[str, Any], page: Any) -> None:
    """A figure for each task and kind of batch: a panel per cell, a line of marks per point."""
    grid = [point for point in result["points"] if point["cell"] in GATES]
    if len(grid) < len(result["points"]):
        _draw_others(page, [point for point in result["points"] if point["cell"] not in GATES])
    for padded, batches in ((False, "whole sequences"), (True, "padded batches")):
        points = [point for point in grid if point["padded"] == padded and point.get("floor")]
        for task in TASKS if points else ():
            title = f"{TASKS[task].capitalize()}, {batches}: median time, less is better"
            _draw(page, f"peers-{task}{'-padded' * padded}", points, task, title)


def _draw(page: Any, file: str, points: list[Mapping[str, Any]], task: str, title: str) -> None:
    cells = list(dict.fromkeys(point["cell"] for point in points))
    places = list(dict.fromkeys(point["point"] for point in points))
    every = [name for name in harness.names(points) if name not in (OURS_GENERIC, *DOORS.values())]
    width, height = 3.0 * len(cells) + 1.5, 0.36 * len(places) + 2.2
    fig, axes = style.figures(1, len(cells), width, height, sharey=True, sharex=True)
    for ax, cell in zip(axes[0], cells, strict=True):
        for index, name in enumerate(every):
            found = [(divided(number(p, name, task), floor_ms(p, task)), p) for p in points if p["cell"] == cell]
            if marks := [(multiple, places.index(p["point"])) for multiple, p in found if multiple is not None]:
                look = style.line(index) | {"linestyle": "none", "markersize": 9.0 if index == 0 else 6.0}
                ax.plot(*zip(*marks, strict=True), **look, label=name)
        ax.axvline(1.0, **harness.FLOOR, label="matmul floor")
        ax.set(xscale="log", title=cell, xlabel="time / matmul floor [1]")
    axes[0, 0].set_yticks(range(len(places)), places)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel("B, T, D, H")
    alt = f"Time of a {TASKS[task]} over the matmul floor, for rnnjax and its peers, by cell and size"
    harness.save(page, file, fig, axes, title, alt, 5)


def _draw_others(page: Any, points: list[Mapping[str, Any]]) -> None:
    """How many times as fast as its fastest peer each of the other cells is, forward and in training."""
    fig, axes = style.figures(1, 2, 9.5, 0.22 * len(points) + 1.6, sharey=True, sharex=True)
    for ax, (task, title) in zip(axes[0], TASKS.items(), strict=True):
        for y, point in enumerate(points):
            ratios = point["ratios"][task]
            for label, key, mark in (("a JAX peer", "one_vs_peer", "o"), ("PyTorch", "one_vs_torch", "s")):
                ax.plot(ratios[key] or math.nan, y, mark, color=style.BLUE if mark == "o" else style.GREY, label=label)
        ax.axvline(1.0, color="#555555", linewidth=1)
        ax.set(xscale="log", title=title, xlabel="times as fast as the peer [1]")
    axes[0, 0].set_yticks(range(len(points)), [point["cell"] for point in points])
    axes[0, 0].invert_yaxis()
    title = f"Other cells at B, T, D, H = {points[0]['point']}, against the fastest JAX peer and PyTorch's cells"
    harness.save(page, "peers-others", fig, axes, title, "Speed of rnnjax over its peers', by cell", 2)


benchmark = harness.Benchmark(Options, measure, draw, tables)

if __name__ == "__main__":
    benchmark.main()

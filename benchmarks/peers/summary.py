"""From times to ratios: ours against the fastest JAX peer, against PyTorch, against the floor; and their means.

All numbers here are ratios of medians over the same rounds; a ratio above 1 says that rnnjax is faster. "One" is rnnjax
on one device; "best" is the better of one and several. Within ten per cent it is a tie.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.harness import geomean, reading

OURS, OURS_SPLIT, OURS_GENERIC = "rnnjax", "rnnjax, split", "rnnjax, generic"
DOORS = {"Flax linen": "rnnjax in linen", "Flax nnx": "rnnjax in nnx"}
"""Flax's own RNN, and the same model with ours in its place."""
JAX_PEERS = ("Flax linen", "Flax nnx", "Haiku", "Equinox", "Keras")
TORCH = "PyTorch"
TASKS = {"forward": "forward", "train": "training step"}

_DOOR_KEYS = tuple(f"{door}_vs_flax" for door in DOORS.values())
_MEANS = ("one_vs_peer", "best_vs_peer", "one_vs_torch", "best_vs_torch", "best_over_floor", "generic_over_one")


def ratios(point: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Both tasks of one point; None where somebody is missing."""
    rows = reading.by_name(point)
    found = {}
    for task in TASKS:
        ms = {name: reading.number(row, task) for name, row in rows.items()}
        one = ms.get(OURS)
        best = min((t for t in (one, ms.get(OURS_SPLIT)) if t is not None), default=None)
        peers = {name: t for name in JAX_PEERS if (t := ms.get(name)) is not None}
        fastest = min(peers, key=peers.__getitem__) if peers else None
        peer = peers[fastest] if fastest else None
        floor = point["floor"][f"{task}_ms"] if point.get("floor") else None
        found[task] = {
            "fastest_peer": fastest,
            "one_vs_peer": reading.divided(peer, one),
            "best_vs_peer": reading.divided(peer, best),
            "one_vs_torch": reading.divided(ms.get(TORCH), one),
            "best_vs_torch": reading.divided(ms.get(TORCH), best),
            "one_over_floor": reading.divided(one, floor),
            "best_over_floor": reading.divided(best, floor),
            "generic_over_one": reading.divided(ms.get(OURS_GENERIC), one),
            **{f"{door}_vs_flax": reading.divided(ms.get(flax), ms.get(door)) for flax, door in DOORS.items()},
        }
    return found


def overall(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means and the worst point of each ratio, for dense and padded batches, all cells and each."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for padded, kind in ((False, "dense"), (True, "padded")):
        for point in points:
            if point["padded"] == padded:
                groups.setdefault(f"{kind}, all cells", []).append(point)
        for point in points:
            if point["padded"] == padded:
                groups.setdefault(f"{kind}, {point['cell']}", []).append(point)
    for point in points:
        B, _, _, H = map(int, point["point"].split(","))
        if B >= 16 and H >= 128 and not point["padded"]:
            groups.setdefault("dense, B >= 16 and H >= 128", []).append(point)
    groups["all but dense lstm"] = [p for p in points if p["padded"] or p["cell"] != "lstm"]
    rows = []
    for group, members in groups.items():
        for task in TASKS:
            row: dict[str, Any] = {"group": group, "task": task, "points": len(members)}
            for key in (*_MEANS, *_DOOR_KEYS):
                values = [v for p in members if (v := p["ratios"][task][key]) is not None]
                worst = max if "_over_" in key else min
                row[key] = {"geomean": geomean(values), "worst": worst(values), "of": len(values)} if values else None
            rows.append(row)
    return rows


def tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """Times by task, ratios by task, means, and who did not take part."""
    points = result["points"]
    for task, title in TASKS.items():
        names = reading.names(points)
        rows = []
        for point in points:
            by_name = reading.by_name(point)
            floor = point["floor"][f"{task}_ms"] if point.get("floor") else None
            rows.append([_place(point), *(reading.number(by_name[name], task) for name in names), floor])
        yield f"{title}, median [ms]", ["point B,T,D,H", *names, "floor"], rows
    for task, title in TASKS.items():
        columns = ["point B,T,D,H", "fastest JAX peer", "it / one", "it / best", "torch / one", "torch / best"]
        keys = ["fastest_peer", "one_vs_peer", "best_vs_peer", "one_vs_torch", "best_vs_torch", "one_over_floor"]
        keys += ["best_over_floor", "generic_over_one"]
        columns += ["one / floor", "best / floor", "generic / one"]
        rows = [[_place(point), *(point["ratios"][task][key] for key in keys)] for point in points]
        yield f"{title}, ratios of medians (above 1 before the floor: rnnjax is faster)", columns, rows
    columns = ["points", "task", "peer / one", "peer / best", "torch / one", "torch / best", "best / floor"]
    columns += ["generic / one", "linen / linen with ours", "nnx / nnx with ours"]
    rows = []
    for row in result["summary"]:
        found = [row[key] for key in (*_MEANS, *_DOOR_KEYS)]
        means = [f"{mean['geomean']:.2f} ({mean['worst']:.2f})" if mean else None for mean in found]
        rows.append([f"{row['group']} ({row['points']})", TASKS[row["task"]], *means])
    yield "Geometric means (and the worst point)", columns, rows
    out = [[who, len(where)] for who, where in reading.reasons(points).items()]
    if out:
        yield "Did not take part", ["who and why", "points"], out


def _place(point: Mapping[str, Any]) -> str:
    return f"{point['cell']} {point['point']}{' padded' if point['padded'] else ''}"

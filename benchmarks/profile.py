"""Where the time of a training step goes, or of a sweep as one program, kernel by kernel.

    python -m benchmarks.profile --cell lstm --point 128,50,64,128 --json benchmarks/results/profile.json
    python -m benchmarks.profile --sweep 16 64 --json benchmarks/results/profile_sweep.json

Runs rnnjax on one device under JAX's profiler. Kernels that run once per time step are those of the loops; matmuls are
XLA's `dot` and what YNNPACK runs. Two kernels may run at once on two cores, so the sum can exceed the wall time; the
profiler itself costs about half a microsecond per kernel, which swells small loops.
"""

import argparse
import collections
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from . import contest, ours, sweep
from .problems import Point, make_problem

_CALLS = 5
_RUNTIME = ("ThunkExecutor", "Slinky", "while", "end:", "Pjit", "CommonPjRt", "PjRt", "$", "Thread", "TfrtCpu")


def by_kernel(call: Callable[[], Any], steps: int) -> dict[str, Any]:
    """Milliseconds per call by kind of kernel, and the kernels with the largest share.

    A kernel that runs at least `steps` times per call is one of a loop's.
    """
    for _ in range(3):
        call()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_CALLS):
                call()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        data = ProfileData.from_file(str(trace))
    counts, ms, by_kind = collections.Counter(), collections.Counter(), collections.Counter()
    for event in (event for plane in data.planes for line in plane.lines for event in line.events):
        waits = event.name.startswith("ThunkExecutor::Execute (wait")
        if waits or not event.name.startswith(_RUNTIME):
            name = "wall" if waits else event.name
            counts[name] += 1
            ms[name] += 1e-6 * event.duration_ns / _CALLS
    wall = ms.pop("wall", None)
    for name, time in ms.items():
        kind = "matmul" if name.startswith(("ynn_fusion", "dot")) else "pointwise"
        by_kind[f"{kind}_{'loop' if counts[name] >= _CALLS * steps else 'outside'}_ms"] += time
    kernels = [{"name": k, "ms": time, "times_a_call": counts[k] / _CALLS} for k, time in ms.most_common(24)]
    return {"jax": jax.__version__, "wall_ms": wall, **by_kind, "kernels": kernels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", nargs="+", default=["lstm"], help="lstm, gru, elman")
    parser.add_argument("--point", nargs="+", default=["128,50,64,128"], help="B,T,D,H")
    parser.add_argument("--sweep", nargs="+", type=int, help="in their place, the sweep at these widths H")
    parser.add_argument("--json", type=Path, help="where the results go")
    options = parser.parse_args()
    contest.prepare(1)
    results, default = [], sweep.Options()
    for H in options.sweep or ():
        program = sweep.one_program(sweep.Sweep(default, H), devices=1)
        results.append({"cell": "sweep", "point": f"H = {H}", **by_kernel(program.call, min(default.lengths))})
    for point, cell in itertools.product(options.point, options.cell) if not options.sweep else ():
        problem = make_problem(cell, Point.parse(point))
        program = ours.contestant("", problem, tasks=("train",)).build()["train"]
        results.append({"cell": cell, "point": point, **by_kernel(program.call, problem.point.T)})
    for result in results:
        print(f"{result['cell']} {result['point']}:", {k: round(v, 2) for k, v in result.items() if k.endswith("_ms")})
        for kernel in result["kernels"]:
            print(f"  {kernel['ms']:8.3f} ms  {kernel['times_a_call']:6.0f}x  {kernel['name']}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

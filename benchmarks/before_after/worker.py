"""One version of rnnjax in a process of its own: `python -m benchmarks.before_after.worker DEVICES`, from its folder.

It reads requests from its input and writes answers to its output, each one JSON object on a line:

    {"do": "build", "form": "bare", "task": "train", "cell": "lstm", "point": "8,200,32,64", "seed": 0}   {"cost": ...}
    {"do": "time", "form": "bare", "task": "train", "calls": 5}                                   {"seconds": 0.018}
    {"do": "save", "form": "bare", "task": "train", "path": "result.npz"}                         {"saved": true}

Every answer is `{"error": "..."}` where the request failed. The process ends when its input does.
"""

import dataclasses
import gc
import json
import os
import signal
import sys
import time
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import process
from benchmarks.problems import Point, Problem, make_problem


class Programs:
    """The compiled programs of a worker, by form and task."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, str], harness.Program] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        key = request["form"], request["task"]
        if request["do"] == "build":
            problem = make_problem(request["cell"], Point.parse(request["point"]), seed=request["seed"])
            self._compiled[key] = program(problem, *key)
            cost = self._compiled[key].cost
            return {"cost": cost and dataclasses.asdict(cost)}
        if request["do"] == "time":
            return {"seconds": seconds(self._compiled[key], request["calls"])}
        if request["do"] == "save":
            compiled = self._compiled[key]
            arrays: dict[str, Any] = {name: np.asarray(v) for name, v in compiled.shared(compiled.call()).items()}
            np.savez(request["path"], **arrays)
            return {"saved": True}
        raise ValueError(f"do is {request['do']!r}; it must be 'build', 'time' or 'save'.")


def program(problem: Problem, form: str, task: str) -> harness.Program:
    """`task` is "forward" or "train"."""
    from benchmarks.before_after import cells

    made = cells.FORMS[form](problem)
    if task == "forward":
        return harness.compiled(made.forward, made.params, problem.xs, shared=lambda ys: {"ys": ys}, compiles=1)

    def gradients(result: Any) -> dict[str, Any]:
        loss, (params, xs) = result
        return {**made.read(params), "xs": xs, "loss": loss}

    return harness.compiled(cells.train(made), made.params, problem.xs, shared=gradients, compiles=1)


def seconds(program: harness.Program, calls: int) -> float:
    """Of `calls` calls in a row, each to the end, without the garbage collector."""
    call = program.call
    gc.disable()
    try:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - started
    finally:
        gc.enable()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends its workers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    setup = process.prepare(int(sys.argv[1]))
    import rnnjax

    programs = Programs()
    say({"rnnjax": rnnjax.__file__, "process": setup})
    with process.float32():
        for line in sys.stdin:
            try:
                say(programs.answer(json.loads(line)))
            except Exception as error:
                say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()

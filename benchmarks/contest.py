"""A contest: build every contestant, compare each with the reference, then time those that agree in interleaved rounds.

* A contestant whose values or gradients differ from the reference's is refused and gets no time; one that cannot take
  part is in the result with the reason.
* In each round every contestant takes one turn, in an order shuffled anew. The speed of a machine drifts, and
  contestants that take turns share the drift: only times from the same rounds are compared, as ratios of medians.
* One setup of allocator, devices and threads for all (`prepare`, `float32`).
"""

import contextlib
import dataclasses
import gc
import math
import os
import random
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

Name = TypeVar("Name", bound=Hashable)
Shared = Mapping[str, ArrayLike]  # results by name, in the layout of the reference: what is compared
_FEWEST_ROUNDS, _MOST_CALLS, _NO_WARM_UP_S = 3, 10_000, 1.0


class LeftOut(Exception):
    """Raised where a contestant cannot take part; the message is the reason that the results will give."""


class Unequal(ValueError):
    """A contestant's numbers are not those of the reference, so its time would mean nothing."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One callable.

    Attributes:
      call: runs it once; returns when the result is there.
      shared: the result in the shared form. Not timed.
      cost: of compiling, for the record (see `compiled`).
      settle_s: rest after its sample [s], for threads that keep a core busy for a while after their work.
      left_out: why it is not to be run, where only its cost is wanted.
    """

    call: Callable[[], Any]
    shared: Callable[[Any], Shared] = lambda result: {}
    cost: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    settle_s: float = 0.0
    left_out: str = ""

    def seconds(self, calls: int, clock: Callable[[], float] = time.perf_counter) -> float:
        """Of `calls` calls in a row."""
        call, started = self.call, clock()
        for _ in range(calls):
            call()
        return clock() - started


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One that takes part.

    Attributes:
      build: makes the programs, one per task ("forward", "train", ...); raises `LeftOut` where it cannot take part.
      left_out: why it does not take part, where this is known before; then it needs no `build`.
      unchecked: why its numbers need not be those of the reference; empty means that they must be.
      record: more about it for the results.
    """

    name: str
    build: Callable[[], Mapping[str, Program]] = dict
    unchecked: str = ""
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    left_out: str = ""


def compiled(
    function: Callable[..., Any],
    *arguments: Any,
    shared: Callable[[Any], Shared] = lambda result: {},
    compiles: int = 1,
    limit_bytes: int | None = None,
    devices: int = 1,
    compiler_options: Mapping[str, Any] | None = None,
) -> Program:
    """A jitted function as a `Program`, compiled ahead for these arguments.

    Its `cost` has the seconds of tracing and compiling, and the bytes of XLA's buffer assignment, summed over devices:
    `temp_bytes` is the largest amount of memory for intermediate values at one time.

    Args:
      function: a JAX function; traced anew each time, so that no cache of JAX makes the second time shorter.
      compiles: how often to compile; the shortest counts. One that takes above two seconds is not repeated.
      limit_bytes: a program with more temporary memory than this is compiled, but not to be run.
      devices: how many the arguments are split over.
      compiler_options: of XLA, for this program alone.
    """
    import jax
    import jax.numpy as jnp

    arguments = jax.tree.map(jnp.asarray, arguments)  # a NumPy array would be carried over again at every call
    executable: Any = None
    seconds: list[tuple[float, float]] = []
    while len(seconds) < compiles and sum(seconds[-1] if seconds else ()) <= 2.0:
        started = time.perf_counter()
        lowered = jax.jit(lambda *given: function(*given)).lower(*arguments)
        traced = time.perf_counter()
        executable = lowered.compile(compiler_options=None if compiler_options is None else dict(compiler_options))
        seconds.append((traced - started, time.perf_counter() - traced))
    cost: dict[str, Any] = dict(zip(("trace_s", "compile_s"), min(seconds, key=sum), strict=True))
    memory = executable.memory_analysis()  # None where a backend does not say
    for kind in ("temp", "argument", "output"):
        cost[f"{kind}_bytes"] = memory and devices * int(getattr(memory, f"{kind}_size_in_bytes"))
    left_out, temp = "", cost["temp_bytes"] or 0
    if limit_bytes is not None and temp > limit_bytes:
        left_out = f"needs {temp / 2**30:.1f} GiB, more than the {limit_bytes / 2**30:.1f} of --memory-gib"
    return Program(lambda: jax.block_until_ready(executable(*arguments)), shared, cost, left_out=left_out)


def run(
    contestants: Sequence[Contestant], *, floor: Program | None = None, tolerance: float = 1e-4, **timing: Any
) -> tuple[list[dict[str, Any]], float | None]:
    """Builds, compares and times.

    The first contestant that gives a task is the reference of that task. One that fails is named with its error, and
    the others go on.

    Args:
      contestants: the reference first.
      floor: timed in the same rounds, compared with nothing.
      tolerance: relative to the largest entry of each array.
      timing: rounds, sample_s, budget_s, seed of `interleave`.
    Returns:
      One row per contestant, for JSON: `name`, `left_out` (why it did not take part), `fault` (it failed or was
      refused), `checked` (how its numbers compare with the reference's) and `tasks`, each with the program's cost and
      times. Then the median milliseconds of `floor`.
    """
    rows: list[dict[str, Any]] = []
    programs: dict[tuple[int, str], Program] = {}
    references: dict[str, tuple[str, Shared]] = {}
    for number, contestant in enumerate(contestants):
        row: dict[str, Any] = {"name": contestant.name}
        built: Mapping[str, Program] = {}
        try:
            if contestant.left_out:
                raise LeftOut(contestant.left_out)
            built = contestant.build()
            if said := _compared(contestant, built, references, tolerance):
                row["checked"] = said
            programs |= {(number, task): program for task, program in built.items() if not program.left_out}
        except LeftOut as reason:
            row["left_out"] = str(reason)
        except Unequal as error:
            row["fault"] = f"refused: {error}"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = " ".join(str(error).split())
            row["fault"] = f"failed: {type(error).__name__}: {message[:300]} ({where.name}, line {where.lineno})"
        why = {task: {"left_out": program.left_out} if program.left_out else {} for task, program in built.items()}
        row["tasks"] = {task: {**program.cost, **why[task]} for task, program in built.items()}
        rows.append({**row, **contestant.record})
    if floor is not None:
        floor.call()
        programs[-1, "floor"] = floor
    times = interleave(programs, **timing)
    floor_ms = times.pop((-1, "floor"))["median_ms"] if floor is not None else None
    for (number, task), measured in times.items():
        rows[number]["tasks"][task] |= measured
    return rows, floor_ms


def _compared(
    contestant: Contestant, programs: Mapping[str, Program], references: dict[str, Any], tolerance: float
) -> str:
    """Runs each program once, which also warms it up, and says how its numbers compare with the reference's."""
    said = []
    for task, program in programs.items():
        result = None if program.left_out else program.call()
        if program.left_out or contestant.unchecked:
            continue
        shared = program.shared(result)
        reference, expected = references.setdefault(task, (contestant.name, shared))
        if reference == contestant.name:
            said.append(f"{task}: the reference")
            continue
        error = largest_error(f"{contestant.name}, {task},", shared, expected, tolerance)
        missing = sorted(set(expected) - set(shared))
        has_not = f", has no {', '.join(missing)}" if 0 < len(missing) <= 3 else ""
        said.append(f"{task}: equal to {reference} within {error:.1e}{has_not}")
    return f"not compared: {contestant.unchecked}" if contestant.unchecked else "; ".join(said)


def largest_error(who: str, got: Shared, expected: Shared, tolerance: float) -> float:
    """The largest difference of any array, relative to the largest entry expected there.

    Raises `Unequal` where an array differs by more than `tolerance`, has a NaN or another shape, or there is nothing to
    compare. Arrays that `got` does not have are left out: a library without a certain bias has no gradient for it.
    """
    errors = {}
    for name, values in got.items():
        a, b = np.asarray(values, np.float64), np.asarray(expected[name], np.float64)
        if a.shape != b.shape:
            errors[name] = math.inf
        elif a.size:
            scale, difference = np.abs(b).max(), np.abs(a - b).max()
            errors[name] = float(difference / scale) if scale else (math.inf if difference else 0.0)
    if not errors:
        raise Unequal(f"{who} gives nothing to compare.")
    if wrong := {name: error for name, error in errors.items() if not error <= tolerance}:  # NaN is wrong too
        listed = ", ".join(f"{name} by {error:.1e}" for name, error in sorted(wrong.items()))
        raise Unequal(f"{who} differs from the reference, relative to the largest entry: {listed} (> {tolerance:.0e}).")
    return max(errors.values())


def interleave(
    programs: Mapping[Name, Program],
    *,
    rounds: int = 7,
    sample_s: float = 0.03,
    budget_s: float = math.inf,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Any] = time.sleep,
) -> dict[Name, dict[str, Any]]:
    """Times all `programs` in rounds, the order shuffled anew for each.

    A sample is as many calls in a row as fill `sample_s`, after one call that is not timed (it brings caches and
    threads back; calls above a second go without). The garbage collector runs between rounds, not in them.

    Args:
      programs: each has been called before, so nothing is compiled or imported in here.
      rounds: samples of each.
      budget_s: no new round starts after this time, but there are at least three (or `rounds`, if fewer).
      clock, sleep: for tests.
    Returns:
      For each: minimum, median and middle half over the rounds, the samples [ms per call], and the calls per sample.
    """
    shuffle = random.Random(seed).shuffle
    tried = {name: _calls(program, sample_s, clock) for name, program in programs.items()}
    order, samples = list(programs), {name: [] for name in programs}
    started, enabled = clock(), gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()  # what is there already is not searched again
    try:
        for done in range(rounds):
            if done >= _FEWEST_ROUNDS and clock() - started > budget_s:
                break
            gc.collect()
            shuffle(order)
            for name in order:
                program, (calls, lasts) = programs[name], tried[name]
                if lasts <= _NO_WARM_UP_S:
                    program.call()
                samples[name].append(1e3 * program.seconds(calls, clock) / calls)
                if program.settle_s:
                    sleep(program.settle_s)
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
    found: dict[Name, dict[str, Any]] = {}
    for name, ms in samples.items():
        low, median, high = map(float, np.quantile(ms, [0.25, 0.5, 0.75]))
        found[name] = {"min_ms": min(ms), "median_ms": median, "iqr_ms": high - low}
        found[name] |= {"calls_per_sample": tried[name][0], "samples_ms": ms}
    return found


def _calls(program: Program, sample_s: float, clock: Callable[[], float]) -> tuple[int, float]:
    """How many calls last `sample_s`, found by trying, since the first tries are slower; and how long they lasted."""
    calls = 1
    while (seconds := program.seconds(calls, clock)) < sample_s and calls < _MOST_CALLS:
        calls = min(_MOST_CALLS, max(2 * calls, math.ceil(1.1 * calls * sample_s / max(seconds, 1e-9))))
    return calls, seconds


def prepare(devices: int) -> dict[str, bool | int | None]:
    """Sets the number of CPU devices and the allocator, and Keras's backend; call it before JAX's first use.

    Returns what was set, for the record.
    """
    from rnnjax import sharding

    os.environ.setdefault("KERAS_BACKEND", "jax")
    done = sharding.setup_process(device_count=devices)
    return {"cpu_devices": done.device_count, "allocator_keeps_memory": done.allocator}


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """JAX's own defaults for dtypes inside the block, whatever the process has set: float32 and usual promotion.

    Matrix products are in float32 proper: on a GPU, JAX would by default round their factors to TensorFloat-32.
    """
    import jax

    precision = None if jax.default_backend() == "cpu" else "highest"
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.default_matmul_precision(precision):
        yield

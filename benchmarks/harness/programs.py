"""What a contestant brings: callables, what they cost to compile, and their results in a form that all share."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import ArrayLike

Shared = Mapping[str, ArrayLike]
"""Results by name, in the layout of the reference: what the equality check compares."""


class LeftOut(Exception):
    """Raised where a contestant cannot take part; the message is the reason that the results will give."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a program costs before and besides running.

    Attributes:
      trace_s: Python to StableHLO [s].
      compile_s: StableHLO to machine code [s].
      temp_bytes: the largest amount of memory for intermediate values at one time, from XLA's buffer assignment.
      argument_bytes, output_bytes: of inputs and results. All three are sums over devices.
    """

    trace_s: float
    compile_s: float
    temp_bytes: int | None
    argument_bytes: int | None
    output_bytes: int | None

    @property
    def seconds(self) -> float:
        return self.trace_s + self.compile_s


@dataclasses.dataclass(frozen=True)
class Program:
    """One callable.

    Attributes:
      call: runs it once; returns when the result is there.
      shared: the result in the shared form. Not timed.
      cost: of compiling, where it is compiled.
      settle_s, sample: rest after its samples, and how one is made elsewhere (see `benchmarks.harness.timing.Turn`).
      left_out: why it is not to be run, where only its cost is wanted.
    """

    call: Callable[[], Any]
    shared: Callable[[Any], Shared]
    cost: Cost | None = None
    settle_s: float = 0.0
    sample: Callable[[int], float] | None = None
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Somebody who takes part.

    Attributes:
      name: for tables and results.
      build: makes the programs, one a task ("forward", "train", ...); raises `LeftOut` where it cannot take part.
      unchecked: why its numbers need not be those of the reference; empty means that they must be.
    """

    name: str
    build: Callable[[], Mapping[str, Program]]
    unchecked: str = ""


def absent(name: str, reason: str) -> Contestant:
    """A contestant that cannot take part, so that the results name it with the reason."""

    def build() -> Mapping[str, Program]:
        raise LeftOut(reason)

    return Contestant(name, build)


def compiled(
    function: Callable[..., Any],
    *arguments: Any,
    shared: Callable[[Any], Shared],
    compiles: int = 2,
    limit_bytes: int | None = None,
    devices: int = 1,
    compiler_options: Mapping[str, Any] | None = None,
) -> Program:
    """A jitted function as a `Program`, compiled ahead for these arguments.

    Args:
      function: a JAX function; traced anew each time, so that no cache of JAX makes the second time shorter.
      arguments: arrays, placed where the function wants them.
      shared: see `Program`.
      compiles: how often to compile; the shortest counts. One that takes above two seconds is not repeated.
      limit_bytes: a program with more temporary memory than this is compiled, but not to be run.
      devices: how many the arguments are split over; memory is the sum over all of them.
      compiler_options: of XLA, for this program alone.
    """
    import jax
    import jax.numpy as jnp

    arguments = jax.tree.map(jnp.asarray, arguments)  # a NumPy array would be carried over again at every call
    best: Cost | None = None
    executable = None
    for _ in range(compiles):
        started = time.perf_counter()
        lowered = jax.jit(lambda *given: function(*given)).lower(*arguments)
        traced = time.perf_counter()
        executable = lowered.compile(compiler_options=None if compiler_options is None else dict(compiler_options))
        cost = _cost(traced - started, time.perf_counter() - traced, executable, devices)
        best = cost if best is None or cost.seconds < best.seconds else best
        if cost.seconds > 2.0:
            break
    assert executable is not None and best is not None
    run = executable
    left_out = ""
    if limit_bytes is not None and best.temp_bytes is not None and best.temp_bytes > limit_bytes:
        left_out = f"needs {best.temp_bytes / 2**30:.1f} GiB, more than the {limit_bytes / 2**30:.1f} of --memory-gib"
    return Program(lambda: jax.block_until_ready(run(*arguments)), shared, best, left_out=left_out)


def _cost(trace_s: float, compile_s: float, executable: Any, devices: int) -> Cost:
    memory = executable.memory_analysis()
    if memory is None:  # not every backend says
        return Cost(trace_s, compile_s, None, None, None)
    return Cost(
        trace_s,
        compile_s,
        devices * int(memory.temp_size_in_bytes),
        devices * int(memory.argument_size_in_bytes),
        devices * int(memory.output_size_in_bytes),
    )

"""Round after round, every contestant once, in another order each time.

The speed of a machine drifts with its neighbours and its temperature. Contestants that are timed one after the other
are compared across that drift; contestants that take turns share it. So only times from the same rounds are compared.
"""

import contextlib
import dataclasses
import gc
import math
import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

from benchmarks.harness.statistics import Times

Name = TypeVar("Name", bound=Hashable)

_FEWEST_ROUNDS = 3
_MOST_CALLS = 10_000
_NO_WARM_UP_S = 1.0


@dataclasses.dataclass(frozen=True)
class Turn:
    """Something to be timed.

    Attributes:
      call: one whole call; returns when the result is there.
      settle_s: seconds of rest after its sample, for threads that keep a core busy for a while after their work.
      sample: given a number of calls, makes them in a row and returns their seconds; for calls in another process,
        where the clock has to be. None: `call` is timed here.
    """

    call: Callable[[], Any]
    settle_s: float = 0.0
    sample: Callable[[int], float] | None = None


def interleave(
    turns: Mapping[Name, Turn],
    *,
    rounds: int = 7,
    sample_s: float = 0.03,
    budget_s: float = math.inf,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Any] = time.sleep,
) -> dict[Name, Times]:
    """Times all of `turns` in rounds; the order is shuffled anew for each round.

    A sample is as many calls in a row as fill `sample_s`, after one call that is not timed (it brings caches and
    threads back; calls above a second go without). The garbage collector runs between rounds, not in them.

    Args:
      turns: what to time; each has been called before, so nothing is compiled or imported in here.
      rounds: samples of each.
      sample_s: how long a sample lasts at least [s].
      budget_s: no new round starts after this time, but there are at least three (or `rounds`, if fewer).
      seed: of the shuffling.
      clock, sleep: for tests.
    """
    shuffle = random.Random(seed).shuffle
    calls, lasts = {}, {}
    for name, turn in turns.items():
        calls[name], lasts[name] = _calls(turn, sample_s, clock)
    order, samples = list(turns), {name: [] for name in turns}
    started = clock()
    with _collected_between_rounds() as collect:
        for done in range(rounds):
            if done >= _FEWEST_ROUNDS and clock() - started > budget_s:
                break
            collect()
            shuffle(order)
            for name in order:
                turn = turns[name]
                if lasts[name] <= _NO_WARM_UP_S:
                    turn.call()
                samples[name].append(_seconds(turn, calls[name], clock) / calls[name])
                if turn.settle_s:
                    sleep(turn.settle_s)
    return {name: Times(tuple(seconds), calls[name]) for name, seconds in samples.items()}


@contextlib.contextmanager
def _collected_between_rounds() -> Iterator[Callable[[], Any]]:
    """Stops the garbage collector, and gives a function that collects what the last round left."""
    enabled = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()  # what is there already is not looked through again
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _seconds(turn: Turn, calls: int, clock: Callable[[], float]) -> float:
    if turn.sample is not None:
        return turn.sample(calls)
    call = turn.call
    started = clock()
    for _ in range(calls):
        call()
    return clock() - started


def _calls(turn: Turn, sample_s: float, clock: Callable[[], float]) -> tuple[int, float]:
    """How many calls last `sample_s`, found by trying, since the first tries are slower; and how long they lasted."""
    calls = 1
    while (seconds := _seconds(turn, calls, clock)) < sample_s and calls < _MOST_CALLS:
        calls = min(_MOST_CALLS, max(2 * calls, math.ceil(1.1 * calls * sample_s / max(seconds, 1e-9))))
    return calls, seconds

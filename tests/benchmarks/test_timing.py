"""Interleaving under a clock that the test turns by hand: no real time is looked at."""

import gc
from collections.abc import Callable

import pytest

from benchmarks.harness import Times, Turn, geomean, interleave, ratio


class World:
    """A clock, and callables that take time on it; `log` says who ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.log.append("sleep")
        self.now += seconds

    def takes(self, name: str, seconds: Callable[[], float] | float) -> Turn:
        def call() -> None:
            self.now += seconds() if callable(seconds) else seconds
            self.log.append(name)

        return Turn(call)

    def run(self, turns: dict[str, Turn], **options) -> dict[str, Times]:
        return interleave(turns, clock=self.clock, sleep=self.sleep, **options)


def test_times_are_seconds_a_call() -> None:
    world = World()
    times = world.run({"a": world.takes("a", 0.002), "b": world.takes("b", 0.5)}, rounds=4, sample_s=0.03)
    assert times["a"].seconds == pytest.approx([0.002] * 4) and times["b"].seconds == pytest.approx([0.5] * 4)
    assert times["b"].calls == 1


def test_a_sample_lasts_long_enough() -> None:
    world = World()
    times = world.run({"a": world.takes("a", 0.0007)}, rounds=2, sample_s=0.03)
    assert 0.03 <= 0.0007 * times["a"].calls <= 0.07


def test_everybody_takes_one_turn_a_round_in_changing_order() -> None:
    world = World()
    names = ["a", "b", "c", "d"]
    world.run({name: world.takes(name, 0.1) for name in names}, rounds=20, sample_s=0.01)
    turns = world.log[4:]  # the first four find out how long a call lasts
    rounds = [turns[i : i + 8 : 2] for i in range(0, len(turns), 8)]  # each turn: one call to warm up, one timed
    assert len(rounds) == 20 and all(sorted(one) == names for one in rounds)
    assert {one[0] for one in rounds} == set(names)
    assert len({tuple(one) for one in rounds}) > 5  # nobody always follows the same neighbour


def test_the_order_depends_on_the_seed_alone() -> None:
    def order(seed: int) -> list[str]:
        world = World()
        world.run({name: world.takes(name, 0.1) for name in "abcde"}, rounds=5, seed=seed)
        return world.log

    assert order(1) == order(1) != order(2)


def test_drift_is_shared() -> None:
    """A machine that gets three times slower under way: who is twice as fast stays so, in the ratio of medians."""
    world = World()
    drift = {"a": lambda: 0.04 * (1 + world.now / 20), "b": lambda: 0.08 * (1 + world.now / 20)}
    times = world.run({name: world.takes(name, seconds) for name, seconds in drift.items()}, rounds=40)
    assert max(times["a"].seconds) > 1.5 * min(times["a"].seconds)
    assert ratio(times["b"], times["a"]) == pytest.approx(2.0, rel=0.05)


def test_a_cold_start_is_not_timed() -> None:
    """The first call after somebody else is slow; only the second one counts."""
    world = World()
    last = [""]

    def cold(name: str) -> Callable[[], float]:
        def seconds() -> float:
            slow, last[0] = last[0] != name, name
            return 0.9 if slow else 0.1

        return seconds

    times = world.run({name: world.takes(name, cold(name)) for name in "ab"}, rounds=5, sample_s=0.01)
    assert times["a"].seconds == pytest.approx([0.1] * 5)


def test_the_budget_ends_the_rounds_but_not_before_three() -> None:
    world = World()
    times = world.run({"a": world.takes("a", 2.0)}, rounds=50, budget_s=1.0)
    assert len(times["a"].seconds) == 3
    assert len(world.run({"a": world.takes("a", 2.0)}, rounds=2, budget_s=1.0)["a"].seconds) == 2
    assert 3 < len(world.run({"a": world.takes("a", 2.0)}, rounds=50, budget_s=21.0)["a"].seconds) < 15


def test_who_asks_for_rest_gets_it_after_each_sample() -> None:
    world = World()
    spins = Turn(world.takes("spins", 0.1).call, settle_s=0.2)
    times = world.run({"spins": spins, "b": world.takes("b", 0.1)}, rounds=6)
    assert world.log.count("sleep") == 6
    assert times["spins"].seconds == pytest.approx([0.1] * 6)


def test_the_garbage_collector_does_not_run_in_a_sample() -> None:
    world, seen = World(), []
    turn = world.takes("a", 0.1)
    interleave(
        {"a": Turn(lambda: (turn.call(), seen.append(gc.isenabled())))},
        rounds=2,
        clock=world.clock,
    )
    assert seen[-1] is False and gc.isenabled()


def test_a_row_of_times_is_in_milliseconds() -> None:
    row = Times((0.004, 0.001, 0.002, 0.003), calls=7).row()
    assert row["min_ms"] == 1.0 and row["median_ms"] == 2.5 and row["iqr_ms"] == pytest.approx(1.5)
    assert row["samples_ms"] == [4.0, 1.0, 2.0, 3.0] and row["calls_per_sample"] == 7


def test_geomean() -> None:
    assert geomean([2.0, 0.5]) == pytest.approx(1.0) and geomean([3.0]) == pytest.approx(3.0)
    assert geomean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    assert geomean([]) != geomean([])  # NaN
    with pytest.raises(ValueError):
        geomean([1.0, 0.0])

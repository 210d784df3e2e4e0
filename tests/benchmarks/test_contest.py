"""Who may be timed, and how: only those whose numbers are the reference's, in interleaved rounds.

The rounds are tested under a clock that the test turns by hand: no real time is measured.
"""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import contest
from benchmarks.contest import Contestant, Program, Unequal, interleave

ONE = {"ys": np.array([1.0, -4.0]), "w_x": np.array([[2.0]])}


def gives(name: str, shared: Any, **options: Any) -> Contestant:
    return Contestant(name, lambda: {"train": Program(lambda: shared, lambda result: result)}, **options)


def quickly(*contestants: Contestant, **options: Any) -> tuple[dict[str, Any], float | None]:
    rows, floor = contest.run(contestants, rounds=1, sample_s=0.0, **options)
    return {row["name"]: row for row in rows}, floor


@pytest.mark.parametrize("ys", [[1.0, -4.01], [1.0, np.nan], [1.0, -np.inf], [1.0], [0.0, 0.0]], ids=str)
def test_other_numbers_are_refused_by_name_and_get_no_time(ys: list[float]) -> None:
    rows, _ = quickly(gives("reference", ONE), gives("wrong", {**ONE, "ys": ys}), gives("right", ONE))
    assert rows["wrong"]["fault"].startswith("refused") and "ys by" in rows["wrong"]["fault"]
    assert "median_ms" not in rows["wrong"]["tasks"]["train"] and "checked" not in rows["wrong"]
    assert rows["reference"]["checked"] == "train: the reference"
    assert rows["right"]["checked"] == "train: equal to reference within 0.0e+00"
    assert rows["right"]["tasks"]["train"]["median_ms"] >= 0


def test_errors_are_relative_to_the_largest_entry_and_zero_equals_nothing_but_zero() -> None:
    off = {"ys": np.array([1.0, -4.4])}
    assert contest.largest_error("me", off, ONE, 0.2) == pytest.approx(0.1)
    nothing = {"ys": np.zeros(2)}
    assert contest.largest_error("me", nothing, nothing, 1e-4) == 0.0
    would_broadcast = {"ys": np.full(2, 3.0)}, {"ys": np.full((2, 2), 3.0)}
    for got, expected in (({"ys": np.full(2, 1e-30)}, nothing), would_broadcast, ({}, ONE)):
        with pytest.raises(Unequal):
            contest.largest_error("me", got, expected, 1e-4)


def test_what_is_missing_is_said_and_another_function_is_marked() -> None:
    other = gives("relu", {"ys": np.array([9.0, 9.0])}, unchecked="it is a ReLU", record={"settings": 3})
    rows, _ = quickly(gives("reference", ONE), gives("less", {"ys": ONE["ys"]}), other)
    assert rows["less"]["checked"].endswith("has no w_x")
    assert rows["relu"]["checked"] == "not compared: it is a ReLU" and rows["relu"]["settings"] == 3
    assert all("median_ms" in row["tasks"]["train"] for row in rows.values())


def test_one_that_is_left_out_or_fails_is_named_and_stops_no_other() -> None:
    large = Program(lambda: pytest.fail("it was run"), left_out="needs 9 GiB")
    rows, floor = quickly(
        Contestant("large", lambda: {"train": large}),
        contest.Contestant("missing", left_out="not installed"),
        Contestant("broken", lambda: {"train": Program(lambda: None, settle_s=1 / 0)}),
        Contestant("later", lambda: {"train": Program(lambda: 1 / 0)}),
        gives("reference", ONE),
        floor=Program(lambda: None),
    )
    assert rows["missing"]["left_out"] == "not installed" and "fault" not in rows["missing"]
    assert all(rows[name]["fault"].startswith("failed: ZeroDivisionError: ") for name in ("broken", "later"))
    assert rows["large"]["tasks"]["train"] == {"left_out": "needs 9 GiB"}
    assert rows["reference"]["checked"] == "train: the reference" and floor is not None


class World:
    """A clock, and programs that take time on it; `log` says which ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.log.append("sleep")
        self.now += seconds

    def takes(self, name: str, seconds: Callable[[], float] | float, **options: Any) -> Program:
        def call() -> None:
            self.now += seconds() if callable(seconds) else seconds
            self.log.append(name)

        return Program(call, **options)

    def run(self, takes: dict[str, Any], **options: Any) -> dict[str, Any]:
        programs = {name: self.takes(name, seconds) for name, seconds in takes.items()}
        return interleave(programs, clock=lambda: self.now, sleep=self.sleep, **options)


def test_times_are_milliseconds_per_call_and_a_sample_is_long_enough() -> None:
    drawn = iter([0.5, 0.5, 4.0, 0.5, 1.0, 0.5, 2.0, 0.5, 3.0])
    times = World().run({"a": 0.002, "b": lambda: next(drawn)}, rounds=4, sample_s=0.03)
    assert times["a"]["samples_ms"] == pytest.approx([2.0] * 4)
    assert 30 <= 2.0 * times["a"]["calls_per_sample"] <= 70
    assert times["b"]["calls_per_sample"] == 1 and times["b"]["samples_ms"] == pytest.approx([4e3, 1e3, 2e3, 3e3])
    assert (times["b"]["min_ms"], times["b"]["median_ms"], times["b"]["iqr_ms"]) == pytest.approx((1e3, 2.5e3, 1.5e3))


def test_each_takes_one_turn_per_round_in_an_order_that_changes_with_the_seed_alone() -> None:
    def rounds_of(seed: int) -> list[list[str]]:
        world = World()
        world.run(dict.fromkeys("abcd", 0.1), rounds=20, sample_s=0.01, seed=seed)
        turns = world.log[4:]  # the first four find out how long a call lasts
        return [turns[i : i + 8 : 2] for i in range(0, len(turns), 8)]  # each turn: a call to warm up, and one timed

    rounds = rounds_of(1)
    assert len(rounds) == 20 and all(sorted(one) == list("abcd") for one in rounds)
    assert {one[0] for one in rounds} == set("abcd") and len({tuple(one) for one in rounds}) > 5
    assert rounds == rounds_of(1) != rounds_of(2)


def test_a_cold_start_is_not_timed() -> None:
    """The first call after another contestant's is slow; only the second one counts."""
    world = World()
    cold = {name: lambda name=name: 0.1 if world.log[-1:] == [name] else 0.9 for name in "ab"}
    times = world.run(cold, rounds=5, sample_s=0.01)
    assert times["a"]["samples_ms"] == pytest.approx([100.0] * 5)


def test_the_budget_ends_the_rounds_but_not_before_three() -> None:
    for rounds, budget_s, least, most in ((50, 1.0, 3, 3), (2, 1.0, 2, 2), (50, 21.0, 4, 14)):
        times = World().run({"a": 2.0}, rounds=rounds, budget_s=budget_s)
        assert least <= len(times["a"]["samples_ms"]) <= most


def test_rest_after_a_sample_and_no_garbage_collection_in_it() -> None:
    world, seen = World(), []
    spins = world.takes("spins", 0.1, settle_s=0.2)
    looks = Program(lambda: seen.append(gc.isenabled()))
    programs = {"spins": spins, "looks": looks}
    interleave(programs, rounds=6, sample_s=1e-9, clock=lambda: world.now, sleep=world.sleep)
    assert world.log.count("sleep") == 6 and seen[-1] is False and gc.isenabled()

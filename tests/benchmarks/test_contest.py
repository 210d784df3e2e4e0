"""Who may be timed: only those whose numbers are the reference's."""

from typing import Any

import numpy as np
import pytest

from benchmarks.harness import Contestant, LeftOut, Program, Unequal, absent, contest
from benchmarks.harness.equality import check, errors

ONE = {"ys": np.array([1.0, -4.0]), "w_x": np.array([[2.0]])}


def gives(name: str, shared: Any, **options: Any) -> Contestant:
    return Contestant(name, lambda: {"train": Program(lambda: shared, lambda result: result)}, **options)


def quickly(*contestants: Contestant, **options: Any):
    entries, floor = contest(list(contestants), rounds=1, sample_s=0.0, **options)
    return {entry.name: entry for entry in entries}, floor


def test_errors_are_relative_to_the_largest_entry() -> None:
    found = errors({"ys": np.array([1.0, -4.4]), "w_x": ONE["w_x"]}, ONE)
    assert found["ys"] == pytest.approx(0.1) and found["w_x"] == 0.0


@pytest.mark.parametrize(
    "ys",
    [np.array([1.0, -4.01]), np.array([1.0, np.nan]), np.array([1.0, -np.inf]), np.array([1.0]), np.zeros(2)],
    ids=["value", "nan", "inf", "shape", "zeros"],
)
def test_other_numbers_are_refused_by_name(ys: np.ndarray) -> None:
    with pytest.raises(Unequal, match=r"me .*ys by"):
        check("me", {**ONE, "ys": ys}, ONE, 1e-4)


def test_a_shape_that_would_broadcast_is_refused() -> None:
    with pytest.raises(Unequal, match="ys by inf"):
        check("me", {"ys": np.full(2, 3.0)}, {"ys": np.full((2, 2), 3.0)}, 1e-4)


def test_zero_equals_nothing_but_zero() -> None:
    nothing = {"ys": np.zeros(2)}
    assert check("me", nothing, nothing, 1e-4) == 0.0
    with pytest.raises(Unequal):
        check("me", {"ys": np.full(2, 1e-30)}, nothing, 1e-4)


def test_a_missing_array_is_allowed_and_nothing_at_all_is_not() -> None:
    assert check("me", {"ys": ONE["ys"]}, ONE, 1e-4) == 0.0
    with pytest.raises(Unequal, match="nothing to compare"):
        check("me", {}, ONE, 1e-4)


def test_who_differs_gets_no_time_and_the_others_do() -> None:
    wrong = {**ONE, "w_x": np.array([[2.001]])}
    entries, _ = quickly(gives("reference", ONE), gives("wrong", wrong), gives("right", ONE))
    assert not entries["wrong"].times and "refused" in entries["wrong"].fault and "w_x" in entries["wrong"].fault
    assert set(entries["right"].times) == set(entries["reference"].times) == {"train"}
    assert entries["reference"].checked == "train: the reference"
    assert entries["right"].checked == "train: equal to reference within 0.0e+00"
    row = entries["wrong"].row()
    assert row["fault"] == entries["wrong"].fault and "median_ms" not in row["tasks"]["train"]


def test_what_is_missing_is_said() -> None:
    entries, _ = quickly(gives("reference", ONE), gives("less", {"ys": ONE["ys"]}))
    assert entries["less"].checked.endswith("has no w_x") and entries["less"].times


def test_another_function_is_timed_and_marked() -> None:
    other = {"ys": np.array([9.0, 9.0])}
    entries, _ = quickly(gives("reference", ONE), gives("relu", other, unchecked="it is a ReLU"))
    assert entries["relu"].times and entries["relu"].checked == "not compared: it is a ReLU"


def test_who_is_left_out_or_fails_is_named_and_stops_nobody() -> None:
    def broken() -> dict[str, Program]:
        raise RuntimeError("no such layer")

    def breaks_later() -> dict[str, Program]:
        return {"train": Program(lambda: 1 / 0, lambda result: {})}

    entries, _ = quickly(
        gives("reference", ONE),
        absent("missing", "not installed"),
        Contestant("broken", broken),
        Contestant("later", breaks_later),
    )
    assert entries["missing"].left_out == "not installed" and not entries["missing"].fault
    assert entries["broken"].fault.startswith("failed: RuntimeError: no such layer")
    assert entries["later"].fault.startswith("failed: ZeroDivisionError")
    assert [name for name, entry in entries.items() if entry.times] == ["reference"]


def test_ctrl_c_is_not_a_fault_of_a_contestant() -> None:
    def pressed() -> dict[str, Program]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quickly(Contestant("a", pressed))


def test_a_program_may_be_compiled_only() -> None:
    large = Program(lambda: pytest.fail("it was run"), lambda result: {}, left_out="needs 9 GiB")
    entries, _ = quickly(Contestant("large", lambda: {"train": large}), gives("small", ONE))
    assert not entries["large"].times and entries["large"].row()["tasks"]["train"]["left_out"] == "needs 9 GiB"
    assert entries["small"].checked == "train: the reference"


def test_the_floor_is_timed_in_the_same_rounds() -> None:
    entries, floor = quickly(gives("reference", ONE), floor=Program(lambda: None, lambda result: {}))
    assert floor is not None and len(floor.seconds) == len(entries["reference"].times["train"].seconds) == 1
    assert quickly(gives("reference", ONE))[1] is None


def test_left_out_is_an_exception_of_its_own() -> None:
    assert not issubclass(LeftOut, ValueError) and not issubclass(Unequal, LeftOut)

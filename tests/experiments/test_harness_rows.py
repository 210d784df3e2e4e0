"""What the harness writes: JSON that every reader takes, and rows that survive."""

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.harness import strict_json
from experiments.harness.rows import RowStore
from tests.experiments.toy import strictly

# Strict JSON


def test_not_a_number_becomes_null_with_its_reason_beside() -> None:
    given = {"a": math.nan, "b": [1.0, -math.inf, math.inf], "c": {"d": np.float32("inf")}, "e": np.array([[math.nan]])}
    got = strictly(json.dumps(strict_json.strict(given)))
    assert got["a"] is None and got["a_reason"] == "NaN"
    assert got["b"] == [1.0, None, None] and got["b_reason"] == "2 of 3 not finite: -inf at [1], +inf at [2]"
    assert got["c"] == {"d": None, "d_reason": "+inf"}
    assert got["e"] == [[None]] and got["e_reason"] == "1 of 1 not finite: NaN at [0, 0]"


def test_a_reason_given_by_hand_stays() -> None:
    assert strict_json.strict({"a_reason": "no closed form", "a": math.nan})["a_reason"] == "no closed form"


def test_arrays_records_and_paths_become_plain_values() -> None:
    @dataclasses.dataclass(frozen=True)
    class Point:
        x: float

    given = {
        "np": np.arange(2),
        "jax": jax.numpy.ones(()),
        "path": Path("a/b"),
        "point": Point(0.1),
        "bool": np.bool_(True),
    }
    assert strict_json.strict(given) == {"np": [0, 1], "jax": 1.0, "path": "a/b", "point": {"x": 0.1}, "bool": True}


@pytest.mark.parametrize("value", [{1: 2}, {"a": object()}, {"a": {"b": {3}}}, {"a": np.array([1j])}])
def test_what_json_cannot_hold_is_refused(value: dict[Any, Any]) -> None:
    with pytest.raises(TypeError, match=r"string|JSON"):
        strict_json.strict(value)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    strict_json.write(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        strict_json.write(path, {"a": 2})
    assert strictly(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["summary.json"]


# Rows


def test_a_finished_row_is_not_computed_twice_and_comes_back_equal(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> tuple[dict[str, Any], dict[str, Any]]:
        calls.append(1)
        return {"rate": 1 / 3, "bad": math.nan}, {"curve": np.array([0.1, math.inf])}

    first = RowStore(tmp_path, {"code": "x"})
    fresh = first.compute({"cell": "lstm", "scale": 0.5}, work)
    second = RowStore(tmp_path, {"code": "x"})
    again = second.compute({"scale": 0.5, "cell": "lstm"}, work)
    assert calls == [1]
    assert again == fresh and again.values == {"rate": 1 / 3, "bad": None, "bad_reason": "NaN"}
    np.testing.assert_array_equal(again.arrays["curve"], [0.1, math.inf])
    assert (first.computed, first.reused, second.computed, second.reused) == (1, 0, 0, 1)


def test_rows_of_other_options_code_or_precision_are_not_taken(tmp_path: Path) -> None:
    RowStore(tmp_path, {"code": "x", "x64": True}).put({"scale": 1.0}, {"rate": 0.0})
    assert RowStore(tmp_path, {"code": "x", "x64": True}).get({"scale": 1.0}) is not None
    assert RowStore(tmp_path, {"code": "x", "x64": True}).get({"scale": 1.5}) is None
    other = RowStore(tmp_path, {"code": "x", "x64": False})
    assert other.get({"scale": 1.0}) is None and other.stale == 1


def test_missing_and_put_many(tmp_path: Path) -> None:
    store = RowStore(tmp_path, {})
    todo = [{"length": n} for n in (5, 10, 20)]
    store.put_many([(todo[0], {"v": 0}, {}), (todo[2], {"v": 2}, {})])
    assert store.missing(todo) == [{"length": 10}]
    assert RowStore(tmp_path, {}).missing(todo) == [{"length": 10}]


def test_the_key_is_the_same_in_every_process(tmp_path: Path) -> None:
    text = '{"identity":{"code":"x"},"options":{"a":0.1,"b":[1,null]}}'
    expected = hashlib.sha256(text.encode()).hexdigest()[:24]
    assert RowStore(tmp_path, {"code": "x"}).key({"b": (1, None), "a": 0.1}) == expected


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_last_line_costs_that_row_only(tmp_path: Path, cut: int) -> None:
    store = RowStore(tmp_path, {})
    for n in range(3):
        store.put({"n": n}, {"v": n})
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    torn = RowStore(tmp_path, {})
    assert [torn.get({"n": n}) is not None for n in range(3)] == [True, True, False]
    torn.put({"n": 2}, {"v": 2})
    assert len(RowStore(tmp_path, {})) == 3


def test_a_changed_digit_or_array_is_noticed(tmp_path: Path) -> None:
    store = RowStore(tmp_path, {})
    row = store.put({"n": 0}, {"v": 1234}, {"a": np.zeros(3)})
    store.put({"n": 1}, {"v": 7})
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace('"v": 7', '"v": 8'))
    damaged = RowStore(tmp_path, {})
    assert damaged.get({"n": 1}) is None and damaged.get({"n": 0}) is not None and damaged.damaged == 1
    npz = tmp_path / "rows" / f"{row.key}.npz"
    data = bytearray(npz.read_bytes())
    data[len(data) // 2] ^= 1
    npz.write_bytes(bytes(data))
    assert RowStore(tmp_path, {}).get({"n": 0}) is None

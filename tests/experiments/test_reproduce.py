"""The table of published numbers: its exact rows come out, what a verdict is, and what a miss and an error lead to."""

import inspect
import json
import math
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import rnnjax
from experiments import reproduce
from experiments.lab import style
from experiments.reproduce import measures, recipes

ROWS = {row["name"]: row for row in reproduce.published()}


@pytest.fixture(autouse=True)
def as_a_user():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.get("exact")])
def test_an_exact_row_comes_out(name):
    row = ROWS[name]
    line = reproduce.verdict(row, True, getattr(measures, row["measure"])(**reproduce.arguments(row, quick=True)))
    assert line["verdict"] == "reproduced", (line["ours"], line["published"])


def test_the_table_is_whole():
    """No name hides another, each measurement is there and takes these arguments, and none is left over."""
    rows = reproduce.published()
    assert len(rows) == len(ROWS) == 66 and sum(row.get("exact", False) for row in rows) == 36
    functions = {name for name, own in vars(measures).items() if getattr(own, "__module__", "") == measures.__name__}
    assert {row["measure"] for row in rows} == functions
    assert {row["arguments"]["of"] for row in rows if row["measure"] == "expression"} == set(measures.EXPRESSIONS)
    for row in rows:
        assert row["tolerance"] >= 0 and math.isfinite(row["published"]) and row["source"] and row["what"]
        for quick in (False, True):
            inspect.signature(getattr(measures, row["measure"])).bind(**reproduce.arguments(row, quick))


def test_the_committed_table_is_that_of_rows_toml():
    committed = json.loads((Path(reproduce.__file__).parents[2] / "docs" / "reproduce" / "summary.json").read_text())
    now = [
        reproduce.verdict(row, False, {row.get("key", "value"): line["ours"]})
        for row, line in zip(ROWS.values(), committed["rows"], strict=True)
    ]
    kept = ("row", "what", "published", "unit", "tolerance", "verdict", "exact", "source")
    assert [[line[k] for k in kept] for line in now] == [[line[k] for k in kept] for line in committed["rows"]]


def test_verdicts():
    row = {"name": "pi", "what": "π", "published": 3.1416, "tolerance": 1e-4, "quick_tolerance": 0.5, "source": "A."}
    cases = [
        (3.14159, False, "reproduced"),
        (3.0, False, "missed"),
        (3.0, True, "reproduced"),
        (math.inf, False, "missed"),
    ]
    cases += [(none, False, "error") for none in (None, math.nan, [3.1416, None])]
    for ours, quick, word in cases:
        assert reproduce.verdict(row, quick, {"value": ours})["verdict"] == word
    line = reproduce.verdict(row, False, {"value": [1.0, 2.0, 4.0]})
    np.testing.assert_allclose([line["ours"], line["spread"], line["seeds"]], [7 / 3, math.sqrt(7 / 3), 3])


def pi(value: float = 3.14159) -> dict:
    return {"value": value}


def broken() -> dict:
    raise ZeroDivisionError("no number")


def test_a_missed_exact_row_fails_the_command_and_an_error_is_tried_again(tmp_path, monkeypatch, capsys):
    common = {"what": "π", "published": 3.1416, "tolerance": 1e-4, "source": "Archimedes", "measure": "pi"}
    rows = [common | {"name": "good", "exact": True}, common | {"name": "off", "arguments": {"value": 3.0}}]
    monkeypatch.setattr(reproduce, "THEMES", {"Circles": rows})
    monkeypatch.setattr(reproduce, "measures", types.SimpleNamespace(pi=pi, broken=broken))
    monkeypatch.setattr(style, "render", lambda fig: (b"\x89PNG", b"<svg/>"))

    def run(*arguments: str) -> tuple[int, dict]:
        status = reproduce.experiment.launch([*arguments, "--out", str(tmp_path)])
        return status, json.loads((tmp_path / "summary.json").read_text())

    status, summary = run()
    assert status == 0 and summary["missed"] == ["off"] and summary["rows"][0]["seconds"] is not None
    rows[0] |= {"measure": "broken"}
    rows[1] |= {"exact": True}
    status, summary = run()
    assert status == 1 and summary["failed_exact"] == ["good", "off"]
    assert summary["rows"][0]["error"] == "ZeroDivisionError: no number" and summary["rows_reused_count"] == 1
    rows[0] |= {"measure": "pi"}
    status, summary = run("--only", "go")
    assert status == 0 and [row["verdict"] for row in summary["rows"]] == ["reproduced"]
    assert run("--only", "fast")[0] == 2 and "choose from good, off" in " ".join(capsys.readouterr().err.split())


def test_the_order_task_is_theirs():
    """B first, E last, X or Y once in steps 3..12 and once in 25..40, in all four orders; the rest a, b, c, d."""
    batch = recipes.order_batch(jax.random.key(0), 300)
    tokens = np.asarray(batch.xs).argmax(-1)
    assert batch.xs.shape == (50, 300, 8) and (np.asarray(batch.xs).sum(-1) == 1).all()
    assert (tokens[0] == 6).all() and (tokens[-1] == 7).all() and (tokens[1:-1] < 6).all()
    steps, rows = np.nonzero((tokens == 4) | (tokens == 5))
    places = np.stack([np.sort(steps[rows == row]) for row in range(300)])
    assert (places.min(0) == [3, 25]).all() and (places.max(0) == [12, 40]).all()
    first, second = np.take_along_axis(tokens, places.T, axis=0) - 4
    np.testing.assert_array_equal(batch.targets[-1], 2 * first + second)
    assert set(np.asarray(batch.targets[-1])) == {0, 1, 2, 3} and set(np.unique(tokens)) == set(range(8))


def test_the_cell_of_1997_forgets_nothing():
    """As the LSTM with its forget gate wide open; what is in that gate's place does not matter."""
    cell, xs = recipes.LSTMWithoutForgetGate(3), jax.random.normal(jax.random.key(2), (6, 8), "float32")
    params = recipes.init_network(cell, 8, 4, (0.1, 0.2, 0.3), 0, -1.0, jax.random.key(1))["cell"]
    assert params.b.tolist() == [-1.0] * 3 + [0.0] * 9
    wide_open = params._replace(b=params.b.at[3:6].set(60.0))
    expected, _ = rnnjax.unroll(rnnjax.LSTM(3), wide_open, xs, engine="scan")
    for bias in (60.0, -60.0):
        found, _ = rnnjax.unroll(cell, params._replace(b=params.b.at[3:6].set(bias)), xs, engine="scan")
        np.testing.assert_allclose([found.h, found.c], [expected.h, expected.c], rtol=1e-6)

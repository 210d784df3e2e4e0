"""Gradient decay: the sweep against NumPy and closed forms, the lines by hand, and what a user may bring.

Networks are 8 units wide with 3 inputs and 2 seeds in most tests: what draws them is compiled for each shape.
"""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import rnnjax
from experiments import gradient_decay, lab
from experiments.gradient_decay import (
    decay,
    experiment,
    float32_death,
    line_by_lag,
    line_by_length,
    predicted,
    read_csv,
    redraw,
    redrawn,
    resolve,
    scalar_case,
    verdict,
)  # fmt: skip
from tests.experiments.decay_cells import Diagonal, Readout, two_layers

KINDS = ("orthogonal", "gain")
CELLS = "tests.experiments.decay_cells"


def noise(steps: int, width: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, width))


def sequences(cell: str, scales: Any, lengths: Any, kinds: Any = ("orthogonal",), seeds: int = 2) -> list[dict]:
    shared = {"cell": cell, "hidden_size": 8, "seed": 5}
    grid = [(k, s, t, i) for k in kinds for s in scales for t in lengths for i in range(seeds)]
    return [shared | {"kind": k, "scale": s, "length": t, "index": i} for k, s, t, i in grid]


def rows_of(asked: list[dict], xs: np.ndarray) -> list[lab.Row]:
    return [lab.Row(each, found, {}) for each, found in zip(asked, decay(asked, xs), strict=True)]


def by_hand(w_x, w_h, v, xs: np.ndarray) -> np.ndarray:
    """log |dL/dh_t|, t = 0..T, of a tanh network and L = <v, h_T>: one plain backward pass in NumPy."""
    hs = [np.zeros(len(v))]
    for x in xs:
        hs.append(np.tanh(x @ w_x + hs[-1] @ w_h))
    gradient = [v]
    for h in reversed(hs[1:]):
        gradient.append(w_h @ (gradient[-1] * (1 - h**2)))
    return np.log(np.linalg.norm(gradient[::-1], axis=1))


def test_the_sweep_is_each_network_by_hand(monkeypatch):
    """Kinds, scales, seeds and lengths in one program: each row is what NumPy has of a prefix and one network alone.

    Eight networks go three at a time: the last call is filled up with copies, which must not come back. A length that
    is asked for alone gives the same row.
    """
    monkeypatch.setattr(gradient_decay, "AT_ONCE", 3)
    xs, asked = noise(12), sequences("tanh", (0.4, 1.3), (2, 12, 7), KINDS)
    networks = gradient_decay._drawn(rnnjax.Elman(8), KINDS, 2, jax.random.key(5), xs)
    for row in rows_of(asked, xs):
        n = 2 * KINDS.index(row["kind"]) + row["index"]
        w_x, w_h, _ = (np.asarray(leaf[n]) for leaf in networks.params)
        v = np.asarray(networks.direction[n])
        np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-12)
        expected = by_hand(w_x, row["scale"] * w_h, v, xs[: row["length"]])
        np.testing.assert_allclose(row["log_norm"], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(row["float32_norm"], np.exp(expected), rtol=1e-4)
        radius = np.log(row["scale"] * np.abs(np.linalg.eigvals(w_h)).max())
        np.testing.assert_allclose(row["log_spectral_radius"], radius, rtol=1e-10, atol=1e-12)
        assert row["arrival_lag_steps"] == 0 and row["finite_steps_count"] == row["length"]
        if row["kind"] == "orthogonal":
            np.testing.assert_allclose(w_h @ w_h.T, np.eye(8), atol=1e-12)
    for leaf in (networks.params.w_x, networks.direction):  # a seed keeps W1 and v over kinds
        same = np.asarray(leaf).reshape(2, 2, *leaf.shape[1:])
        np.testing.assert_array_equal(same[0], same[1])
        assert not np.allclose(same[0, 0], same[0, 1])
    (alone,) = rows_of([asked[-1]], xs)
    np.testing.assert_allclose(alone["log_norm"], rows_of(asked, xs)[-1]["log_norm"], rtol=1e-12, atol=1e-13)


def test_layers_of_a_stack_are_drawn_apart():
    """One W2 in every layer would be another network than a stack; the first layer's is a lone layer's."""
    shapes = jax.eval_shape(lambda key: two_layers(8).init(key, 3), jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    paths = redrawn(two_layers(8), params, 3)
    first, second = (layer.w_h for layer in redraw(params, paths, jax.random.key(5), "gain"))
    assert first.shape == second.shape == (8, 24) and not np.allclose(first, second)
    alone = redraw(params[0], [".w_h"], jax.random.key(5), "gain").w_h
    np.testing.assert_array_equal(alone, first)
    assert not np.allclose(first[:, :8], first[:, 8:16])


def test_an_orthogonal_linear_network_over_2000_steps():
    """The rate is log(scale) to 1e-10 nats per step by length and by lag; float32 dies where squares of 0.5^k do."""
    rows = rows_of(sequences("linear", (0.5, 3.0), (100, 2000)), np.zeros((2000, 3)))
    for start, (scale, dies) in enumerate([(0.5, 63), (3.0, 64 / math.log2(3))]):
        own = rows[4 * start : 4 * start + 4]
        growth, source = predicted("linear", "orthogonal", scale, np.zeros((2000, 3)), 0.0)
        assert growth is not None and source == "log scale"
        lag_line = line_by_lag(own[2:], growth)
        for line in (line_by_length(own[:2], growth, source), line_by_length(own[2:], growth, source), lag_line):
            assert line["rate_nats_per_step"] == pytest.approx(math.log(scale), abs=1e-10)
            assert line["predicted_rate_nats_per_step"] == pytest.approx(math.log(scale), abs=1e-12)
            assert line["surviving_fraction"] == 1 and line["rate_nats_per_step_std"] < 1e-10
        assert lag_line["float32_norm_dies_at_lag_steps"] == pytest.approx(dies, abs=3)
    assert line_by_length(rows[6:], None, None)["forward_overflow_fraction"] == 0  # the input is zero


def test_an_output_apart_from_the_carry():
    """y = 2h is computed after the carry, so the gradient enters it one step earlier; the rate is log(scale) still."""
    rows = rows_of(sequences(f"{CELLS}:Readout", (0.5,), (2, 30)), noise(30))
    assert all(row["arrival_lag_steps"] == 1 and row["log_norm"][-1] == -np.inf for row in rows)
    assert line_by_length(rows[:2], None, None)["rate_nats_per_step"] is None
    for line in (line_by_length(rows[2:], None, None), line_by_lag(rows[2:], None)):
        assert line["rate_nats_per_step"] == pytest.approx(math.log(0.5), abs=1e-12)


def test_the_theory_stands_at_the_right_step():
    """Quiet input, then strong: the measured growth of each single step is the predicted one, not its neighbour's."""
    rng = np.random.default_rng(1)
    xs = np.concatenate([0.1 * noise(12), 4 * np.sign(noise(8)), 0.1 * noise(12)])
    growth, _ = predicted("tanh", "gain", 1.0, xs, 0.0)
    assert growth is not None and np.ptp(growth) > 1
    curves = []
    for _ in range(8):
        w_x, w_h, v = rng.normal(size=(3, 100)) / 3**0.5, rng.normal(size=(100, 100)) / 10, rng.normal(size=100)
        curves.append(by_hand(w_x, w_h, v / np.linalg.norm(v), xs))
    assert np.abs(-np.diff(np.mean(curves, axis=0)) - growth).max() < 0.2
    relu, _ = predicted("relu", "gain", 2**0.5, xs, 0.0)
    assert relu is not None and np.abs(relu).max() < 1e-12
    assert predicted("lstm", "gain", 1.0, xs, 0.0) == (None, None)


@pytest.mark.parametrize("w2", [0.5, 2.0])
def test_the_scalar_case_is_exact(w2):
    case = scalar_case(w2)
    assert case["gradient"] == case["closed_form"] == w2**50
    assert case["log_gradient_nats"] == pytest.approx(case["log_closed_form_nats"], rel=1e-12)


def straight(rates: Any, steps: int, finite: Any = None) -> list[lab.Row]:
    """Rows whose log gradient falls by a rate per step."""
    asked = {"cell": "x", "kind": "gain", "scale": 1.0, "length": steps}
    finite = finite or [steps] * len(rates)
    curves = [rate * np.arange(steps, -1, -1.0) for rate in rates]
    values = [{"arrival_lag_steps": 0, "finite_steps_count": count} for count in finite]
    arrays = [{"log_norm": curve, "float32_norm": np.exp(curve)} for curve in curves]
    return [lab.Row(asked, *each) for each in zip(values, arrays, strict=True)]


def test_lines_are_arithmetic():
    """Mean and spread over seeds (with 1/N), half-lives, and the rate from the lag that was travelled."""
    rows = straight([-0.1, -0.3], 11)
    line = line_by_length(rows, None, None)
    assert line["log10_gradient_mean"] == pytest.approx(-2 / math.log(10)) and line["verdict"] == "stable"
    assert line["log10_gradient_std"] == pytest.approx(1 / math.log(10))
    for each in (line, line_by_lag(rows, None)):
        assert each["rate_nats_per_step"] == pytest.approx(-0.2)
        assert each["rate_nats_per_step_std"] == pytest.approx(0.1)
        assert each["half_life_steps"] == pytest.approx(math.log(2) / 0.2) and each["doubling_time_steps"] is None
    grown = line_by_length(straight([0.5], 100), None, None)
    assert grown["verdict"] == "exploding" and grown["doubling_time_steps"] == pytest.approx(math.log(2) / 0.5)


def test_seeds_that_die_or_overflow_are_counted_and_left_out():
    """Exact zeros and states beyond floating point are no numbers to average; a linear cell's state does not matter."""
    rows = straight([-0.1, -0.3, 0.7], 20, finite=[20, 20, 15])
    rows[0]["log_norm"][:8] = -np.inf  # from lag 13 on
    line = line_by_length(rows, None, None)
    assert line["surviving_fraction"] == line["forward_overflow_fraction"] == pytest.approx(1 / 3)
    for each in (line, line_by_lag(rows, None)):
        assert each["rate_nats_per_step"] == pytest.approx(-0.3)
    for row in rows:
        row["cell"] = "linear"
    assert line_by_length(rows, None, None)["surviving_fraction"] == pytest.approx(2 / 3)
    rows[1]["log_norm"][:-1] = rows[2]["log_norm"][:-1] = -np.inf
    line = line_by_length(rows, None, None)
    assert line["verdict"] == "zero" and line["log10_gradient_mean"] is None and line["half_life_steps"] is None


@pytest.mark.parametrize(
    ("log10_gradient", "overflow", "expected"),
    [(1.0, 0, "stable"), (1.001, 0, "exploding"), (-1.001, 0, "vanishing"), (None, 0.5, "zero"), (None, 1, "overflow")],
)
def test_verdicts(log10_gradient, overflow, expected):
    assert verdict(log10_gradient, overflow) == expected


def test_float32_dies_where_half_of_the_seeds_have():
    """The median over seeds of the first dead lag; zeros that are true are not counted."""
    norms, curve = np.ones((3, 6)), np.zeros((3, 6))
    norms[0, 2:], norms[1, 4:] = 0, np.inf
    assert float32_death(norms, curve) == 4.0
    curve[0, 2:] = -np.inf
    assert float32_death(norms, curve) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", rnnjax.Elman(8, activation="relu")),
        (f"{CELLS}:Readout", Readout(8)),  # a class
        (f"{CELLS}:Diagonal", Diagonal(8)),  # W2 is a vector
        (f"{CELLS}:two_layers", two_layers(8)),  # a function that makes a cell
        (f"{CELLS}:INSTANCE", rnnjax.LSTM(3)),  # a cell, of a size of its own
    ],
)
def test_cells_by_name(name, expected):
    assert resolve(name, 8) == expected


REFUSED = {
    "MyCell": "write package.module:name",
    "no_such_module:MyCell": "cannot be imported",
    "math:pi": "called with hidden_size=8, failed",
    f"{CELLS}:NotACell": "has no init, initial_carry, step",
    f"{CELLS}:Unhashable": "unhashable",
    f"{CELLS}:Forgetful": "none of its parameters multiplies its carry",
    f"{CELLS}:TwoOutputs": "its output must be one vector",
    f"{CELLS}:Float32": "three steps of it in float64 fail",
    f"{CELLS}:Impure": "is the step pure?",
}


@pytest.mark.parametrize("name", REFUSED)
def test_cells_that_cannot_be_measured(name):
    with pytest.raises(lab.UsageError) as error:
        resolve(name, 8)
    assert name in str(error.value) and REFUSED[name] in str(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cells": ("lstn",)}, "--cells lstn: unknown"),
        ({"cells": ()}, "name at least one"),
        ({"scales": (0.0,)}, "a scale is a finite number above zero"),
        ({"lengths": (1,)}, "--lengths is 1: it should be greater than or equal to 2"),
        ({"lengths": (5, 3270)}, "--lengths has 3270, but the input has only 3269 steps"),
        ({"tickers": ("XYZ",)}, "XYZ"),
    ],
)
def test_options_that_make_no_sense(given, says):
    with pytest.raises(lab.UsageError) as error:
        gradient_decay.Options(**given)
    assert says in str(error.value)


def test_scales_as_a_range():
    assert gradient_decay.Options(scales=("0.5:2:4", 3.0)).scales == (0.5, 1.0, 1.5, 2.0, 3.0)  # pyright: ignore
    with pytest.raises(lab.UsageError, match="--scales"):
        gradient_decay.Options(scales=("0.5:2",))  # pyright: ignore


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("header", ["", "day,a,b\n"])
def test_a_csv_of_ones_own(tmp_path, header):
    path = written(tmp_path / "my.csv", header + "mon,1,10\ntue,2,30\nwed,4,20\n")
    xs, record = read_csv(path, raw=True)
    assert xs.tolist() == [[1, 10], [2, 30], [4, 20]] and record["columns"] == 2 and len(record["sha256"]) == 64
    standardized, _ = read_csv(path)
    np.testing.assert_allclose(standardized.std(axis=0), 1)
    np.testing.assert_allclose(standardized.mean(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n3,nan\n5,6\n7,8\n", "line 3, column b: 'nan'"),
        ("1,2\n3,4\n5,\n7,8\n", "line 3, column 2: ''"),
        ("1,2\n3,oops\n5,6\n7,8\n", "line 2, column 2: 'oops'"),
        ("1,2\n3,inf\n5,6\n7,8\n", "line 2, column 2: 'inf'"),
        ("a,b\nx,y\nz,w\n", "no column of numbers"),
        ("1,2\n1,3\n1,4\n", "column 1 is constant"),
        ("1,2\n1,3,4\n", "cannot be read"),
    ],
)
def test_a_csv_that_is_refused(tmp_path, text, says):
    with pytest.raises(lab.UsageError) as error:
        read_csv(written(tmp_path / "my.csv", text))
    assert says in str(error.value)


def test_a_new_scale_seed_or_length_is_computed_alone(tmp_path):
    """... from a CSV of one's own; and its rows are those of a run that asks for all at once."""
    data = written(tmp_path / "my.csv", "\n".join(f"{a},{b},{c}" for a, b, c in noise(9)))
    given: Any = {"cells": ("linear",), "kinds": ("gain",), "hidden_size": 8, "data": data, "seed": 5}
    whole = {"scales": (0.5, 2.0), "seeds": 3, "lengths": (5, 9)}
    parts = [{"scales": (0.5,), "seeds": 2, "lengths": (5,)}]
    parts += [parts[-1] | {name: value} for name, value in whole.items()]
    counts = []
    for part in [*parts, whole]:
        experiment(out=tmp_path / "run", **given, **part)
        counts.append(len((tmp_path / "run" / "rows.jsonl").read_text().splitlines()))
    assert counts == [2 + 2, 2 + 4, 2 + 5, 2 + 7, 2 + 12]
    for row, alone in zip(
        experiment(out=tmp_path / "run", **given, **whole), experiment(**given, **whole), strict=True
    ):
        assert row.asked == alone.asked
        for name in row.arrays:
            np.testing.assert_allclose(row[name], alone[name], rtol=1e-6, atol=1e-12)

"""Gradient decay piece by piece: the sweep against NumPy and closed forms, the theory against the sweep.

Networks are drawn 8 units wide, for 3 inputs and 2 seeds, in all tests: what draws them is compiled for each shape.
"""

import math
from typing import Any

import jax
import numpy as np
import pytest

import rnnjax
from experiments.gradient_decay import __main__ as main
from experiments.gradient_decay import sweep
from experiments.gradient_decay.cells import recurrent_weights, redraw, resolve
from experiments.gradient_decay.options import Options
from experiments.gradient_decay.scalar import scalar_case
from experiments.gradient_decay.sweep import measure_cell
from experiments.gradient_decay.table import curves_by_lag, row_by_lag, rows_by_length
from experiments.gradient_decay.theory import Prediction, predict
from tests.experiments.decay_cells import Readout, two_layers

KINDS = ("orthogonal", "gain")
KEY = jax.random.key(5)


def noise(steps: int, width: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, width))


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
    """Kinds, scales, seeds and lengths in one program, lengths by masking: each as NumPy has it from a prefix alone.

    Eight networks go three at a time: the last call is filled up with copies, which must not come back.
    """
    monkeypatch.setattr(sweep, "_AT_ONCE", 3)
    cell, xs, scales, lengths, told = rnnjax.Elman(8), noise(12), (0.4, 1.3), (2, 12, 7), []
    measured = measure_cell(cell, xs, KINDS, scales, lengths, 2, KEY, told.append)
    networks = sweep._draw(cell, KINDS, 2, KEY, xs)
    assert told == [3, 3, 2] and all(len(each) == 8 for each in measured) and measured.curve.shape == (8, 13)
    for n, (kind, scale, seed) in enumerate(np.ndindex(2, 2, 2)):
        w_x, w_h, _ = (np.asarray(leaf[kind * 2 + seed]) for leaf in networks.params)
        v = np.asarray(networks.direction[kind * 2 + seed])
        np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-12)
        network = w_x, scales[scale] * w_h, v
        np.testing.assert_allclose(measured.curve[n], by_hand(*network, xs), rtol=1e-10, atol=1e-12)
        for column, length in enumerate(lengths):
            expected = by_hand(*network, xs[:length])[1]
            np.testing.assert_allclose(measured.log_gradient[n, column], expected, rtol=1e-10)
        np.testing.assert_allclose(measured.float32_norm[n], np.exp(measured.curve[n]), rtol=1e-4)
        expected = np.log(scales[scale] * np.abs(np.linalg.eigvals(w_h)).max())
        np.testing.assert_allclose(measured.log_spectral_radius[n], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(measured.arrival, 0, atol=1e-12)
    assert (measured.arrival_lag == 0).all() and (measured.finite_steps == 12).all()


def test_what_is_drawn():
    """Orthogonal means orthogonal; a seed keeps W1 and v over kinds, and differs from other seeds in all of them."""
    networks = sweep._draw(rnnjax.Elman(8), KINDS, 2, KEY, noise(12))
    w_h = np.asarray(networks.params.w_h).reshape(2, 2, 8, 8)
    np.testing.assert_allclose(w_h[0] @ w_h[0].swapaxes(-1, -2), np.broadcast_to(np.eye(8), (2, 8, 8)), atol=1e-12)
    assert np.linalg.norm(w_h[1] @ w_h[1].swapaxes(-1, -2) - np.eye(8)) > 0.5
    for leaf in (networks.params.w_x, networks.direction):
        same = np.asarray(leaf).reshape(2, 2, *leaf.shape[1:])
        np.testing.assert_array_equal(same[0], same[1])
    for leaf in (networks.params.w_h, networks.params.w_x, networks.direction):
        assert not np.allclose(leaf[0], leaf[1])


def test_layers_of_a_stack_are_drawn_apart():
    """One W2 in every layer would be another network than a stack; the first layer's is a lone layer's."""
    shapes = jax.eval_shape(lambda key: two_layers(8).init(key, 3), jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    for kind in KINDS:
        first, second = recurrent_weights(redraw(params, KEY, kind))
        assert first.shape == second.shape == (8, 24) and not np.allclose(first, second)
        (alone,) = recurrent_weights(redraw(params[0], KEY, kind))
        np.testing.assert_array_equal(alone, first)
        assert not np.allclose(first[:, :8], first[:, 8:16])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gru", rnnjax.GRU(8)),
        ("relu", rnnjax.Elman(8, activation="relu")),
        ("tests.experiments.decay_cells:Readout", Readout(8)),  # a class
        ("tests.experiments.decay_cells:two_layers", two_layers(8)),  # a function that makes a cell
        ("tests.experiments.decay_cells:INSTANCE", rnnjax.LSTM(3)),  # a cell, of a size of its own
        ("rnnjax:LSTM", rnnjax.LSTM(8)),
    ],
)
def test_cells_by_name(name, expected):
    """Whatever is behind the name, a cell comes out, of the hidden size asked for if it does not have one."""
    assert resolve(name, 8) == expected


def by_options(name: str, **changes: Any) -> tuple[list, list, dict]:
    """Rows, rows by lag and curves as a run has them."""
    options = Options(**({"kinds": ("orthogonal",), "hidden_size": 8, "seeds": 2, "input": "gaussian"} | changes))
    options.check()
    xs, _ = main._input(options)
    values, curves = main._measure(options, name, xs, lambda *args, **kwargs: None)
    return values["rows"], values["lag_rows"], curves


def flushed(values: np.ndarray) -> np.ndarray:
    """float32 as XLA has it on a CPU: what is smaller than the smallest normal number is zero."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


def test_an_orthogonal_linear_network_over_2000_steps():
    """The rate is log(scale) to 1e-6 nats per step by length and by lag; its float32 norm dies where NumPy's does.

    In float32 the entries 0.5^k live down to 2^-126, but their squares only to k = 63 or so.
    """
    scales = (0.1, 0.5, 1.0, 3.0)
    rows, lag_rows, curves = by_options("linear", scales=scales, lengths=(5, 100, 2000))
    assert len(rows) == 12 and {row["prediction"] for row in rows} == {"log scale"}
    for row in rows + lag_rows:
        assert row["rate_nats_per_step"] == pytest.approx(math.log(row["scale"]), abs=1e-10)
        assert row["predicted_rate_nats_per_step"] == pytest.approx(math.log(row["scale"]), abs=1e-12)
        assert row["rate_nats_per_step_std"] < 1e-10
    for row in rows:
        expected = (row["length"] - 1) * math.log10(row["scale"])
        assert row["log10_gradient_mean"] == pytest.approx(expected, abs=1e-8) and row["surviving_fraction"] == 1
    assert [row["forward_overflow_fraction"] for row in rows if row["length"] == 2000] == [0, 0, 0, 1]
    for scale in scales:
        np.testing.assert_allclose(curves[f"orthogonal/{scale}/mean"], curves[f"orthogonal/{scale}/theory"], atol=1e-8)

    cell, xs = rnnjax.Elman(8, activation="linear"), np.zeros((2000, 3))
    networks = sweep._draw(cell, ("orthogonal",), 2, jax.random.key(0), xs)
    deaths = []
    for w_h, v in zip(np.asarray(networks.params.w_h), np.asarray(networks.direction), strict=True):
        w_h, gradient, lag = (0.5 * w_h).astype(np.float32), v.astype(np.float32), 0
        while np.sqrt(flushed(gradient * gradient).sum()) > 0:
            gradient, lag = flushed(w_h @ gradient), lag + 1
        deaths.append(lag)
    found = {row["scale"]: row["float32_norm_dies_at_lag_steps"] for row in lag_rows}
    assert found[0.5] == np.median(deaths) and 60 <= found[0.5] <= 66
    assert found[1.0] is None and found[0.1] == pytest.approx(63 / math.log2(10), abs=2)
    assert found[3.0] == pytest.approx(64 / math.log2(3), abs=2)


def test_an_output_apart_from_the_carry():
    """y = 2h is computed after the carry, so the gradient enters it one step earlier; the rate is log(scale) still."""
    measured = measure_cell(Readout(8), noise(30), ("orthogonal",), (0.5,), (2, 3, 30), 2, KEY)
    assert (measured.arrival_lag == 1).all() and (measured.curve[:, -1] == -np.inf).all()
    rows = rows_by_length({}, measured, (2, 3, 30), None, linear=False)
    assert rows[0]["rate_nats_per_step"] is None and rows[0]["log10_gradient_mean"] is not None
    assert [row["rate_nats_per_step"] for row in rows[1:]] == pytest.approx([math.log(0.5)] * 2, abs=1e-12)
    lag_row = row_by_lag({}, measured, None, linear=False)
    assert lag_row["rate_nats_per_step"] == pytest.approx(math.log(0.5), abs=1e-12)
    assert lag_row["surviving_fraction"] == 1 and lag_row["float32_norm_dies_at_lag_steps"] is None
    assert np.isnan(curves_by_lag(measured)["mean"][0]) and np.isfinite(curves_by_lag(measured)["mean"][1:]).all()


def test_the_theory_stands_at_the_right_step():
    """Quiet input, then strong: the measured growth of each single step is the predicted one, not its neighbour's."""
    rng = np.random.default_rng(1)
    xs = np.concatenate([0.1 * noise(12), 4 * np.sign(noise(8)), 0.1 * noise(12)])
    prediction = predict("tanh", "gain", 1.0, xs, np.zeros(1))
    assert prediction is not None and not prediction.exact and np.ptp(prediction.rates) > 1
    curves = []
    for _ in range(8):
        w_x, w_h, v = rng.normal(size=(3, 100)) / 3**0.5, rng.normal(size=(100, 100)) / 10, rng.normal(size=100)
        curves.append(by_hand(w_x, w_h, v / np.linalg.norm(v), xs))
    curve = np.mean(curves, axis=0)
    assert np.abs(-np.diff(curve) - prediction.rates).max() < 0.2
    np.testing.assert_allclose(prediction.by_lag(), np.cumsum([0, *prediction.rates[::-1]]))
    assert prediction.over(32) * 31 == pytest.approx(prediction.by_lag()[31])
    assert (curve[1] - curve[-1]) / 31 == pytest.approx(prediction.over(32), abs=0.05)


def test_what_closed_forms_there_are():
    """log s, log ρ, mean field for tanh and ReLU; none for gated cells or a user's own."""
    xs, radius = noise(7), np.log([0.8, 1.2])
    exact = predict("linear", "orthogonal", 0.5, xs, radius)
    assert exact is not None and exact.exact and (exact.rates == math.log(0.5)).all()
    drawn = predict("linear", "gain", 0.5, xs, radius)
    assert drawn is not None and not drawn.exact and drawn.over(5) == pytest.approx(radius.mean())
    relu = predict("relu", "gain", 2**0.5, xs, radius)
    assert relu is not None and relu.over(7) == pytest.approx(0, abs=1e-12)
    assert [predict(name, "gain", 1.0, xs, radius) for name in ("lstm", "gru", "mine:Cell")] == [None] * 3
    assert Prediction(np.arange(4.0), "", True).over(3) == 1.5


@pytest.mark.parametrize("w2", [0.5, 2.0])
def test_the_scalar_case_is_exact(w2):
    case = scalar_case(w2)
    assert case["gradient"] == case["closed_form"] == w2**50
    assert case["log_gradient_nats"] == pytest.approx(case["log_closed_form_nats"], rel=1e-12)

"""Experiments on closed forms: their measuring functions against NumPy written out, and what small runs report."""

from typing import Any

import jax
import numpy as np
import pytest

from experiments import all as everything
from experiments import curse_of_memory, driven_edge, float_horizon, linear_spectra, lstm_memory, waterfall
from experiments.tanh_phase_diagram import leading_and_mean, networks, whole_spectrum


@pytest.mark.parametrize("network", [0, 3])
def test_without_recurrent_weights_each_unit_of_an_lstm_keeps_what_its_gate_keeps(network: int) -> None:
    """The mean over units of σ(b_f)^k, for the biases that chrono drew for this network."""
    keys = jax.random.split(jax.random.split(jax.random.key(0), 4)[network], 3)
    u = np.exp(np.asarray(lstm_memory.forget_biases("chrono", 16, 50, keys[1])))
    assert (u >= 1).all() and (u <= 49).all() and np.ptp(u) > 1
    found = lstm_memory.memory("chrono", "closed", hidden_size=16, steps=60, t_max=50, seed=0, network=network)
    expected = np.log(((u / (1 + u)) ** np.arange(60)[:, None]).mean(axis=1))
    np.testing.assert_allclose(found["log_share"], expected, rtol=1e-10, atol=1e-12)
    assert 10 ** lstm_memory.log10_closed_form("chrono", 501, 500)[500] == pytest.approx(0.149, abs=5e-4)


@pytest.mark.parametrize(("student", "teacher"), [(0.2, 0.7), (0.9, 0.5), (-0.4, 0.6), (0.6, 0.6)])
def test_the_valley_is_the_sum_over_what_is_remembered(student: float, teacher: float) -> None:
    """h - h* = Σ_k (λ^k - λ*^k) x_{t-k}."""
    k = np.arange(500)
    expected = ((student**k - teacher**k) ** 2).sum()
    assert curse_of_memory.valley(np.array(student), teacher) == pytest.approx(expected, abs=1e-12)


def test_moments_are_those_of_a_loop_over_the_same_noise() -> None:
    """h and ∂h/∂λ step by step, without the transient."""
    key, lam, steps, transient = jax.random.key(3), 0.8, 60, 20
    h, slope, states, slopes = np.zeros(3), np.zeros(3), [], []
    for x in np.asarray(curse_of_memory._noise(key, steps, 3))[..., 0]:
        h, slope = lam * h + x, h + lam * slope
        states.append(h)
        slopes.append(slope)
    found = curse_of_memory._moments(np.float64(lam), key, 3, steps, transient)
    expected = [(np.array(each)[transient:] ** 2).mean(axis=0) for each in (states, slopes)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_lag_of_death_is_the_first_dead_one() -> None:
    plain = np.array([[1.0, 0.5, 0.0, 0.0], [1.0, 2.0, np.inf, np.nan], [1.0, 1.0, 1.0, 1.0], [1.0, np.nan, 1.0, 1.0]])
    np.testing.assert_array_equal(float_horizon.death_lags(plain), [2, 2, np.nan, 1])


@pytest.mark.parametrize(("scale", "kind", "dtype", "lag"), [
    (0.5, "norm", "float32", 64), (0.5, "gradient", "float32", 127), (0.5, "norm", "float64", 512),
    (2.0, "norm", "float32", 64), (2.0, "gradient", "float64", 1024), (0.25, "gradient", "float64", 512),
])  # fmt: skip
def test_one_unit_dies_at_the_predicted_lag(scale: float, kind: str, dtype: str, lag: int) -> None:
    """scale^k in NumPy's own arithmetic, subnormals flushed as XLA does."""
    log_size = np.log(scale) * np.arange(1100)[None]
    assert float_horizon.predicted_lags(kind, dtype, log_size, log_size)[0] == lag
    value, count = np.ones((), dtype), 0
    with np.errstate(over="ignore", under="ignore"):
        while np.finfo(dtype).tiny <= (value * value if kind == "norm" else value) < np.inf:
            value, count = value * np.asarray(scale, dtype), count + 1
    assert count == lag and abs(float_horizon.closed_form_lag(kind, dtype, scale) - lag) <= 1


@pytest.mark.parametrize("matrices", ["fresh", "frozen"])
def test_norms_are_those_of_the_matrices_drawn(matrices: str) -> None:
    """‖W_1 ... W_k v‖² from the end back, from the same draws."""
    size, lags, draws = 6, 12, 50
    found = linear_spectra.log_squared_norms(matrices, size, 1.0, lags, draws, 7)
    for key, log_norms in zip(jax.random.split(jax.random.key(7), draws), found, strict=True):
        key_w, key_v = jax.random.split(key)
        v = np.asarray(jax.random.normal(key_v, (size,), "float64"))
        count = lags if matrices == "fresh" else 1
        w = np.asarray(jax.random.normal(key_w, (count, size**2), "float64")).reshape(count, size, size) / size**0.5
        v, expected = v / np.linalg.norm(v), [0.0]
        for t in reversed(range(lags)):
            v = w[t % count] @ v
            expected.append(np.log(v @ v))
        np.testing.assert_allclose(log_norms, expected, rtol=1e-10, atol=1e-12)
    overflowing = np.array([[1000.0, 0.0], [1000.0, np.log(3.0)]])
    np.testing.assert_allclose(linear_spectra.log_mean_exp(overflowing), [1000.0, np.log(2.0)], rtol=1e-14)


TRANSIENT, STEPS, LEADING_STEPS = 100, 500, 700  # the small runs below have the same transient, and share programs
EDGE_SIZE, EDGE_GAINS = (
    64,
    (0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4),
)


def exponents_by_hand(gain: float, noise: np.ndarray, seed: int) -> np.ndarray:
    """All exponents, QR at every step, of one tanh network; noise is `[T, H]`."""
    params, start = networks(noise.shape[1], (gain,), seed)
    w, h, q, logs = gain * np.asarray(params.w_h), np.asarray(start[0]), np.eye(noise.shape[1]), []
    for x in noise:
        h = np.tanh(h @ w + x)
        q, r = np.linalg.qr((1 - h**2)[:, None] * w.T @ q)
        logs.append(np.log(np.abs(np.diag(r))))
    return np.mean(logs[TRANSIENT:], axis=0)


def test_leading_mean_and_all_exponents_are_those_of_a_loop() -> None:
    """The leading one nearly: its first perturbation is another, turned to the same direction by the transient."""
    found = leading_and_mean(12, (0.5, 2.0), LEADING_STEPS, TRANSIENT, seed=4)
    expected = [exponents_by_hand(gain, np.zeros((LEADING_STEPS, 12)), seed=4) for gain in (0.5, 2.0)]
    np.testing.assert_allclose(found["leading"], [each[0] for each in expected], atol=5e-3)
    np.testing.assert_allclose(found["mean"], [each.mean() for each in expected], atol=1e-9)
    spectrum, by_hand = whole_spectrum(12, 2.0, STEPS, TRANSIENT, 4), exponents_by_hand(2.0, np.zeros((STEPS, 12)), 4)
    np.testing.assert_allclose(spectrum["exponents"], by_hand, atol=5e-3)
    assert spectrum["mean"] == pytest.approx(by_hand.mean(), abs=1e-9)


def test_the_driven_exponent_is_that_of_a_loop_over_the_same_noise() -> None:
    found = driven_edge.leading_exponents(EDGE_SIZE, EDGE_GAINS, 0.25, STEPS, TRANSIENT, seed=4)
    key = jax.random.fold_in(jax.random.key(4), 1)
    noise = 0.5 * np.asarray(jax.random.normal(key, (STEPS, 1, EDGE_SIZE), "float64"))[:, 0]
    for i in (0, 3):  # below the edge: a chaotic trajectory would part from NumPy's within some 200 steps
        assert found["leading"][i] == pytest.approx(exponents_by_hand(EDGE_GAINS[i], noise, seed=4)[0], abs=5e-3)


@pytest.mark.parametrize(("exponents", "crossing"), [
    ([-3.0, -1.0, 3.0, 5.0], 2.25), ([-1.0, 0.5, -0.5, 0.5], 3.5), ([1.0, 2.0, 3.0, 4.0], np.nan), ([-4.0] * 4, np.nan),
])  # fmt: skip
def test_where_a_line_crosses_zero(exponents: list[float], crossing: float) -> None:
    found = driven_edge.zero_crossing(np.array([1.0, 2.0, 3.0, 4.0]), np.array(exponents))
    np.testing.assert_allclose(found, crossing, rtol=1e-12)


def test_the_waterfall_s_task_and_mean_field() -> None:
    """The target is the first input, and only it is marked; the variance is integrated on a grid."""
    xs, targets = waterfall.sequences(jax.random.split(jax.random.key(0), 3)[2], 3, 512)
    np.testing.assert_array_equal(targets, xs[0, :, 0])
    np.testing.assert_array_equal(xs[..., 1], np.arange(3)[:, None] == np.zeros((1, 512)))
    z, dz = np.linspace(-8, 8, 4001, retstep=True)
    weights = np.exp(-(z**2) / 2) * dz / np.sqrt(2 * np.pi)
    variance, rates = np.zeros(64), []
    for drive in (np.asarray(xs)[:, :64] ** 2).sum(axis=-1) / 2:
        variance = 0.9**2 * np.tanh(np.sqrt(variance)[:, None] * z) ** 2 @ weights + drive
        rates.append(np.mean(0.5 * np.log(0.9**2 * np.cosh(np.sqrt(variance)[:, None] * z) ** -4.0 @ weights)))
    found = waterfall.closed_form("tanh", (0.9,), 3, 0)
    assert found is not None
    np.testing.assert_allclose(found[0], np.concatenate([[0], np.cumsum(rates[::-1])]), rtol=1e-8)


SMALL: dict[str, dict[str, Any]] = {
    "lstm_memory": {"inits": ("1", "chrono"), "hidden_size": 16, "seeds": 4, "steps": 60, "t_max": 50},
    "curse_of_memory": {"lambdas": (0.0, 0.9), "teachers": (0.5,), "sequences": 64, "steps": 500},
    "float_horizon": {"cells": ("linear",), "scales": (0.5, 2.0), "seeds": 2, "steps": 140, "hidden_size": 8},
    "linear_spectra": {"hidden_size": 6, "steps": 400, "seeds": 3, "draws": 50, "scales": (0.5,), "lags": 12},
    "tanh_phase_diagram": {
        "gains": (0.5, 2.0), "spectrum_gains": (2.0,), "hidden_size": 12, "spectrum_sizes": (12,), "seeds": 3,
        "steps": LEADING_STEPS, "spectrum_steps": (STEPS,),
    },
    "driven_edge": {
        "variances": (0.5, 2.0), "hidden_size": EDGE_SIZE, "steps": STEPS, "seeds": 3, "map_size": EDGE_SIZE,
        "map_steps": STEPS, "map_variances": 2, "map_gains": EDGE_GAINS,
    },
    "waterfall": {
        "cells": ("linear",), "scales": (0.7, 1.0), "seeds": 1, "steps": 5, "hidden_size": 8, "updates": 150,
        "learning_rate": 0.01,
    },
}  # fmt: skip
ALLOWED = {
    "forget bias": 1e-18, "chrono": 0.05, "state": 0.2, "sensitivity": 25.0, "float32": 4.0, "w = ": 1e-11,
    "orthogonal": 1e-12, "fresh": 0.1, "one matrix": 0.02, "leading exponent minus": 0.01, "critical gain": 0.15,
    "linear": 1e-12,
}  # fmt: skip
"""By how a quantity begins, how far it may be from theory; what is not here belongs to wider networks."""


@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_reports_what_theory_says(name: str) -> None:
    experiment = everything.experiment(name)
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam mixes its integer count with floats
        summary = experiment.page(experiment(**SMALL[name]), **SMALL[name]).summary
    checked = 0
    for each in summary["residuals"]:
        allowed = [most for start, most in ALLOWED.items() if each["quantity"].startswith(start)]
        assert all(abs(each["residual"]) < most for most in allowed), each
        checked += len(allowed)
    assert checked
    if name == "float_horizon":  # float64 outlives 140 steps; the norm dies within a step of the prediction
        assert {row["dtype"] for row in summary["rows"] if row["dies_at_lag_steps"] is not None} == {"float32"}
        assert all((row["worst_difference_steps"] or 0) <= 1 for row in summary["rows"] if row["what"] == "norm")
        assert summary["exact_against_plain_float64_worst_nats"] < 1e-11
    if name == "lstm_memory":  # as initialised and driven it forgets more slowly
        assert summary["rows"][1]["rate_nats_per_step"] > summary["rows"][0]["rate_nats_per_step"] + 0.05
    if name == "tanh_phase_diagram":
        assert summary["mean_exponent_minus_mean_log_det_largest"] < 1e-8
    if name == "waterfall":
        assert all(row["error_after"] < 0.5 < row["error_before"] for row in summary["rows"])

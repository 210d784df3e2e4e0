"""Exponents of tanh networks against a loop in NumPy, and what both experiments over them report."""

import jax
import numpy as np
import pytest

from experiments import driven_edge, lab, tanh_phase_diagram
from experiments.tanh_phase_diagram import leading_and_mean, networks, whole_spectrum

SIZE, GAINS, TRANSIENT = 12, (0.5, 2.0), 100
STEPS, SPECTRUM_STEPS = 700, 500  # so that the runs below share these programs


def by_hand(gain: float, noise: np.ndarray, seed: int) -> np.ndarray:
    """All exponents, QR at every step, of one network in NumPy; noise is `[T, H]`."""
    size = noise.shape[1]
    params, start = networks(size, (gain,), seed)
    w, h, q, logs = gain * np.asarray(params.w_h), np.asarray(start[0]), np.eye(size), []
    for x in noise:
        h = np.tanh(h @ w + x)
        q, r = np.linalg.qr((1 - h**2)[:, None] * w.T @ q)
        logs.append(np.log(np.abs(np.diag(r))))
    return np.mean(logs[TRANSIENT:], axis=0)


def test_leading_mean_and_all_are_those_of_a_loop() -> None:
    found = leading_and_mean(SIZE, GAINS, STEPS, TRANSIENT, seed=4)
    for i, gain in enumerate(GAINS):
        expected = by_hand(gain, np.zeros((STEPS, SIZE)), seed=4)
        # another first perturbation, turned to the same direction during the transient
        assert found["leading"][i] == pytest.approx(expected[0], abs=5e-3)
        assert found["mean"][i] == pytest.approx(expected.mean(), abs=1e-9)
    spectrum = whole_spectrum(SIZE, GAINS[1], SPECTRUM_STEPS, TRANSIENT, seed=4)
    expected = by_hand(GAINS[1], np.zeros((SPECTRUM_STEPS, SIZE)), seed=4)
    np.testing.assert_allclose(spectrum["exponents"], expected, atol=5e-3)
    assert spectrum["mean"] == pytest.approx(expected.mean(), abs=1e-9)


EDGE_SIZE, EDGE_GAINS = 64, (0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4)  # one program for all tests of the edge


def test_the_driven_exponent_is_that_of_a_loop_over_the_same_noise() -> None:
    found = driven_edge.leading_exponents(EDGE_SIZE, EDGE_GAINS, 0.25, SPECTRUM_STEPS, TRANSIENT, seed=4)
    key = jax.random.fold_in(jax.random.key(4), 1)
    noise = 0.5 * np.asarray(jax.random.normal(key, (SPECTRUM_STEPS, 1, EDGE_SIZE), "float64"))[:, 0]
    for i in (0, 3):  # below the edge: a chaotic trajectory would part from NumPy's within some 200 steps
        assert found["leading"][i] == pytest.approx(by_hand(EDGE_GAINS[i], noise, seed=4)[0], abs=5e-3)


def test_where_a_line_crosses_zero() -> None:
    gains = np.array([1.0, 2.0, 3.0, 4.0])
    assert driven_edge.zero_crossing(gains, np.array([-3.0, -1.0, 3.0, 5.0])) == pytest.approx(2.25)
    assert driven_edge.zero_crossing(gains, np.array([-1.0, 0.5, -0.5, 0.5])) == pytest.approx(3.5)
    assert np.isnan(driven_edge.zero_crossing(gains, np.array([1.0, 2.0, 3.0, 4.0])))
    assert np.isnan(driven_edge.zero_crossing(gains, np.array([-4.0, -3.0, -2.0, -1.0])))


def test_what_the_phase_diagram_reports() -> None:
    experiment = tanh_phase_diagram.experiment
    given = {"gains": GAINS, "spectrum_gains": (2.0,), "hidden_size": SIZE, "spectrum_sizes": (SIZE,), "steps": STEPS,
             "spectrum_steps": (SPECTRUM_STEPS,), "seeds": 3}  # fmt: skip
    summary = experiment.page(experiment(**given), **given).summary
    low, high = summary["rows"]
    assert low["leading_exponent_mean_field"] == pytest.approx(np.log(0.5)) and low["leading_exponent_std"] > 0
    assert low["leading_exponent_nats_per_step"] == pytest.approx(low["log_spectral_radius_mean"], abs=0.01)
    assert high["leading_exponent_mean_field"] == pytest.approx(0.15472, abs=1e-5)
    assert high["mean_exponent_mean_field"] == pytest.approx(-1.1490, abs=1e-4)
    silent, of_all = summary["residuals"][-2:]
    assert of_all["quantity"] == "mean of all exponents, g = 2, H = 12"
    assert of_all["theory"] == high["mean_exponent_mean_field"]
    assert silent["quantity"].endswith("log spectral radius of W, g = 0.5") and abs(silent["residual"]) < 0.01
    assert summary["mean_exponent_minus_mean_log_det_largest"] < 1e-8
    assert [each["theory"] for each in summary["against_published"]] == [0.15425, -1.15055, -1.15055, 0.2566]
    with pytest.raises(lab.UsageError, match="one length for each of --spectrum-sizes"):
        experiment(spectrum_steps=(100,))


def test_what_the_edge_reports() -> None:
    experiment = driven_edge.experiment
    given = {"variances": (0.5, 2.0), "hidden_size": EDGE_SIZE, "steps": SPECTRUM_STEPS, "seeds": 3}
    given |= {"map_size": EDGE_SIZE, "map_steps": SPECTRUM_STEPS, "map_variances": 2, "map_gains": EDGE_GAINS}
    summary = experiment.page(experiment(**given), **given).summary
    for row, each in zip(summary["rows"], summary["residuals"], strict=True):
        assert row["matrices_without_crossing_count"] == 0 and row["closed_form_gain"] > 1.5
        assert abs(each["relative_residual"]) < 0.1
    assert summary["map_median_residual_nats_per_step"] < 0.1

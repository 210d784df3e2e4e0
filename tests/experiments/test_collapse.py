"""Collapse: settings that are what they say, rates that are known, and a fit that finds its curve."""

import jax
import numpy as np
import pytest

from experiments import collapse, lab
from experiments.collapse import SETTINGS, TASKS


@pytest.mark.parametrize(("case", "value"), [("linear, scaled rotation", 0.8), ("gru, W2 = 0", 1.0)])
def test_the_solvable_cases_are_solved(case, value):
    found = collapse.solvable(case, value, 2)
    closed = np.log(0.8) if case.startswith("linear") else -np.log1p(np.exp(-1.0))
    np.testing.assert_allclose([found["adjoint_rate"], found["exponent"], found["closed_form"]], closed, rtol=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_what_it_says(name):
    """W2 has the gain, the gate that holds has the bias, and nothing else depends on either."""
    cell, key = collapse.cell_of(name, 64), jax.random.key(0)
    one, other = (collapse.init_network(cell, TASKS["latch"], key, *setting) for setting in ((1.0, 0.0), (0.5, 3.0)))
    np.testing.assert_allclose(other.rnn.w_h, one.rnn.w_h / 2)
    np.testing.assert_allclose(np.std(one.rnn.w_h) * 8, 1, rtol=0.05)
    np.testing.assert_array_equal(one.rnn.w_x, other.rnn.w_x)
    if name != "elman":
        assert np.flatnonzero(other.rnn.b).tolist() == list(range(64, 128)) and (other.rnn.b[64:128] == 3).all()
    assert one.w_out.dtype == np.float32 and not one.b_out.any()


def test_the_lags_are_those_of_the_tasks():
    """From the last step to the first informative one, on average over many sequences."""
    task = TASKS["temporal order"]
    batch = task.draw(jax.random.key(0), 100, (2000,))
    first = np.asarray(batch.xs[..., :2].sum(-1)).argmax(axis=0)
    assert abs((99 - first).mean() - task.lag_share * 100) < 1
    np.testing.assert_allclose(task.input_variance, (np.asarray(batch.xs) ** 2).mean())
    latch = TASKS["latch"].draw(jax.random.key(0), 50, (2000,))
    np.testing.assert_allclose((np.asarray(latch.xs[1:]) ** 2).mean(), TASKS["latch"].input_variance, rtol=0.02)


def test_the_fit_finds_its_curve():
    x = np.linspace(-40, 5, 200)
    found = collapse.fit(x, collapse.logistic(x, -12.0, 3.0))
    np.testing.assert_allclose([found["centre"], found["width"]], [-12, 3], rtol=0.01)
    assert found["r_squared"] > 0.9999 and found["rms_residual"] < 0.005


def test_a_point_is_success_against_rate_times_lag():
    asked = {"cell": "gru", "task": "temporal order", "gain": 0.5, "bias": 0.0}
    found = {"exponent": -0.1, "closed_form": None}
    lines = collapse.rate_lines([lab.Row(asked, found | {"adjoint_rate": rate}, {}) for rate in (-0.1, -0.3)])
    trained = [lab.Row({"steps": 20} | asked, {"accuracy": reached}, {}) for reached in (1.0, None)]  # NaN is a guess
    (point,) = collapse.points_of(trained, lines)
    np.testing.assert_allclose([point["rate_times_lag"], point["success"]], [-0.2 * 0.85 * 20, 0.5])

"""Memory of an LSTM: what is left, unit by unit, against the gates that were drawn; and a run of it."""

import jax
import numpy as np
import pytest

from experiments.lstm_memory.__main__ import EXPERIMENT, log10_closed_form
from experiments.lstm_memory.measure import forget_biases, rate, retention
from tests.experiments.launched import launched, refused


def test_every_unit_keeps_what_its_own_gate_keeps() -> None:
    """With W_h = 0, σ(b_f)^k for each unit and seed, whatever the biases that chrono drew."""
    found = retention("chrono", "closed", hidden_size=16, steps=60, t_max=50, seeds=4, seed=0)
    for s, key in enumerate(jax.random.split(jax.random.key(0), 4)):
        bias = np.asarray(forget_biases("chrono", 16, 50, jax.random.split(key, 3)[1]))
        u = np.exp(bias)
        assert (u >= 1).all() and (u <= 49).all() and np.ptp(u) > 1
        expected = np.arange(60)[:, None] * np.log(u / (1 + u))
        np.testing.assert_allclose(found.log_share[s], expected, rtol=1e-10, atol=1e-12)


def test_the_closed_forms() -> None:
    assert log10_closed_form("0", 51, 500)[50] == pytest.approx(-50 * np.log10(2))
    assert 10 ** log10_closed_form("chrono", 501, 500)[[50, 500]] == pytest.approx([0.725, 0.149], abs=5e-4)
    assert rate(-0.25 * np.arange(30) + 3, 5) == pytest.approx(-0.25)


def test_a_run(tmp_path) -> None:
    """Constant biases exactly; chrono within five standard errors; the driven cell is another matter."""
    arguments = ("--inits", "1", "chrono", "--hidden-size", "16", "--seeds", "4", "--steps", "60", "--t-max", "50")
    summary = launched(EXPERIMENT, tmp_path, *arguments)
    constant, chrono = summary["residuals"][:1], summary["residuals"][1:]
    assert abs(constant[0]["relative_residual"]) < 1e-11 and len(chrono) == 1
    assert all(abs(each["residual"]) < 5 * each["standard_error"] < 0.3 for each in chrono)
    rows = {(row["init"], row["setting"]): row for row in summary["rows"]}
    closed, driven = rows["1", "closed"], rows["1", "driven"]
    assert closed["time_constant_steps"] == pytest.approx(1 / np.log1p(np.exp(-1)), rel=1e-10)
    assert closed["rate_nats_per_step"] == pytest.approx(closed["closed_form_rate_nats_per_step"], rel=1e-10)
    assert driven["rate_nats_per_step"] > closed["rate_nats_per_step"] + 0.05


def test_bad_options(tmp_path, capsys) -> None:
    assert "give a finite number, or chrono" in refused(EXPERIMENT, tmp_path, capsys, "--inits", "chronos")
    assert "--t-max is 2" in refused(EXPERIMENT, tmp_path, capsys, "--t-max", "2")

"""Memory of an LSTM: what is left against the gates that were drawn, and what is reported of it."""

import jax
import numpy as np
import pytest

from experiments.lstm_memory import experiment, forget_biases, log10_closed_form, memory, rate


@pytest.mark.parametrize("network", [0, 3])
def test_without_recurrent_weights_each_unit_keeps_what_its_own_gate_keeps(network: int) -> None:
    """The mean over units of σ(b_f)^k, for the biases that chrono drew for this network."""
    keys = jax.random.split(jax.random.split(jax.random.key(0), 4)[network], 3)
    u = np.exp(np.asarray(forget_biases("chrono", 16, 50, keys[1])))
    assert (u >= 1).all() and (u <= 49).all() and np.ptp(u) > 1
    found = memory("chrono", "closed", hidden_size=16, steps=60, t_max=50, seed=0, network=network)
    expected = np.log(((u / (1 + u)) ** np.arange(60)[:, None]).mean(axis=1))
    np.testing.assert_allclose(found["log_share"], expected, rtol=1e-10, atol=1e-12)


def test_closed_forms() -> None:
    assert log10_closed_form("0", 51, 500)[50] == pytest.approx(-50 * np.log10(2))
    assert 10 ** log10_closed_form("chrono", 501, 500)[[50, 500]] == pytest.approx([0.725, 0.149], abs=5e-4)
    assert rate(-0.25 * np.arange(30) + 3, 5) == pytest.approx(-0.25)


def test_what_is_reported() -> None:
    """Constant biases exactly; chrono within five standard errors; the driven cell forgets more slowly."""
    given = {"inits": ("1", "chrono"), "hidden_size": 16, "seeds": 4, "steps": 60, "t_max": 50}
    summary = experiment.page(experiment(**given), **given).summary
    constant, chrono = summary["residuals"][:1], summary["residuals"][1:]
    assert abs(constant[0]["relative_residual"]) < 1e-11 and len(chrono) == 1
    assert all(abs(each["residual"]) < 5 * each["standard_error"] < 0.3 for each in chrono)
    closed, driven = summary["rows"][:2]
    assert closed["time_constant_steps"] == pytest.approx(1 / np.log1p(np.exp(-1)), rel=1e-10)
    assert closed["rate_nats_per_step"] == pytest.approx(closed["closed_form_rate_nats_per_step"], rel=1e-10)
    assert driven["rate_nats_per_step"] > closed["rate_nats_per_step"] + 0.05

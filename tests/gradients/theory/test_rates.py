"""The closed forms against numbers published or computed elsewhere, and against quadrature and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from rnnjax.gradients import theory

rates_of = jax.jit(theory.tanh_mean_field_rates)


def settled(gain, variance, kick=0.0, steps=1500):
    """The mean-field rate after transients; an autonomous network starts from a kick."""
    return float(rates_of(gain, np.array([variance + kick] + [variance] * (steps - 1)))[-1])


@pytest.mark.parametrize(("variance", "edge"), [(0.01, 1.1934), (1.0, 1.8556)])
def test_input_moves_the_edge_of_chaos(variance, edge):
    """With noise of this variance, a tanh network is critical at this gain, not at g = 1."""
    assert settled(edge - 1e-4, variance) < 0 < settled(edge + 1e-4, variance)
    assert settled(1.0, variance) < -0.05


@pytest.mark.parametrize(
    ("gain", "rate"), [(1.1, 0.00507), (1.2, 0.01648), (1.5, 0.06522), (2.0, 0.15472), (3.0, 0.31025)]
)
def test_left_alone_it_is_chaotic_above_one(gain, rate):
    """The leading exponents of an autonomous tanh network, as published with the code of `rnn-lyapunov`."""
    assert settled(gain, 0.0, kick=1.0) == pytest.approx(rate, abs=2e-5)


def test_each_step_by_another_quadrature():
    """Against a grid 250 times as fine, with 1/cosh⁴ as (1 - tanh²)²; units saturate at variance 25."""
    variances = np.array([0.0, 0.3, 4.0, 25.0, 0.1])
    nodes = np.linspace(-12, 12, 200_001)
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()
    for gain in (0.5, 1.0, 2.0):
        variance, expected = 0.0, []
        for each in variances:
            variance = gain**2 * weights @ np.tanh(np.sqrt(variance) * nodes) ** 2 + each
            expected.append(0.5 * np.log(gain**2 * weights @ (1 - np.tanh(np.sqrt(variance) * nodes) ** 2) ** 2))
        np.testing.assert_allclose(rates_of(gain, variances), expected, rtol=1e-10, atol=1e-14)
    quiet = rates_of(0.7, np.zeros(5))
    np.testing.assert_allclose(quiet, np.log(0.7), rtol=1e-12)


def test_strong_input_neither_over_nor_underflows():
    """cosh⁴ of a large pre-activation overflows; its contribution is zero, and the rate stays finite."""
    rates = theory.tanh_mean_field_rates(2.0, jnp.array([1e3, 1e2, 0.0], "float32"))
    assert rates.dtype == jnp.float32 and np.isfinite(rates).all() and rates[0] < -1


def test_whole_numbers_are_numbers():
    """Integer arguments do not turn other values into integers."""
    np.testing.assert_array_equal(
        theory.tanh_mean_field_rates(1.5, np.array([1, 1, 1])), theory.tanh_mean_field_rates(1.5, jnp.ones(3))
    )
    assert float(theory.relu_mean_field_rate(2)) == pytest.approx(0.5 * np.log(2), rel=1e-12)


def test_a_wide_network_measures_what_mean_field_says():
    """256 units at the driven edge of chaos: the adjoint changes by at most 0.01 nats per step."""
    size, steps, gain = 256, 150, 1.8556
    cell = rnnjax.Elman(size)
    rng = np.random.default_rng(0)
    w_h, xs = gain * rng.normal(size=(size, size)) / np.sqrt(size), rng.normal(size=(steps, size))

    def log_norms(w_h, xs):
        params = rnnjax.ElmanParams(jnp.eye(size), w_h, jnp.zeros(size))
        return gradients.adjoint(cell, params, xs, lambda ys: ys[-1, 0]).log_norm

    rates = -np.diff(jax.jit(log_norms)(w_h, xs))
    theirs = theory.tanh_mean_field_rates(gain, jnp.ones(steps))
    assert rates[20:].mean() == pytest.approx(float(theirs[20:].mean()), abs=0.01)


def test_relu_is_critical_at_the_square_root_of_two():
    """Half of the units are active: ½ log(g²/2), which is zero at He's gain and -½ log 2 at gain 1."""
    assert float(theory.relu_mean_field_rate(2**0.5)) == pytest.approx(0, abs=1e-15)
    np.testing.assert_allclose(theory.relu_mean_field_rate(jnp.array([0.5, 1.0])), np.log([0.5, 1]) - np.log(2) / 2)


def test_a_linear_network_has_the_rate_of_its_spectral_radius():
    """The largest |eigenvalue| by NumPy, complex pairs included; log s for s times an orthogonal matrix."""
    w_h = np.random.default_rng(0).normal(size=(4, 2, 5, 5))
    expected = np.log(np.abs(np.linalg.eigvals(w_h)).max(axis=-1))
    np.testing.assert_allclose(theory.linear_rate(jnp.asarray(w_h)), expected, rtol=1e-10, atol=1e-12)
    orthogonal = 0.3 * np.linalg.qr(w_h)[0]
    np.testing.assert_allclose(theory.linear_rate(jnp.asarray(orthogonal)), np.log(0.3), rtol=1e-12)
    assert theory.linear_rate(jnp.zeros((2, 2))) == -np.inf

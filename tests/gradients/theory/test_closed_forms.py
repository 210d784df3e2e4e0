"""The closed forms against published numbers, other quadratures, SciPy, and simulations."""

import numpy as np
import pytest
from scipy import integrate, special

from rnnjax.gradients import theory

GRID = np.linspace(-12, 12, 200_001)
WEIGHTS = np.exp(-(GRID**2) / 2) / np.exp(-(GRID**2) / 2).sum()


@pytest.mark.parametrize(
    ("gain", "exponent"), [(1.1, 0.00507), (1.2, 0.01648), (1.5, 0.06522), (2.0, 0.15472), (3.0, 0.31025)]
)
def test_autonomous_tanh_as_published(gain, exponent):
    """Numbers published with the code of `rnn-lyapunov`; below g = 1 the network decays with log g."""
    assert theory.tanh_lyapunov_exponent(gain) == pytest.approx(exponent, abs=5e-6)
    assert theory.tanh_lyapunov_exponent(1 / gain) == pytest.approx(-np.log(gain), rel=1e-12)


@pytest.mark.parametrize(("gain", "exponent"), [(2.0, -1.15055), (3.0, -2.27390)])
def test_mean_exponents_as_published(gain, exponent):
    """The published value was measured at N = 4096, so it is only close."""
    assert theory.tanh_mean_exponent(gain) == pytest.approx(exponent, rel=2e-3)


@pytest.mark.parametrize("gain", [0.5, 1.3, 4.0])
@pytest.mark.parametrize("variance", [0.0, 0.3, 30.0])
def test_tanh_by_another_quadrature(gain, variance):
    """The fixed point solves its equation on a plain grid of 200,001 nodes, and both exponents follow from it there."""
    c = theory.tanh_variance(gain, variance)
    y = np.tanh(np.sqrt(c) * GRID)
    assert gain**2 * WEIGHTS @ y**2 + variance == pytest.approx(c, rel=1e-10, abs=1e-300)
    assert c > 0 or (gain < 1 and variance == 0)
    found = theory.tanh_lyapunov_exponent(gain, variance), theory.tanh_mean_exponent(gain, variance)
    slope = np.cosh(np.sqrt(c) * GRID) ** -2
    expected = np.log(gain**2 * WEIGHTS @ slope**2) / 2, np.log(gain) - 0.5 + WEIGHTS @ np.log(slope)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_edge_moves_with_the_input():
    """Two published edges; and the exponent is zero on edges for small and huge inputs."""
    variances = np.array([0.0, 1e-8, 0.01, 1.0, 100.0, 1e4])
    gains = theory.critical_gain(variances)
    np.testing.assert_allclose(gains[[0, 2, 3]], [1, 1.1934, 1.8556], atol=5e-5)
    np.testing.assert_allclose(theory.tanh_lyapunov_exponent(gains, variances), 0, atol=1e-12)
    assert theory.tanh_lyapunov_exponent(1.0, 1.0) < -0.1  # "the edge is at g = 1" is false for a driven network


def test_arrays_and_extremes():
    """Broadcasting, floats for numbers, and finite values where a plain grid would not resolve the integrand."""
    assert theory.tanh_lyapunov_exponent(np.ones((3, 1)), np.ones(2)).shape == (3, 2)
    assert type(theory.critical_gain(1)) is float
    assert np.isfinite(theory.tanh_lyapunov_exponent([1 + 1e-9, 1e-6, 1e6])).all()
    # all units saturated: E[φ'²] = (2/3) √(2/(π C)), C = g²
    assert theory.tanh_lyapunov_exponent(1e6) == pytest.approx(np.log(1e6 * 2 / 3 * np.sqrt(2 / np.pi)) / 2, rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_ginibre_exponents_by_scipy(size):
    i = np.arange(1, size + 1)
    expected = (np.log(2) + special.digamma((size - i + 1) / 2)) / 2 + np.log(1.7 / np.sqrt(size))
    np.testing.assert_allclose(theory.ginibre_exponents(size, 1.7), expected, rtol=1e-12)
    if size == 64:
        np.testing.assert_allclose(theory.ginibre_exponents(64)[[0, -1]], [-0.00785, -2.715], atol=5e-4)


def test_frozen_matrices_are_not_products_of_fresh_ones():
    """log|eigenvalues| of a triangular matrix; the circular law against the quantiles of a large Gaussian matrix."""
    w_h = np.triu(np.ones((4, 4)))
    np.fill_diagonal(w_h, [0.5, -2.0, 0.0, 1.0])
    np.testing.assert_allclose(theory.frozen_exponents(w_h), [np.log(2), 0, -np.log(2), -np.inf])
    drawn = 1.3 * np.random.default_rng(0).normal(size=(200, 200)) / np.sqrt(200)
    np.testing.assert_allclose(theory.frozen_exponents(drawn).mean(), np.log(1.3) - 0.5, atol=0.03)
    np.testing.assert_allclose(theory.circular_law_exponents(200, 1.3).mean(), np.log(1.3) - 0.5, atol=0.03)
    middle = theory.frozen_exponents(drawn)[20:180] - theory.circular_law_exponents(200, 1.3)[20:180]
    assert np.abs(middle).max() < 0.1


def test_forget_gates():
    """0.5, 0.731 and a time of 149 steps; no cancellation for large biases."""
    np.testing.assert_allclose(np.exp(theory.forget_gate_exponent([0.0, 1.0])), [0.5, 0.731], atol=1e-4)
    assert theory.forget_gate_time(5.0) == pytest.approx(149, abs=0.5)
    assert theory.forget_gate_exponent(40.0) == pytest.approx(-np.exp(-40.0), rel=1e-12)


@pytest.mark.parametrize("t_max", [3.0, 500.0, 1e6])
def test_chrono_decay_by_adaptive_quadrature(t_max):
    for lag in (0, 1, 50, 5000):
        bends = [p for p in (10.0, 1e3, 1e5) if p < t_max - 1]
        whole = integrate.quad(lambda u, k=lag: np.exp(-k * np.log1p(1 / u)), 1, t_max - 1, points=bends, limit=500)[0]
        assert theory.chrono_decay(lag, t_max) == pytest.approx(whole / (t_max - 2), rel=1e-8, abs=1e-12)
    np.testing.assert_allclose(theory.chrono_decay([50, 500], 500), [0.725, 0.149], atol=6e-4)


def test_the_curse_of_memory_by_draws():
    """263.9 at λ = 0.9, and a simulation of h and ∂h/∂λ within its error."""
    assert theory.curse_of_memory(0.9).sensitivity == pytest.approx(263.9, abs=0.05)
    h, dh = np.zeros(20_000), np.zeros(20_000)
    rng = np.random.default_rng(0)
    for _ in range(150):
        h, dh = 0.8 * h + rng.normal(size=h.size), 0.8 * dh + h
    for found, draws in zip(theory.curse_of_memory(0.8), (h**2, dh**2), strict=True):
        assert abs(draws.mean() - found) < 4 * draws.std() / np.sqrt(draws.size)


def test_pascanus_bound():
    """The largest singular value, not the spectral radius, times the steepest slope."""
    chain = np.array([[0.0, 3.0], [0.0, 0.0]])
    assert theory.pascanu_bound(chain) == pytest.approx(np.log(3))
    assert theory.pascanu_bound(chain, "sigmoid") == pytest.approx(np.log(0.75))
    assert theory.pascanu_bound(np.zeros((5, 2, 2))).tolist() == [-np.inf] * 5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.tanh_lyapunov_exponent(0.0), "gain is 0"),
        (lambda: theory.tanh_lyapunov_exponent([1.0, np.nan]), "gain is nan"),
        (lambda: theory.tanh_mean_exponent(1.0, -1.0), "input_variance is -1"),
        (lambda: theory.critical_gain(-0.1), "input_variance is -0.1"),
        (lambda: theory.ginibre_exponents(0), "hidden_size is 0"),
        (lambda: theory.curse_of_memory(1.0), "lam is 1"),
        (lambda: theory.chrono_decay(-1, 100), "lag is -1"),
        (lambda: theory.chrono_decay(1, 2), "t_max is 2"),
        (lambda: theory.pascanu_bound(np.eye(2), "gelu"), "activation is 'gelu'"),
    ],
)
def test_what_has_no_closed_form_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()

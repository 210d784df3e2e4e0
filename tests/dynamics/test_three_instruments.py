"""At a stable fixed point three instruments agree: eigenvalues, Lyapunov exponents, and the decay of the adjoint.

Started there, the Jacobian J is the same at every step, so the exponents are log|λ_i|, and the adjoint decays at
log ρ(J) per step. Where eigenvalues are complex, or share a modulus, QR gives each of the group only on average, and
the mean of the group exactly.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import gradients
from rnnjax.dynamics import fixed_points, linearize
from tests.dynamics.confirmed import elman

T = 2000


def instruments(w_h, b, steps=T):
    """log|λ| (largest first), exponents, and the adjoint's log norms, at a stable point."""
    cell, params, x = elman(w_h, b)
    found = fixed_points(cell, params, x, jnp.zeros((1, len(b))), certify=False)
    assert found.stable.all() and found.kind.tolist() == ["point"]
    carry, xs = found.carry[0], jnp.zeros((steps, 1))
    spectrum = gradients.lyapunov_spectrum(cell, params, xs, carry=carry, transient=steps // 2)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=len(b)))
    decay = gradients.adjoint(cell, params, xs, lambda ys: ys[-1] @ weights, carry=carry)
    modes = linearize(cell, params, x, carry)
    np.testing.assert_allclose(np.abs(modes.eigenvalues), np.abs(found.eigenvalues[0]), atol=1e-13)
    with np.errstate(divide="ignore"):
        return np.log(np.abs(modes.eigenvalues)), np.asarray(spectrum.exponents), np.asarray(decay.log_norm), spectrum


def symmetric(eigenvalues, seed=0):
    size = len(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    return basis * np.asarray(eigenvalues) @ basis.T


@pytest.mark.parametrize("bias", [0.0, 0.3], ids=["at 0", "away from 0"])
def test_a_symmetric_network(bias):
    """J = diag(1 - h²) W is similar to a symmetric matrix: its eigenvalues are real, and each is met to 1e-6."""
    b = bias * np.random.default_rng(2).normal(size=5)
    logs, exponents, adjoint, _ = instruments(symmetric([0.95, -0.7, 0.5, 0.3, -0.1]), b)
    np.testing.assert_allclose(exponents, logs, atol=1e-6)
    np.testing.assert_allclose((adjoint[0] - adjoint[T // 2]) / (T // 2), logs[0], atol=1e-6)
    assert (np.diff(logs) < -0.04).all()


@pytest.mark.parametrize("seed", range(3))
def test_any_network(seed):
    """The mean over each group of equal modulus to 1e-6; each exponent, and the adjoint, within 20/T."""
    rng = np.random.default_rng(seed)
    w_h = rng.normal(size=(6, 6))
    w_h *= 0.9 / np.abs(np.linalg.eigvals(w_h)).max()
    logs, exponents, adjoint, _ = instruments(w_h, 0.3 * rng.normal(size=6))
    ends = [*np.flatnonzero(np.diff(logs) < -1e-9) + 1, len(logs)]
    groups = list(zip([0, *ends[:-1]], ends, strict=True))
    assert any(last - first == 2 for first, last in groups)
    for first, last in groups:
        np.testing.assert_allclose(exponents[first:last].mean(), logs[first], atol=1e-6)
        np.testing.assert_allclose(exponents[first:last], logs[first], atol=20 / T)
    np.testing.assert_allclose((adjoint[0] - adjoint[-1]) / T, logs[0], atol=20 / T)


def test_an_eigenvalue_of_zero_is_minus_infinity_in_both():
    """A unit that nothing reads has λ = 0: what was in it is gone after a step. `survivors` says how many are left."""
    w_h = np.zeros((4, 4))
    w_h[:3, :3] = symmetric([0.9, 0.5, -0.2])
    logs, exponents, _, spectrum = instruments(w_h, np.zeros(4), 200)
    assert logs[-1] == -np.inf == exponents[-1] and int(spectrum.survivors) == 3
    np.testing.assert_allclose(exponents[:3], logs[:3], atol=1e-6)

    logs, exponents, adjoint, spectrum = instruments(np.zeros((2, 2)), np.full(2, 0.3), 20)
    assert (logs == -np.inf).all() and (exponents == -np.inf).all() and int(spectrum.survivors) == 0
    assert adjoint[0] == -np.inf and np.isfinite(adjoint[-1])

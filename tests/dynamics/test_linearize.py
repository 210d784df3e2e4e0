"""Jacobians, modes and read-outs against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from rnnjax.dynamics import linearize
from tests.registry import CELLS, D, sample

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "gru", "stack"])
def test_modes_rebuild_the_jacobian(name):
    """J is that of `gradients.jacobians`; u_i v_j = δ_ij and J = Σ λ v u; K by finite differences."""
    drawn = sample(name, steps=1, batch_shape=())
    x = drawn.xs[0]
    found = linearize(CELLS[name], drawn.params, x, drawn.carry)
    expected = gradients.jacobians(CELLS[name], drawn.params, drawn.xs, carry=drawn.carry)[0]
    np.testing.assert_allclose(found.recurrent, expected, rtol=1e-10, atol=1e-12)
    size = len(expected)
    np.testing.assert_allclose(found.left @ found.right, np.eye(size), atol=1e-9)
    rebuilt = (found.right * found.eigenvalues) @ found.left
    np.testing.assert_allclose(rebuilt, expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found.right, axis=0), 1)
    assert (np.diff(np.abs(found.eigenvalues)) <= 1e-12).all()

    def after(x):
        carry = rnnjax.step(CELLS[name], drawn.params, drawn.carry, jnp.asarray(x))[0]
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(carry)])

    for d in range(D):
        change = 1e-6 * np.eye(D)[d]
        slope = (after(np.asarray(x) + change) - after(np.asarray(x) - change)) / 2e-6
        np.testing.assert_allclose(found.input[:, d], slope, atol=1e-8)


def test_time_constants_and_lines():
    """-1/ln|λ|, for a mode that stays, decays, grows, turns, and is gone at once."""
    w = np.zeros((6, 6))
    w[:4, :4] = np.diag([1.0, np.exp(-0.1), np.exp(0.2), 0.0])
    w[4:, 4:] = np.exp(-0.5) * np.array([[0.6, -0.8], [0.8, 0.6]])
    params = rnnjax.ElmanParams(jnp.ones((1, 6)), jnp.asarray(w), jnp.zeros(6))
    found = linearize(rnnjax.Elman(6, "linear"), params, jnp.zeros(1), jnp.zeros(6), tolerance=1e-3)
    np.testing.assert_allclose(found.time_constants, [-5, np.inf, 10, 2, 2, 0])
    assert found.line.tolist() == [False, True, False, False, False, False] and not found.stable


def test_read_outs_see_modes():
    """A read-out along a mode sees all of it; of modes at right angles to it, nothing."""
    v = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    w = v * np.array([0.9, 0.5, 0.2]) @ v.T
    params = rnnjax.ElmanParams(jnp.ones((1, 3)), jnp.asarray(w), jnp.zeros(3))
    readout = np.stack([3 * v[:, 0], v[:, 1] + v[:, 2], np.zeros(3)], axis=-1)
    found = linearize(rnnjax.Elman(3, "linear"), params, jnp.zeros(1), jnp.zeros(3), readout=readout)
    half = 0.5**0.5
    for seen in (found.readout_right, found.readout_left):
        assert seen is not None
        np.testing.assert_allclose(seen, [[1, 0, 0], [0, half, 0], [0, half, 0]], atol=1e-12)


def test_without_a_basis_of_eigenvectors_there_are_no_left_ones():
    params = rnnjax.ElmanParams(jnp.ones((1, 2)), jnp.array([[0.5, 1.0], [0.0, 0.5]]), jnp.zeros(2))
    found = linearize(rnnjax.Elman(2, "linear"), params, jnp.zeros(1), jnp.zeros(2))
    assert np.isnan(found.left).all() and found.condition > 1e12 and found.stable

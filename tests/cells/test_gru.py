"""The reset-after GRU: saturated gates, their order, and the candidate's recurrent bias."""

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from rnnjax import GRU, GRUParams
from tests.registry import CELLS, assert_close, sample

OPEN, SHUT = 800.0, -800.0
CELL = GRU(1)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def biased(r, z, n, b_hn=0.0, w_hn=0.0):
    """A scalar GRU whose gates depend only on their biases, except for the candidate's recurrent weight."""
    return GRUParams(
        jnp.zeros((1, 3)), jnp.array([[0, 0, w_hn]], float), jnp.array([r, z, n], float), jnp.full(1, b_hn)
    )


def test_an_open_update_gate_holds_the_state_forever():
    """With z saturated at 1, h is bitwise unchanged over 1,000 steps, and its gradient is 1."""

    def last(h):
        return rnnjax.unroll(CELL, biased(0.0, OPEN, 0.3), jnp.ones((1000, 1)), carry=h)[0][0]

    value, gradient = jax.jit(jax.value_and_grad(last))(jnp.array([0.7]))
    assert value == 0.7 and gradient[0] == 1.0


def test_a_shut_update_gate_takes_the_candidate():
    """z = 0: h_t = n_t, whatever h_{t-1} was."""
    h, y = CELL.step(biased(0.0, SHUT, 0.3), jnp.full(1, 1e6), jnp.ones(1))
    np.testing.assert_allclose(h, np.tanh(0.3), rtol=1e-15)
    assert h == y


def test_a_shut_reset_gate_takes_the_state_out_of_the_candidate():
    """r = 0: neither h W_h^n nor the bias `b_hn` reaches the candidate."""
    h, _ = CELL.step(biased(SHUT, SHUT, 0.3, b_hn=5.0, w_hn=7.0), jnp.full(1, 0.9), jnp.ones(1))
    np.testing.assert_allclose(h, np.tanh(0.3), rtol=1e-15)


def test_reset_acts_after_the_product():
    """n = tanh(b + r (h w + b_hn)), not tanh(b + (r h) w + b_hn): the bias is inside the reset gate's brackets."""
    h, _ = CELL.step(biased(0.4, SHUT, 0.3, b_hn=0.5, w_hn=0.7), jnp.full(1, 0.9), jnp.ones(1))
    np.testing.assert_allclose(h, np.tanh(0.3 + sigmoid(0.4) * (0.9 * 0.7 + 0.5)), rtol=1e-15)


def test_gates_are_packed_reset_update_candidate():
    """The gate order of PyTorch and cuDNN, identified by three different biases; h = (1 - z) n + z h."""
    h, _ = CELL.step(biased(0.1, 0.2, 0.3, b_hn=0.5), jnp.full(1, 0.9), jnp.ones(1))
    n, z = np.tanh(0.3 + sigmoid(0.1) * 0.5), sigmoid(0.2)
    np.testing.assert_allclose(h[0], (1 - z) * n + z * 0.9, rtol=1e-15)


def test_only_the_candidate_needs_a_second_bias():
    """For r and z, a recurrent bias merely adds to `b`: moving part of `b` to it changes nothing."""
    cell, (params, h, xs) = CELLS["gru"], sample("gru")
    moved = jnp.concatenate([jnp.full(6, 0.3), jnp.zeros(3)])

    def with_two_biases(params, h, x):
        """The step with `moved` subtracted from `b` and added to h W_h."""
        (u_r, u_z, u_n), (r_r, r_z, r_n) = (
            jnp.split(a, 3, axis=-1) for a in (x @ params.w_x + params.b - moved, h @ params.w_h + moved)
        )
        r, z = jax.nn.sigmoid(u_r + r_r), jax.nn.sigmoid(u_z + r_z)
        h = (1 - z) * jnp.tanh(u_n + r * (r_n + params.b_hn)) + z * h
        return h, h

    assert_close(with_two_biases(params, h, xs[0]), cell.step(params, h, xs[0]))


def test_parameters_are_shaped_as_documented():
    params = jax.eval_shape(lambda key: GRU(4).init(key, 2), jax.random.key(0))
    assert [leaf.shape for leaf in params] == [(2, 12), (4, 12), (12,), (4,)]
    params = GRU(6).init(jax.random.key(0), 6)
    assert not params.b.any() and not params.b_hn.any()

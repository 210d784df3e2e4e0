"""Gradients beyond the range of floating point: no underflow or overflow, exact zeros, and NaN where unknown."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from tests.gradients.measured import QUICKLY

SCALES = (0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 3.0)


@functools.partial(jax.jit, static_argnums=0)
def linear_orthogonal(steps: int, w_h, direction, scales):
    """`[scale, T + 1]` log norms of a linear network driven by noise, for a loss of its last output."""
    cell = rnnjax.Elman(len(w_h), activation="linear")
    xs = jax.random.normal(jax.random.key(1), (steps, 2), w_h.dtype)

    def one(scale):
        params = rnnjax.ElmanParams(jnp.ones((2, len(w_h)), w_h.dtype), scale * w_h, jnp.zeros(len(w_h), w_h.dtype))
        return gradients.adjoint(cell, params, xs, lambda ys: ys[-1] @ direction)

    found = jax.vmap(one)(scales)
    return found.log_norm, found.direction


def drawn(dtype: str = "float64"):
    """An orthogonal W2 [8, 8] and a unit vector, both rounded to `dtype`."""
    w_h = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    direction = np.random.default_rng(1).normal(size=8)
    return w_h.astype(dtype), (direction / np.linalg.norm(direction)).astype(dtype)


@pytest.mark.parametrize("steps", [10, 10_000])
def test_an_orthogonal_linear_network_grows_by_its_scale(steps):
    """Every step contributes log(scale) at every depth, for 0.1^10000, 1 and 3^10000.

    The states of the last two overflow, which does not affect a linear network's gradient.
    """
    log_norm, direction = linear_orthogonal(steps, *drawn(), jnp.array(SCALES))
    expected = np.log(SCALES)[:, None]
    np.testing.assert_allclose(-np.diff(log_norm), np.broadcast_to(expected, (7, steps)), rtol=0, atol=2e-11)
    np.testing.assert_allclose((log_norm[:, 0] - log_norm[:, -1]) / steps, expected[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=-1), 1, rtol=1e-12)


def test_float32_keeps_the_slope_too():
    """No underflow or overflow in float32 either; errors come from rounding a running sum of about 2,000 nats."""
    scales = jnp.array(SCALES, "float32")
    log_norm, _ = linear_orthogonal(1000, *drawn("float32"), scales)
    assert log_norm.dtype == jnp.float32
    np.testing.assert_allclose((log_norm[:, 0] - log_norm[:, -1]) / 1000, np.log(SCALES), rtol=0, atol=2e-5)


def relu_network(w_h, b=0.0):
    return rnnjax.ElmanParams(w_x=jnp.ones((1, len(w_h))), w_h=jnp.asarray(w_h), b=jnp.full(len(w_h), b))


RELU = rnnjax.Elman(3, "relu")


def adjoint_of(params, xs, loss):
    """Log norms of a network with three ReLU units."""
    run = jax.jit(lambda params, xs: gradients.adjoint(RELU, params, xs, loss), compiler_options=QUICKLY)
    return run(params, xs)


W_H = np.array([[0.9, 0.2, 0.1], [0.3, 0.7, 0.2], [0.1, 0.4, 0.8]])


def test_dead_relu_units_give_exactly_minus_infinity():
    """If all units are inactive at a step, the adjoint is -inf before it, not NaN or a clamped epsilon.

    The other row of the batch, whose units are all active, is not affected: it is the power of W2 in NumPy.
    """
    xs = np.ones((6, 2, 1))
    xs[3, 0] = -1e3
    adjoint = adjoint_of(relu_network(W_H), xs, lambda ys: ys[-1].sum())
    dead, alive = adjoint.log_norm[:, 0], adjoint.log_norm[:, 1]
    assert (dead[:4] == -np.inf).all() and np.isfinite(dead[4:]).all()
    assert (adjoint.direction[:4, 0] == 0).all()
    expected = [np.log(np.linalg.norm(np.linalg.matrix_power(W_H, lag) @ np.ones(3))) for lag in range(6, -1, -1)]
    np.testing.assert_allclose(alive, expected, rtol=1e-12, atol=1e-12)


def test_units_that_survive_are_unaffected_by_those_that_do_not():
    """With unit 0 inactive, the gradient is that of the network of units 1 and 2, plus what flows into unit 0."""
    params = relu_network(W_H)._replace(b=jnp.array([-1e3, 0.0, 0.0]))
    adjoint = adjoint_of(params, np.ones((60, 1)), lambda ys: ys[-1, 1:].sum())
    on = np.diag([0.0, 1.0, 1.0])
    expected = [np.ones(3) * [0, 1, 1]]
    for _ in range(60):
        expected.append(W_H @ on @ expected[-1])
    np.testing.assert_allclose(adjoint.log_norm, np.log(np.linalg.norm(expected[::-1], axis=1)), rtol=1e-12, atol=1e-12)


def test_what_is_not_a_number_is_not_called_zero():
    """The gradient of a NaN state is NaN, since -inf would mean "vanished". The other row is not affected."""
    xs = np.ones((5, 2, 1))
    xs[2, 0] = np.nan
    log_norm = adjoint_of(relu_network(W_H), xs, lambda ys: (ys**2).sum()).log_norm
    assert np.isnan(log_norm[:, 0]).all() and np.isfinite(log_norm[:, 1]).all()


def test_one_program_over_networks_is_each_alone():
    """vmap over random networks and scales, as in the experiments, does not change the adjoint or its parts."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(7, 2, 1))
    lengths = jnp.array([7, 4])

    def one(w_h, scale):
        params = relu_network(scale * w_h)
        return gradients.adjoint(RELU, params, xs, lambda ys: (ys[-1] - ys[1]).sum(), lengths=lengths)

    matrices, scales = jnp.asarray(rng.normal(size=(4, 3, 3))), jnp.array([0.3, 1.0, 2.0, 5.0])
    together = jax.jit(jax.vmap(one), compiler_options=QUICKLY)(matrices, scales)
    single = jax.jit(one, compiler_options=QUICKLY)
    for n in range(4):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(single(matrices[n], scales[n])), strict=True):
            np.testing.assert_allclose(a[n], b, rtol=1e-12, atol=1e-13)

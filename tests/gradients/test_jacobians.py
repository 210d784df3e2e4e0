"""Jacobians against `jax.jacfwd`, and matrix statistics against matrices with known ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnnjax import gradients
from tests.gradients.measured import QUICKLY
from tests.registry import CELLS, sample


@pytest.mark.parametrize("name", ["lstm", "custom", "deep_stack"])
def test_they_are_the_derivative_of_each_step(name):
    """Entry i, j: the derivative of number i of the carry after a step with respect to number j before it, per row."""
    cell = CELLS[name]
    params, carry, xs = sample(name)
    found = jax.jit(functools.partial(gradients.jacobians, cell), compiler_options=QUICKLY)(params, xs, carry=carry)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def of_one_step(carry, x):
        flat, unflatten = ravel_pytree(carry)
        step = lambda flat: ravel_pytree(cell.step(params, unflatten(flat), x)[0])[0]  # noqa: E731
        return jax.jacrev(step)(flat), cell.step(params, carry, x)[0]

    for row in range(xs.shape[1]):
        own = jax.tree.map(lambda leaf, row=row: leaf[row], carry)
        for t in range(len(xs)):
            expected, own = of_one_step(own, xs[t, row])
            np.testing.assert_allclose(found[t, row], expected, rtol=1e-10, atol=1e-14)


def test_statistics_of_matrices_that_show_them():
    scaled_rotation = 0.5 * np.array([[0.0, -1.0], [1.0, 0.0]])
    chain = np.array([[0.0, 3.0], [0.0, 0.0]])
    graded = np.diag([1e5, -1e-5])
    found = gradients.matrix_statistics(np.array([scaled_rotation, chain, graded, np.zeros((2, 2))]))
    np.testing.assert_allclose(found.singular_values, [[0.5, 0.5], [3, 0], [1e5, 1e-5], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(found.spectral_radius, [0.5, 0, 1e5, 0], atol=1e-12)
    np.testing.assert_allclose(found.log_abs_det, [np.log(0.25), -np.inf, 0, -np.inf], atol=1e-12)
    assert found.rank.tolist() == [2, 1, 2, 0]
    np.testing.assert_allclose(found.log_condition, [0, np.inf, np.log(1e10), np.inf], atol=1e-12)
    np.testing.assert_allclose(found.non_normality, [0, 1, 0, 0], atol=1e-7)


def test_non_normality_does_not_depend_on_the_basis():
    """Henrici's departure equals the norm of the strictly upper part of a Schur form."""
    upper = np.array([[1.0, 2.0, 0.5], [0.0, 0.5, 1.0], [0.0, 0.0, -0.3]])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    expected = np.linalg.norm(np.triu(upper, 1)) / np.linalg.norm(upper)
    assert gradients.matrix_statistics(turn @ upper @ turn.T).non_normality == pytest.approx(expected, rel=1e-10)


def test_a_non_normal_product_grows_before_it_decays():
    """Spectral radius 0.5, norm above 1: singular values of powers, by NumPy, for each window of a lag."""
    w = np.array([[0.5, 4.0], [0.0, 0.5]])
    matrices = np.broadcast_to(w, (12, 1, 2, 2))
    for lag in (1, 3, 12):
        found = gradients.lag_products(matrices, lag)
        assert found.log_singular_values.shape == (13 - lag, 1, 2)
        expected = np.log(np.linalg.svd(np.linalg.matrix_power(w, lag), compute_uv=False))
        np.testing.assert_allclose(found.log_singular_values[0, 0], expected, rtol=1e-9)
    assert gradients.lag_products(matrices, 3).log_singular_values[0, 0, 0] > 0


def test_products_in_order_and_beyond_floating_point():
    """The order is J_3 J_2 J_1; and 10^±400 with the rank that float64 can resolve."""
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(3, 3, 3))
    found = gradients.lag_products(matrices, 3).log_singular_values[0]
    by_hand = np.linalg.svd(matrices[2] @ matrices[1] @ matrices[0], compute_uv=False)
    np.testing.assert_allclose(found, np.log(by_hand), rtol=1e-10)
    assert np.abs(found - np.log(np.linalg.svd(matrices[0] @ matrices[1] @ matrices[2], compute_uv=False))).max() > 0.01
    found = gradients.lag_products(np.broadcast_to(np.diag([1e4, 1e4, 1e-4]), (100, 3, 3)), 100)
    np.testing.assert_allclose(found.log_singular_values[0], [400 * np.log(10)] * 2 + [-np.inf], rtol=1e-12)
    assert found.rank.tolist() == [2]


def test_under_vmap():
    """A batch axis and vmap give the same results."""
    name = "lstm"
    params, carry, xs = sample(name)
    run = lambda carry, xs: gradients.jacobians(CELLS[name], params, xs, carry=carry)  # noqa: E731
    batched = jax.jit(run, compiler_options=QUICKLY)(carry, xs)
    mapped = jax.jit(jax.vmap(run, (0, 1), 1), compiler_options=QUICKLY)(carry, xs)
    np.testing.assert_allclose(batched, mapped, rtol=1e-12, atol=1e-14)
    assert jnp.isfinite(batched).all()

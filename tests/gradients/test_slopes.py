"""Accurate derivatives where JAX's are rounded to zero, for functions, cells and `rnnjax.gradients`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from rnnjax.gradients.sequence import accurate
from tests.gradients.measured import QUICKLY
from tests.registry import CELLS, sample

POINTS = np.array([-300.0, -20.0, -8.0, -1.0, -1e-9, 0.0, 0.3, 5.0, 20.0, 100.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_slopes(dtype):
    """log sech² x = 2 (log 2 - |x| - log1p(e^(-2|x|))), and log σ' = -|x| - 2 log1p(e^-|x|), to rounding."""
    points = (POINTS if dtype == "float64" else POINTS[1:-1]).astype(dtype)
    wide = np.abs(points.astype("float64"))

    def slopes(x):
        return jax.grad(accurate(jnp.tanh))(x), jax.grad(accurate(jax.nn.sigmoid))(x)

    tanh, logistic = (np.log(np.asarray(a, "float64")) for a in jax.jit(jax.vmap(slopes))(points))
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(tanh, 2 * (np.log(2) - wide - np.log1p(np.exp(-2 * wide))), atol=tolerance * 300)
    np.testing.assert_allclose(logistic, -wide - 2 * np.log1p(np.exp(-wide)), atol=tolerance * 300)


@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "step_cell", "stack"])
def test_values_are_bit_for_bit_the_cells_own_and_slopes_where_jax_is_right(name):
    params, carry, xs = sample(name)
    step = CELLS[name].step

    def both(function):
        return jax.jvp(lambda c: function(params, c, xs[0]), (carry,), (jax.tree.map(jnp.ones_like, carry),))

    (values, slopes), (own_values, own_slopes) = jax.jit(lambda: (both(accurate(step)), both(step)))()
    assert jax.tree.structure(values) == jax.tree.structure(own_values)
    for a, b in zip(jax.tree.leaves(values), jax.tree.leaves(own_values), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(own_slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saturated_network_keeps_its_log_slope(dtype):
    """With every unit at |x| = 20, adjoint, exponent and split give -37.2 nats per step, not -inf.

    One unit with w2 = 0.5 and an input of 20 - 0.5, so that the argument of tanh is 20.
    """
    params = rnnjax.ElmanParams(jnp.ones((1, 1), dtype), jnp.full((1, 1), 0.5, dtype), jnp.zeros(1, dtype))
    xs = jnp.full((12, 1), 19.5, dtype).at[0].set(20)
    cell = rnnjax.Elman(1)
    log_slope = 2 * (np.log(2) - 20 - np.log1p(np.exp(-40)))
    expected = log_slope + np.log(0.5)

    def measured(params, xs):
        return (
            gradients.adjoint(cell, params, xs, lambda ys: ys[-1, 0], split=True),
            gradients.leading_exponent(cell, params, xs).exponent,
            gradients.attribution_by_lag(cell, params, xs, lambda ys: ys[-1, 0]).log_norm.b,
        )

    adjoint, exponent, by_lag = jax.jit(measured, compiler_options=QUICKLY)(params, xs)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(np.diff(adjoint.log_norm), -expected, rtol=tolerance)
    np.testing.assert_allclose(adjoint.split.saturation, log_slope, rtol=tolerance)
    np.testing.assert_allclose(adjoint.split.alignment, np.log(0.5), rtol=tolerance)
    assert float(exponent) == pytest.approx(expected, rel=tolerance)
    np.testing.assert_allclose(by_lag, log_slope + expected * np.arange(12), rtol=tolerance)
    if dtype == "float64":
        plain = gradients.adjoint_by_perturbation(cell, params, xs, lambda ys: ys[-1, 0])
        assert (plain[:-1] == 0).all()  # with JAX's derivative

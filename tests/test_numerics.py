"""Vectors as a unit vector and a log norm, at and beyond the limits of floating point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.numerics import add_scaled, normalise

normalise_jit = jax.jit(normalise, static_argnums=1)


def value(unit, log_norm) -> np.ndarray:
    return np.asarray(unit) * np.exp(np.asarray(log_norm))[..., None]


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-5, 1.0, 1e200, 1e300, 3.4e307])
@pytest.mark.parametrize("split", [normalise, normalise_jit], ids=["eager", "jit"])
def test_a_norm_squares_and_nothing_is_lost(size, split):
    """1e±300 squared is beyond float64; and XLA divides by the reciprocal, which for 3.4e307 is subnormal."""
    unit, log_norm = split(jnp.array([3.0, -4.0]) * size, 0)
    np.testing.assert_allclose(unit, [0.6, -0.8], rtol=1e-14)
    assert float(log_norm) == pytest.approx(np.log(5) + np.log(size), rel=1e-14)


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e20, 6e37])
def test_a_norm_in_float32(size):
    """Where a plain float32 norm is 0 or inf."""
    unit, log_norm = normalise_jit(jnp.array([3.0, -4.0], "float32") * jnp.float32(size), 0)
    assert unit.dtype == log_norm.dtype == jnp.float32
    np.testing.assert_allclose(unit, [0.6, -0.8], rtol=1e-6)
    assert float(log_norm) == pytest.approx(np.log(5) + np.log(size), rel=1e-6)


def test_zero_has_no_direction_and_nan_is_not_zero():
    """A zero gradient gives exactly -inf, and NaN gives NaN."""
    unit, log_norm = normalise_jit(jnp.array([[0.0, -0.0], [1.0, jnp.nan], [jnp.inf, 1.0], [5e-324, 0.0]]), 1)
    np.testing.assert_array_equal(log_norm, [-np.inf, np.nan, np.inf, -np.inf])  # a subnormal is zero to XLA
    assert (unit[0] == 0).all() and np.isnan(unit[1]).all() and np.isnan(unit[2]).any()


def test_rows_are_apart_and_leaves_together():
    """One norm per row, over all leaves, with and without further axes."""
    rng = np.random.default_rng(0)
    tree = {"h": rng.normal(size=(4, 2, 3)), "age": rng.normal(size=(4, 2)), "w": rng.normal(size=(4, 2, 2, 2))}
    tree = {
        name: leaf * np.logspace(-250, 250, 8).reshape((4, 2) + (1,) * (leaf.ndim - 2)) for name, leaf in tree.items()
    }
    unit, log_norm = normalise_jit(jax.tree.map(jnp.asarray, tree), 2)
    flat = np.concatenate([leaf.reshape(4, 2, -1) for leaf in tree.values()], axis=-1)
    largest = np.abs(flat).max(axis=-1, keepdims=True)
    norms = np.linalg.norm(flat / largest, axis=-1)
    np.testing.assert_allclose(log_norm, np.log(norms) + np.log(largest[..., 0]), rtol=1e-14)
    for name, leaf in tree.items():
        factor = (norms * largest[..., 0]).reshape((4, 2) + (1,) * (leaf.ndim - 2))
        np.testing.assert_allclose(unit[name], leaf / factor, rtol=1e-13)


def add(*terms):
    """Each (vector, log factor) in the form of `add_scaled`; two batch rows, the second the first times e^-900."""
    rows = []
    for vector, log_factor in terms:
        unit, log_norm = normalise(jnp.array([vector, vector]), 1)
        rows.append((unit, log_norm + jnp.array([log_factor, log_factor - 900.0])))
    return jax.jit(add_scaled, static_argnums=1)(rows, 1)


@pytest.mark.parametrize("shift", [-5000.0, 0.0, 5000.0])
def test_sums_at_any_size(shift):
    """3 (1, 0) + 4 (0, 1) has norm 5, also when scaled by e^±5000."""
    unit, log_norm = add(([3.0, 0.0], shift), ([0.0, 4.0], shift))
    np.testing.assert_allclose(unit, [[0.6, 0.8]] * 2, rtol=1e-12)  # 16 digits of 5000 nats
    np.testing.assert_allclose(log_norm, np.log(5) + shift - np.array([0, 900]), rtol=1e-14, atol=1e-14)


def test_unequal_terms():
    """The shorter vector is lost only to rounding; the order does not matter."""
    for terms in ((([1.0, 0.0], 0.0), ([0.0, 1.0], -20.0)), (([0.0, 1.0], -20.0), ([1.0, 0.0], 0.0))):
        unit, log_norm = add(*terms)
        np.testing.assert_allclose(unit, [[1, np.exp(-20)]] * 2, rtol=1e-13)
        np.testing.assert_allclose(log_norm, [0, -900], atol=1e-13)
    unit, log_norm = add(([1.0, 0.0], 1e4), ([0.0, 1.0], -1e4))
    np.testing.assert_array_equal(unit, [[1, 0]] * 2)
    np.testing.assert_allclose(log_norm, [1e4, 1e4 - 900], rtol=1e-14)


def test_zeros_among_terms():
    """Zero plus zero is zero (-inf), not NaN, and zero plus v is v."""
    unit, log_norm = add(([0.0, 0.0], 0.0), ([0.0, 0.0], 7.0))
    assert (unit == 0).all() and (log_norm == -np.inf).all()
    unit, log_norm = add(([0.0, 0.0], 0.0), ([0.0, -2.0], -3000.0), ([0.0, 0.0], 0.0))
    np.testing.assert_allclose(unit, [[0, -1]] * 2)
    np.testing.assert_allclose(log_norm, np.log(2) - 3000 - np.array([0, 900]), rtol=1e-14)


def test_terms_that_cancel():
    """v - v is exactly zero; v - (1 - 1e-8) v is accurate to the 8 digits that remain."""
    unit, log_norm = add(([1.0, 2.0], 1000.0), ([-1.0, -2.0], 1000.0))
    assert (unit == 0).all() and (log_norm == -np.inf).all()
    unit, log_norm = add(([3.0, 4.0], 1000.0), ([-3.0, -4.0], 1000.0 + np.log1p(-1e-8)))
    np.testing.assert_allclose(unit, [[0.6, 0.8]] * 2, rtol=1e-7)
    np.testing.assert_allclose(np.asarray(log_norm) - [1000, 100], np.log(5e-8), atol=1e-4)


def test_not_a_number_spreads():
    """A NaN term makes only its own row NaN."""
    unit, log_norm = normalise(jnp.array([[1.0, jnp.nan], [1.0, 1.0]]), 1)
    _, total = add_scaled([(unit, log_norm), (unit, log_norm)], 1)
    assert np.isnan(total[0]) and float(total[1]) == pytest.approx(np.log(8) / 2)


def test_one_term_is_itself():
    unit, log_norm = jnp.array([0.6, 0.8]), jnp.array(-1e5)
    assert add_scaled([(unit, log_norm)], 0) == (unit, log_norm)

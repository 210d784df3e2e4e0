"""Kaplan-Yorke dimension and entropy rate against their definitions in plain Python, also for incomplete spectra."""

import jax
import numpy as np
import pytest

from rnnjax import gradients

kaplan_yorke_dimension = jax.jit(gradients.kaplan_yorke_dimension, static_argnames="size")
entropy_rate = jax.jit(gradients.entropy_rate, static_argnames="size")


def by_definition(exponents):
    total, j = 0.0, 0
    for each in sorted(exponents, reverse=True):
        if total + each < 0:
            return j + (total / -each if each > -np.inf else 0.0)
        total, j = total + each, j + 1
    return float(j)


@pytest.mark.parametrize(
    "exponents",
    [
        [0.906, 0.0, -14.572],  # Lorenz: 2.062
        [0.4192, -1.6232],  # Hénon: 1.258
        [-0.1, -0.2],
        [0.5, 0.1],
        [-1.0, 0.3, -0.1],
        [0.3, -np.inf, -np.inf],
        [0.0, -1.0],
        [-np.inf, -np.inf],
    ],
)
def test_by_definition(exponents):
    exponents = np.array(exponents)
    assert float(kaplan_yorke_dimension(exponents)) == pytest.approx(by_definition(exponents), rel=1e-12)
    assert float(entropy_rate(exponents)) == pytest.approx(exponents[exponents > 0].sum(), rel=1e-12)


def test_published():
    assert float(kaplan_yorke_dimension(np.array([0.906, 0.0, -14.572]))) == pytest.approx(2.062, abs=5e-4)


def test_too_few_exponents_do_not_tell():
    """Only these of ten exponents: if their sum is not negative, they only bound the dimension from below."""
    some = np.array([[0.5, 0.2, -0.1], [0.5, -0.2, -0.8], [0.5, 0.2, 0.1], [-0.5, -0.6, -0.7], [0.5, np.nan, -1.0]])
    found = np.asarray(kaplan_yorke_dimension(some, size=10))
    assert np.isnan(found[[0, 2, 4]]).all()
    np.testing.assert_allclose(found[[1, 3]], [2 + 0.3 / 0.8, 0])
    found = np.asarray(entropy_rate(some, size=10))
    assert np.isnan(found[[2, 4]]).all()
    np.testing.assert_allclose(found[[0, 1, 3]], [0.7, 0.5, 0])

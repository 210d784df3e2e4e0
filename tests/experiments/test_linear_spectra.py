"""Spectra of linear networks against NumPy, and what is reported of them."""

import jax
import numpy as np
import pytest

from experiments.linear_spectra import experiment, fresh_cell, log_mean_exp, log_squared_norms
from rnnjax.gradients import theory


def test_the_fresh_cell_multiplies_by_its_input() -> None:
    rng = np.random.default_rng(0)
    w, h = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 3))
    found, y = fresh_cell(3).step(None, h, jax.numpy.asarray(w.reshape(2, 9)))
    np.testing.assert_allclose(found, np.einsum("bi,bij->bj", h, w), rtol=1e-14)
    np.testing.assert_array_equal(found, y)


@pytest.mark.parametrize("matrices", ["fresh", "frozen"])
def test_norms_are_those_of_the_matrices_drawn(matrices: str) -> None:
    """‖W_1 ... W_k v‖² from the end back, by NumPy from the same draws."""
    size, lags, draws = 6, 12, 50
    found = log_squared_norms(matrices, size, 1.0, lags, draws, 7)
    for key, log_norms in zip(jax.random.split(jax.random.key(7), draws), found, strict=True):
        key_w, key_v = jax.random.split(key)
        v = np.asarray(jax.random.normal(key_v, (size,), "float64"))
        count = lags if matrices == "fresh" else 1
        w = np.asarray(jax.random.normal(key_w, (count, size**2), "float64")).reshape(count, size, size) / size**0.5
        v, expected = v / np.linalg.norm(v), [0.0]
        for t in reversed(range(lags)):
            v = w[t % count] @ v
            expected.append(np.log(v @ v))
        np.testing.assert_allclose(log_norms, expected, rtol=1e-10, atol=1e-12)


def test_a_mean_of_what_overflows() -> None:
    values = np.array([[1000.0, 0.0], [1000.0, np.log(3.0)]])
    np.testing.assert_allclose(log_mean_exp(values), [1000.0, np.log(2.0)], rtol=1e-14)


def test_what_is_reported() -> None:
    given = {"hidden_size": 6, "steps": 400, "seeds": 3, "draws": 50, "scales": (0.5,), "lags": 12}
    summary = experiment.page(experiment(**given), **given).summary
    for each in summary["residuals"]:
        exact = each["quantity"].startswith(("w =", "orthogonal"))
        allowed = 1e-12 * max(1, abs(each["theory"])) if exact else 0.1 if "fresh" in each["quantity"] else 0.02
        assert abs(each["residual"]) <= allowed, each["quantity"]
    assert summary["spectra"]["frozen_median_residual_nats_per_step"] < 0.01
    fresh, frozen = summary["norms"]
    assert fresh["closed_form_log10_mean_squared_norm"] == 0 and abs(fresh["log10_mean_squared_norm"]) < 1
    assert frozen["kind"] == "frozen" and frozen["log10_mean_squared_norm"] > frozen["log10_median_squared_norm"]


def test_newman_at_the_ends() -> None:
    """The numbers that the docstring prints, H = 64."""
    assert theory.ginibre_exponents(64)[[0, -1]] == pytest.approx([-0.00785, -2.715], abs=5e-4)

"""Spectra of linear networks against NumPy's determinants and eigenvalues, and a run of it."""

import jax
import numpy as np
import pytest

from experiments.linear_spectra import measure
from experiments.linear_spectra.__main__ import EXPERIMENT
from tests.experiments.launched import launched, refused


def test_the_fresh_cell_multiplies_by_its_input() -> None:
    rng = np.random.default_rng(0)
    w, h = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 3))
    found, y = measure.fresh_cell(3).step(None, h, jax.numpy.asarray(w.reshape(2, 9)))
    np.testing.assert_allclose(found, np.einsum("bi,bij->bj", h, w), rtol=1e-14)
    np.testing.assert_array_equal(found, y)


def test_norms_are_those_of_the_matrices_drawn() -> None:
    """‖W_1 ... W_k v‖² from the end back, fresh and frozen, by NumPy from the same draws."""
    size, lags, draws = 6, 12, 50
    keys = jax.random.split(jax.random.key(7), draws)
    for kind in ("fresh", "frozen"):
        found = measure.log_squared_norms(kind, size, 1.0, lags, draws, 7)
        for key, log_norms in zip(keys, found, strict=True):
            key_w, key_v = jax.random.split(key)
            v = np.asarray(jax.random.normal(key_v, (size,), "float64"))
            count = lags if kind == "fresh" else 1
            w = np.asarray(jax.random.normal(key_w, (count, size**2), "float64")).reshape(count, size, size) / size**0.5
            v, expected = v / np.linalg.norm(v), [0.0]
            for t in reversed(range(lags)):
                v = w[t if kind == "fresh" else 0] @ v
                expected.append(np.log(v @ v))
            np.testing.assert_allclose(log_norms, expected, rtol=1e-10, atol=1e-12)


def test_a_mean_of_what_overflows() -> None:
    values = np.array([[1000.0, 0.0], [1000.0, np.log(3.0)]])
    np.testing.assert_allclose(measure.log_mean_exp(values), [1000.0, np.log(2.0)], rtol=1e-14)


def test_a_run(tmp_path) -> None:
    arguments = ("--hidden-size", "6", "--steps", "400", "--seeds", "3", "--draws", "50", "--scales", "0.5",
                 "--lags", "12")  # fmt: skip
    summary = launched(EXPERIMENT, tmp_path, *arguments)
    for each in summary["residuals"]:
        if each["quantity"].startswith(("w =", "orthogonal")):
            assert abs(each["residual"]) <= 1e-12 * max(1, abs(each["theory"]))
        elif each["quantity"].startswith("fresh"):
            assert abs(each["residual"]) < 0.1
        else:
            assert abs(each["residual"]) < 0.02
    assert summary["spectra"]["frozen_median_residual_nats_per_step"] < 0.01
    fresh, frozen = summary["norms"]
    assert fresh["closed_form_log10_mean_squared_norm"] == 0 and abs(fresh["log10_mean_squared_norm"]) < 1
    assert frozen["kind"] == "frozen" and frozen["log10_mean_squared_norm"] > frozen["log10_median_squared_norm"]


def test_bad_options(tmp_path, capsys) -> None:
    assert "--seeds is 1" in refused(EXPERIMENT, tmp_path, capsys, "--seeds", "1")


def test_newman_at_the_ends() -> None:
    """The numbers printed in the report's closed form, H = 64."""
    from rnnjax.gradients import theory

    assert theory.ginibre_exponents(64)[[0, -1]] == pytest.approx([-0.00785, -2.715], abs=5e-4)

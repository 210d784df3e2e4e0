"""The waterfall: its task, its closed forms, and a run that learns."""

import jax
import numpy as np
import pytest

from experiments.waterfall import closed_form, experiment, sequences


def test_the_target_is_the_first_input_and_only_it_is_marked() -> None:
    xs, targets = sequences(jax.random.key(0), 7, 200)
    assert xs.shape == (7, 200, 2) and targets.shape == (200,)
    np.testing.assert_array_equal(targets, xs[0, :, 0])
    np.testing.assert_array_equal(xs[..., 1], np.arange(7)[:, None] == np.zeros((1, 200)))


def test_closed_forms() -> None:
    linear = closed_form("linear", (0.5, 2.0), 4, 0)
    assert linear is not None and closed_form("lstm", (1.0,), 4, 0) is None
    np.testing.assert_allclose(linear, np.outer([-1, 1], np.arange(5)) * np.log(2), atol=1e-15)
    tanh = closed_form("tanh", (0.9,), 3, 0)
    assert tanh is not None
    xs = np.asarray(sequences(jax.random.split(jax.random.key(0), 3)[2], 3, 512)[0])[:, :64]
    z, dz = np.linspace(-8, 8, 4001, retstep=True)
    weights = np.exp(-(z**2) / 2) * dz / np.sqrt(2 * np.pi)
    variance, rates = np.zeros(64), []
    for drive in (xs**2).sum(axis=-1) / 2:
        variance = 0.9**2 * np.tanh(np.sqrt(variance)[:, None] * z) ** 2 @ weights + drive
        rates.append(np.mean(0.5 * np.log(0.9**2 * np.cosh(np.sqrt(variance)[:, None] * z) ** -4.0 @ weights)))
    np.testing.assert_allclose(tanh[0], np.concatenate([[0], np.cumsum(rates[::-1])]), rtol=1e-8)


def test_a_run_learns_and_its_gradient_is_the_closed_form() -> None:
    given = {"cells": ("linear",), "scales": (0.7, 1.0), "seeds": 1, "steps": 5, "hidden_size": 8, "updates": 150}
    given |= {"learning_rate": 0.01}
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam mixes its integer count with floats
        summary = experiment.page(experiment(**given), **given).summary
    assert [each["theory"] for each in summary["residuals"]] == pytest.approx([np.log(0.7), 0], abs=1e-12)
    assert all(abs(each["residual"]) < 1e-12 for each in summary["residuals"])
    for row in summary["rows"]:
        assert row["error_after"] < 0.5 < row["error_before"]
    assert summary["rows"][0]["log10_gradient_before"] == pytest.approx(4 * np.log10(0.7), abs=1e-10)

"""The curse of memory: moments and valley against sums written out, and what is reported of them."""

import jax
import numpy as np
import pytest

from experiments import curse_of_memory
from experiments.curse_of_memory import experiment


@pytest.mark.parametrize(("student", "teacher"), [(0.2, 0.7), (0.9, 0.5), (-0.4, 0.6), (0.6, 0.6)])
def test_the_valley_is_the_sum_over_what_is_remembered(student: float, teacher: float) -> None:
    """h - h* = Σ_k (λ^k - λ*^k) x_{t-k}."""
    k = np.arange(500)
    expected = ((student**k - teacher**k) ** 2).sum()
    assert curse_of_memory.valley(np.array(student), teacher) == pytest.approx(expected, abs=1e-12)


def test_moments_are_those_of_a_loop_over_the_same_noise() -> None:
    """h and ∂h/∂λ step by step in NumPy, without the transient."""
    key, lam, steps, transient = jax.random.key(3), 0.8, 60, 20
    noise = np.asarray(curse_of_memory._noise(key, steps, 3))[..., 0]
    h, slope, states, slopes = np.zeros(3), np.zeros(3), [], []
    for x in noise:
        h, slope = lam * h + x, h + lam * slope
        states.append(h)
        slopes.append(slope)
    state, sensitivity = curse_of_memory._moments(np.float64(lam), key, 3, steps, transient)
    np.testing.assert_allclose(state, (np.array(states)[transient:] ** 2).mean(0), rtol=1e-12)
    np.testing.assert_allclose(sensitivity, (np.array(slopes)[transient:] ** 2).mean(0), rtol=1e-12)


def test_what_is_reported() -> None:
    """Moments within five standard errors of the closed form, the student's loss near its own."""
    given = {"lambdas": (0.0, 0.9), "teachers": (0.5,), "sequences": 64, "steps": 500}
    summary = experiment.page(experiment(**given), **given).summary
    assert [each["theory"] for each in summary["residuals"]] == pytest.approx([1, 1, 5.2632, 263.887], rel=1e-4)
    for each in summary["residuals"]:
        assert abs(each["residual"]) < 5 * each["standard_error"] < 0.5 * each["theory"]
    assert summary["valleys"][0]["worst_residual_in_standard_errors"] < 5

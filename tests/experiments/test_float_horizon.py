"""Where floating point loses a gradient: what is predicted, what happens, and what is reported."""

import numpy as np
import pytest

from experiments.float_horizon import closed_form_lag, death_lags, experiment, predicted_lags


def test_the_lag_of_death_is_the_first_dead_one() -> None:
    plain = np.array([[1.0, 0.5, 0.0, 0.0], [1.0, 2.0, np.inf, np.nan], [1.0, 1.0, 1.0, 1.0], [1.0, np.nan, 1.0, 1.0]])
    np.testing.assert_array_equal(death_lags(plain), [2, 2, np.nan, 1])


@pytest.mark.parametrize(("scale", "kind", "dtype", "lag"), [
    (0.5, "norm", "float32", 64), (0.5, "gradient", "float32", 127), (0.5, "norm", "float64", 512),
    (2.0, "norm", "float32", 64), (2.0, "gradient", "float64", 1024), (0.25, "gradient", "float64", 512),
])  # fmt: skip
def test_one_unit_dies_as_numpy_has_it(scale: float, kind: str, dtype: str, lag: int) -> None:
    """scale^k in NumPy's own arithmetic, subnormals flushed as XLA does."""
    log_size = np.log(scale) * np.arange(1100)[None]
    assert predicted_lags(kind, dtype, log_size, log_size)[0] == lag
    value, count, tiny = np.ones((), dtype), 0, np.finfo(dtype).tiny
    with np.errstate(over="ignore", under="ignore"):
        while True:
            seen = value * value if kind == "norm" else value
            if not np.isfinite(seen) or seen < tiny:
                break
            value, count = value * np.asarray(scale, dtype), count + 1
    assert count == lag and abs(closed_form_lag(kind, dtype, scale) - lag) <= 1


def test_what_is_reported() -> None:
    """The norm of every network dies within a step of the predicted lag, and near the closed form."""
    given = {"cells": ("linear",), "scales": (0.5, 2.0), "seeds": 2, "steps": 140, "hidden_size": 8}
    summary = experiment.page(experiment(**given), **given).summary
    assert len(summary["rows"]) == 2 * 4 and len(summary["residuals"]) == 4  # float64 outlives 140 steps
    for row in summary["rows"]:
        assert row["one_foretold_other_not_count"] == 0
        if row["dtype"] == "float64":
            assert row["dies_at_lag_steps"] is None
        else:
            assert row["worst_difference_steps"] <= (1 if row["what"] == "norm" else 3)
            assert abs(row["dies_at_lag_steps"] - row["closed_form_lag_steps"]) <= 4
    assert summary["exact_against_plain_float64_worst_nats"] < 1e-11

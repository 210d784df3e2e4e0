"""From measured log norms to rows: arithmetic checked by hand, and what is said where there is no number."""

import math
from typing import Any

import numpy as np
import pytest

from experiments.gradient_decay import table
from experiments.gradient_decay.sweep import Measured
from experiments.gradient_decay.table import curves_by_lag, float32_death, row_by_lag, rows_by_length, verdict


def measured_as(curve: np.ndarray, lengths: tuple[int, ...], **changes: Any) -> Measured:
    """`curve` [seeds, T + 1] over boundaries; what reaches step 1 of each length is the curve at its lag."""
    seeds, steps = len(curve), curve.shape[1] - 1
    found = {
        "log_gradient": curve[:, [steps - length + 1 for length in lengths]],
        "arrival": np.repeat(curve[:, -1:], len(lengths), axis=1),
        "arrival_lag": np.zeros(seeds, int),
        "curve": curve,
        "float32_norm": np.exp(curve),
        "finite_steps": np.full(seeds, steps),
        "log_spectral_radius": np.zeros(seeds),
    }
    return Measured(**(found | changes))


def straight(rates: list[float], steps: int) -> np.ndarray:
    return np.array(rates)[:, None] * np.arange(steps, -1, -1)


def test_rows_are_arithmetic():
    """Mean and spread over seeds (with 1/N), half-lives, and the rate from the lag that was travelled."""
    measured = measured_as(straight([-0.1, -0.3], 100), (11, 100))
    first, last = rows_by_length({"cell": "x"}, measured, (11, 100), None, linear=False)
    assert first["cell"] == "x" and (first["length"], first["lag_steps"]) == (11, 10)
    assert first["log10_gradient_mean"] == pytest.approx(-2 / math.log(10))
    assert first["log10_gradient_std"] == pytest.approx(1 / math.log(10))
    for row in (first, last, row_by_lag({}, measured, None, linear=False)):
        assert row["rate_nats_per_step"] == pytest.approx(-0.2)
        assert row["rate_nats_per_step_std"] == pytest.approx(0.1)
        assert row["half_life_steps"] == pytest.approx(math.log(2) / 0.2) and row["doubling_time_steps"] is None
    assert (first["verdict"], last["verdict"]) == ("stable", "vanishing")
    grown = rows_by_length({}, measured_as(straight([0.5], 100), (100,)), (100,), None, linear=False)[0]
    assert grown["verdict"] == "exploding" and grown["half_life_steps"] is None
    assert grown["doubling_time_steps"] == pytest.approx(math.log(2) / 0.5)


def test_seeds_that_die_or_overflow_are_counted_and_left_out():
    """Exact zeros and states beyond floating point are no numbers to average; a linear cell's state does not matter."""
    curve = straight([-0.1, -0.3, 0.7], 20)
    curve[0, :8] = -np.inf  # from lag 13 on
    measured = measured_as(curve, (10, 20), finite_steps=np.array([20, 20, 15]))
    short, long = rows_by_length({}, measured, (10, 20), None, linear=False)
    assert short["surviving_fraction"] == 1 and short["forward_overflow_fraction"] == 0
    assert long["surviving_fraction"] == pytest.approx(1 / 3) and long["forward_overflow_fraction"] == pytest.approx(
        1 / 3
    )
    assert long["rate_nats_per_step"] == pytest.approx(-0.3) and long["seeds"] == 3
    lag_row = row_by_lag({}, measured, None, linear=False)
    assert lag_row["rate_nats_per_step"] == pytest.approx(-0.3) and lag_row["surviving_fraction"] == pytest.approx(
        1 / 3
    )
    assert rows_by_length({}, measured, (10, 20), None, linear=True)[1]["surviving_fraction"] == pytest.approx(2 / 3)
    means = curves_by_lag(measured)
    assert means["mean"][13] == pytest.approx(13 * 0.2 / math.log(10)) and means["mean"][12] != means["mean"][13]


@pytest.mark.parametrize(
    ("curve", "finite_steps", "expected"),
    [(np.full((2, 21), -np.inf), 20, "zero"), (np.full((2, 21), np.nan), 9, "overflow")],
)
def test_rows_of_which_nothing_is_left(curve, finite_steps, expected):
    """No number is made up: None for each, and a verdict that says why."""
    curve[:, -1] = 0
    measured = measured_as(curve, (20,), finite_steps=np.full(2, finite_steps))
    row = rows_by_length({}, measured, (20,), None, linear=False)[0]
    lag_row = row_by_lag({}, measured, None, linear=False)
    assert row["verdict"] == expected and row["surviving_fraction"] == 0
    for name in ("log10_gradient_mean", "log10_gradient_std"):
        assert row[name] is None
    for each in (row, lag_row):
        assert each["rate_nats_per_step"] is None and each["half_life_steps"] is None
    assert np.isnan(curves_by_lag(measured)["mean"][1:]).all()
    assert lag_row["float32_norm_dies_at_lag_steps"] is None  # the true norm is no better


@pytest.mark.parametrize(
    ("log10_gradient", "overflow", "expected"),
    [
        (0.0, 0, "stable"), (1.0, 0, "stable"), (-1.0, 0.5, "stable"), (1.001, 0, "exploding"),
        (-1.001, 0, "vanishing"), (-300.0, 0, "vanishing"), (None, 0, "zero"), (None, 0.5, "zero"),
        (None, 1, "overflow"),
    ],
)  # fmt: skip
def test_verdicts(log10_gradient, overflow, expected):
    assert verdict(log10_gradient, overflow) == expected and expected in table.VERDICTS


def test_float32_dies_where_half_of_the_seeds_have():
    """The median over seeds of the first dead lag; zeros that are true are not counted."""
    norms, curve = np.ones((3, 6)), np.zeros((3, 6))
    assert float32_death(norms, curve) is None
    norms[0, :4], norms[1, :2] = 0, np.inf
    assert float32_death(norms, curve) == 4.0
    norms[1, :2] = np.nan
    assert float32_death(norms, curve) == 4.0
    curve[0, :4] = -np.inf
    assert float32_death(norms, curve) is None

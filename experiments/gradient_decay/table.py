"""From the measured log norms to the rows of `summary.json`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.gradient_decay.sweep import Measured
from experiments.gradient_decay.theory import Prediction

VERDICT_DECADES = 1.0  # a gradient is called stable while it stays within a tenth and ten times

Row = dict[str, Any]


def rows_by_length(
    base: Row, measured: Measured, lengths: Sequence[int], prediction: Prediction | None, linear: bool
) -> list[Row]:
    """One row a length: how much of the gradient reaches step 1. `measured` holds one kind and scale, axis 0 seeds."""
    rows = []
    for column, length in enumerate(lengths):
        log_gradient = measured.log_gradient[:, column]
        valid = linear | (measured.finite_steps >= length)  # a linear Jacobian does not depend on the state
        survives = np.isfinite(log_gradient) & valid
        travelled = length - 1 - measured.arrival_lag
        rated = survives & (travelled > 0)
        rates = (log_gradient[rated] - measured.arrival[rated, column]) / travelled[rated]
        row = base | {"length": length, "lag_steps": length - 1}
        row |= _spread("log10_gradient", log_gradient[survives] / math.log(10))
        row |= _rate(rates)
        row["predicted_rate_nats_per_step"] = prediction.over(length) if prediction else None
        row["prediction"] = prediction.source if prediction else None
        row["seeds"] = len(log_gradient)
        row["surviving_fraction"] = float(survives.mean())
        row["forward_overflow_fraction"] = float((measured.finite_steps < length).mean())
        row["verdict"] = verdict(row["log10_gradient_mean"], row["forward_overflow_fraction"])
        rows.append(row)
    return rows


def row_by_lag(base: Row, measured: Measured, prediction: Prediction | None, linear: bool) -> Row:
    """The decay within the longest sequence: the slope of log |dL/d(carry_t)| over lags from a tenth of it on."""
    steps = measured.curve.shape[1] - 1
    lags = np.arange(steps + 1)
    fitted = lags >= max(1, steps // 10)
    by_lag = measured.curve[:, ::-1]
    survives = np.isfinite(by_lag[:, fitted]).all(axis=1) & (linear | (measured.finite_steps >= steps))
    slopes = np.array([np.polyfit(lags[fitted], curve[fitted], 1)[0] for curve in by_lag[survives]])
    row = base | {"length": steps} | _rate(slopes)
    row["predicted_rate_nats_per_step"] = None
    if prediction is not None:
        row["predicted_rate_nats_per_step"] = float(np.polyfit(lags[fitted], prediction.by_lag()[fitted], 1)[0])
    row["surviving_fraction"] = float(survives.mean())
    row["float32_norm_dies_at_lag_steps"] = float32_death(measured.float32_norm, measured.curve)
    return row


def curves_by_lag(measured: Measured) -> dict[str, np.ndarray]:
    """Mean and standard deviation over surviving seeds of log10 |dL/d(carry)| at lags 0..T, each `[T + 1]`."""
    by_lag = measured.curve[:, ::-1] / math.log(10)
    alive = np.isfinite(by_lag)
    count = alive.sum(axis=0)
    total = np.where(alive, by_lag, 0).sum(axis=0)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    deviation = np.where(alive, by_lag - mean, 0)
    variance = np.divide((deviation**2).sum(axis=0), count, out=np.full(total.shape, np.nan), where=count > 0)
    return {"mean": mean, "std": np.sqrt(variance)}


def float32_death(norms: np.ndarray, curve: np.ndarray) -> float | None:
    """The median over seeds of the lag from which a plain float32 norm is 0, inf or NaN, and the true one is not.

    None if that happens to less than half of the seeds.
    """
    dead = ((norms == 0) | ~np.isfinite(norms)) & np.isfinite(curve)
    by_lag = dead[:, ::-1]
    first = np.where(by_lag.any(axis=1), by_lag.argmax(axis=1), np.inf)
    median = float(np.median(first))
    return median if math.isfinite(median) else None


VERDICTS = ("vanishing", "stable", "exploding", "zero", "overflow")


def verdict(log10_gradient: float | None, forward_overflow_fraction: float) -> str:
    """vanishing, stable or exploding, by the factor that reaches step 1, where any seed has one.

    Else "zero" where exactly nothing arrives, "overflow" where the state of every seed leaves floating point before
    the end, so that its gradient cannot be known.
    """
    if log10_gradient is None:
        return "overflow" if forward_overflow_fraction == 1 else "zero"
    if abs(log10_gradient) <= VERDICT_DECADES:
        return "stable"
    return "vanishing" if log10_gradient < 0 else "exploding"


def _spread(name: str, values: np.ndarray) -> Row:
    known = len(values) > 0
    return {
        f"{name}_mean": float(values.mean()) if known else None,
        f"{name}_std": float(values.std()) if known else None,
    }


def _rate(rates: np.ndarray) -> Row:
    """Mean and spread over seeds, and the time in which the gradient halves or doubles at the mean rate."""
    known = len(rates) > 0
    mean = float(rates.mean()) if known else None
    return {
        "rate_nats_per_step": mean,
        "rate_nats_per_step_std": float(rates.std()) if known else None,
        "half_life_steps": math.log(2) / -mean if mean is not None and mean < 0 else None,
        "doubling_time_steps": math.log(2) / mean if mean is not None and mean > 0 else None,
    }

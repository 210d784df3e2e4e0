"""Measurement against theory, in the one form that every experiment writes to `summary.json` and to its report."""

import math
from collections.abc import Sequence
from typing import Any

from experiments.harness.report import Table

_COLUMNS = ("quantity", "measured", "standard_error", "theory", "residual", "relative_residual", "unit")


def residual(
    quantity: str, measured: float, theory: float, *, unit: str = "", samples: Sequence[float] = ()
) -> dict[str, Any]:
    """One comparison; measured - theory, and relative to |theory| where theory is not zero.

    Args:
      quantity: what is compared, with its setting, for example "leading exponent, g = 2".
      measured, theory: the two numbers.
      unit: of both, for example "nats/step".
      samples: what `measured` is the mean of (seeds), for its standard error.

    Example:

      >>> residual("w^2", 4.0, 4.1, unit="1")["residual"]
      -0.09999999999999964
    """
    error = None
    if len(samples) > 1:
        mean = math.fsum(samples) / len(samples)
        error = math.sqrt(math.fsum((each - mean) ** 2 for each in samples) / (len(samples) - 1) / len(samples))
    return {
        "quantity": quantity,
        "measured": float(measured),
        "standard_error": error,
        "theory": float(theory),
        "residual": float(measured) - float(theory),
        "relative_residual": (float(measured) - float(theory)) / abs(theory) if theory else None,
        "unit": unit,
    }


def residual_table(residuals: Sequence[dict[str, Any]], caption: str = "Measured against theory") -> Table:
    """The residuals as a table, for `run.show` and the report."""
    return Table.of(residuals, _COLUMNS, caption)

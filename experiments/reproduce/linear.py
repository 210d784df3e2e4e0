"""Linear networks: powers, Newman's spectrum, and norms that one matrix used again blows up."""

import functools
import math

import numpy as np

from experiments.linear_spectra import measure as work
from experiments.reproduce.row import Found, Row, of_samples
from rnnjax.gradients import theory

_NEWMAN = "Newman, Commun. Math. Phys. 103 (1986), 121; H = 64, g = 1"
_SIZE, _LAG = 64, 50


def _scalar_gradient(quick: bool) -> Found:
    """dL/dw of one unit, T = 50, w = 0.9, over the closed form T w^(T-1)."""
    return Found(work.scalar(0.9, _LAG)["weight_gradient"] / (_LAG * 0.9 ** (_LAG - 1)))


def _orthogonal(quick: bool) -> Found:
    """The exponent furthest from log s, s = 0.5, over log s."""
    found = work.orthogonal_spectrum(_SIZE, 0.5, 60 if quick else 500, 0) / math.log(0.5)
    return Found(float(found[np.abs(found - 1).argmax()]))


@functools.cache
def _fresh(quick: bool) -> np.ndarray:
    return np.array(
        [work.fresh_spectrum(_SIZE, 1.0, 300 if quick else 2000, seed) for seed in range(3 if quick else 8)]
    )


@functools.cache
def _log10_mean_squared_norm(kind: str, quick: bool) -> tuple[float, int]:
    draws = 300 if quick else 2000
    found = work.log_squared_norms(kind, _SIZE, 1.0, _LAG, draws, 0)
    return float(work.log_mean_exp(found)[-1] / math.log(10)), draws


ROWS = (
    Row(
        name="scalar-weight-gradient",
        what="one linear unit: dL/dw over T w^(T-1) x_0, w = 0.9, T = 50",
        published=1.0,
        tolerance=1e-12,
        source="closed form",
        measure=_scalar_gradient,
        exact=True,
    ),
    Row(
        name="orthogonal-exponents",
        what="orthogonal W2, scale 0.5: worst of 64 exponents over log s",
        published=1.0,
        tolerance=1e-12,
        source="closed form",
        measure=_orthogonal,
        exact=True,
    ),
    Row(
        name="newman-top-closed-form",
        what="fresh Gaussian matrices, top exponent, closed form",
        published=-0.00785,
        tolerance=5e-6,
        unit="nats/step",
        source=_NEWMAN,
        exact=True,
        measure=lambda quick: Found(float(theory.ginibre_exponents(_SIZE)[0])),
    ),
    Row(
        name="newman-bottom-closed-form",
        what="fresh Gaussian matrices, bottom exponent, closed form",
        published=-2.715,
        tolerance=5e-4,
        unit="nats/step",
        source=_NEWMAN,
        exact=True,
        measure=lambda quick: Found(float(theory.ginibre_exponents(_SIZE)[-1])),
    ),
    Row(
        name="newman-top",
        what="fresh Gaussian matrices, top exponent, measured",
        published=-0.00785,
        tolerance=0.005,
        quick_tolerance=0.015,
        unit="nats/step",
        source=_NEWMAN,
        measure=lambda quick: of_samples(_fresh(quick)[:, 0].tolist()),
    ),
    Row(
        name="newman-bottom",
        what="fresh Gaussian matrices, bottom exponent, measured",
        published=-2.715,
        tolerance=0.04,
        quick_tolerance=0.15,
        unit="nats/step",
        source=_NEWMAN,
        measure=lambda quick: of_samples(_fresh(quick)[:, -1].tolist()),
    ),
    Row(
        name="fresh-mean-norm",
        what="fresh Gaussian matrices: log10 E|.|² at lag 50, g = 1",
        published=0.0,
        tolerance=0.15,
        quick_tolerance=0.3,
        unit="decades",
        source="E|.|² = g^(2k)",
        measure=lambda quick: Found(*_log10_mean_squared_norm("fresh", quick)),
    ),
    Row(
        name="frozen-mean-norm",
        what="one Gaussian matrix used again: log10 E|.|² at lag 50, H = 64, g = 1",
        published=math.log10(7e5),
        tolerance=1.5,
        unit="decades",
        source="7e5, computed for these notes; carried by rare draws, so an order of magnitude at most",
        measure=lambda quick: Found(*_log10_mean_squared_norm("frozen", quick)),
    ),
)

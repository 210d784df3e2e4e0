"""What gates and single units remember: forget biases, chrono, the curse of memory."""

import functools
import math
from collections.abc import Callable

import numpy as np

from experiments.curse_of_memory.measure import second_moments
from experiments.lstm_memory.measure import mean_share, rate, retention
from experiments.reproduce.row import Found, Row, of_samples
from rnnjax.gradients import theory

_GATE = "σ(b_f): Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015"
_CHRONO = "closed form of chrono initialisation, Tallec and Ollivier 2018; T_max = 500"
_CURSE = "Zucchet and Orvieto 2024, λ = 0.9"


@functools.cache
def _gate_rate(bias: str) -> float:
    """Nats a step, by the log-adjoint of an LSTM without recurrent weights."""
    found = retention(bias, "closed", hidden_size=2, steps=60, t_max=500, seeds=1, seed=0)
    return rate(found.log_share[0, :, 0], 1)


@functools.cache
def _chrono(quick: bool) -> np.ndarray:
    """`[S, T]`."""
    found = retention("chrono", "closed", 64 if quick else 256, 501, 500, 8 if quick else 16, 0)
    return mean_share(found.log_share)


def _chrono_measured(lag: int) -> Callable[[bool], Found]:
    return lambda quick: of_samples(_chrono(quick)[:, lag].tolist())


@functools.cache
def _moments(quick: bool) -> dict[str, list[float]]:
    return second_moments(0.9, 128 if quick else 512, 4000, 0)


ROWS = (
    Row(
        name="forget-bias-0",
        what="LSTM, b_f = 0: gradient of the cell kept a step, measured",
        published=0.5,
        tolerance=1e-10,
        source=_GATE,
        measure=lambda quick: Found(math.exp(_gate_rate("0"))),
        exact=True,
    ),
    Row(
        name="forget-bias-1",
        what="LSTM, b_f = 1: gradient of the cell kept a step, measured",
        published=0.731,
        tolerance=5e-4,
        source=_GATE,
        measure=lambda quick: Found(math.exp(_gate_rate("1"))),
        exact=True,
    ),
    Row(
        name="forget-bias-5",
        what="LSTM, b_f = 5: time constant, measured",
        published=149.0,
        tolerance=0.5,
        unit="steps",
        source=_GATE,
        measure=lambda quick: Found(-1 / _gate_rate("5")),
        exact=True,
    ),
    *(
        Row(
            name=f"chrono-closed-form-{lag}",
            what=f"LSTM, chrono: share left at lag {lag}, closed form",
            published=value,
            tolerance=5e-4,
            source=_CHRONO,
            exact=True,
            measure=lambda quick, lag=lag: Found(float(theory.chrono_decay(lag, 500))),
        )
        for lag, value in ((50, 0.725), (500, 0.149))
    ),
    *(
        Row(
            name=f"chrono-{lag}",
            what=f"LSTM, chrono: share left at lag {lag}, measured",
            published=value,
            tolerance=0.015,
            quick_tolerance=0.05,
            source=_CHRONO,
            measure=_chrono_measured(lag),
        )
        for lag, value in ((50, 0.725), (500, 0.149))
    ),
    Row(
        name="curse-closed-form",
        what="linear unit: E[(∂h/∂λ)²], closed form",
        published=263.9,
        tolerance=0.05,
        source=_CURSE,
        exact=True,
        measure=lambda quick: Found(float(theory.curse_of_memory(0.9).sensitivity)),
    ),
    Row(
        name="curse",
        what="linear unit: E[(∂h/∂λ)²], measured",
        published=263.9,
        tolerance=5.0,
        quick_tolerance=12.0,
        source=_CURSE,
        measure=lambda quick: of_samples(_moments(quick)["sensitivity"]),
    ),
    Row(
        name="curse-state",
        what="linear unit: E[h²], measured",
        published=1 / (1 - 0.9**2),
        tolerance=0.05,
        quick_tolerance=0.15,
        source=_CURSE,
        measure=lambda quick: of_samples(_moments(quick)["state"]),
    ),
)

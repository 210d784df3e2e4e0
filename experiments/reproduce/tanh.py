"""Tanh networks: the mean field's numbers, the published spectrum at N = 4096, and the edge that input moves."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.driven_edge.__main__ import _AROUND
from experiments.driven_edge.measure import leading_exponents, zero_crossing
from experiments.reproduce.row import Found, Row, of_samples
from experiments.tanh_phase_diagram.measure import leading_and_mean, whole_spectrum
from experiments.tanh_phase_diagram.published import PUBLISHED, SOURCE
from rnnjax.gradients import theory

_MEAN_FIELD = "mean field (Sompolinsky, Crisanti and Sommers 1988); theory column of davidclark1/rnn-lyapunov"
_DRIVEN = "closed form after Molgedey, Schuchhardt and Schuster 1992"

_LEADING = {1.1: 0.00507, 1.2: 0.01648, 1.5: 0.06522, 2.0: 0.15472, 3.0: 0.31025}
_EDGES = {0.01: 1.1934, 1.0: 1.8556}


def _leading_closed_form(gain: float) -> Callable[[bool], Found]:
    return lambda quick: Found(float(theory.tanh_lyapunov_exponent(gain)))


def _edge_closed_form(variance: float) -> Callable[[bool], Found]:
    return lambda quick: Found(float(theory.critical_gain(variance)))


@functools.cache
def _networks(quick: bool) -> list[dict[str, list[float]]]:
    """Gains 2 and 3 at once."""
    size, steps, seeds = (512, 800, 3) if quick else (1024, 2500, 5)
    return [leading_and_mean(size, (2.0, 3.0), steps, steps // 5, seed) for seed in range(seeds)]


def _measured(name: str, gain: float) -> Callable[[bool], Found]:
    return lambda quick: of_samples([each[name][(2.0, 3.0).index(gain)] for each in _networks(quick)])


@functools.cache
def _spectra(gain: float, quick: bool) -> list[dict[str, Any]]:
    size, steps, seeds = (96, 150, 2) if quick else (256, 260, 5)
    return [whole_spectrum(size, gain, steps, steps // 5, seed) for seed in range(seeds)]


def _dimension(gain: float) -> Callable[[bool], Found]:
    return lambda quick: of_samples([each["dimension_over_size"] for each in _spectra(gain, quick)])


def _crossing(variance: float) -> Callable[[bool], Found]:
    def measure(quick: bool) -> Found:
        size, steps, seeds = (256, 800, 3) if quick else (512, 2000, 5)
        gains = tuple(round(float(theory.critical_gain(variance)) * share, 6) for share in _AROUND)
        found = [leading_exponents(size, gains, variance, steps, steps // 5, seed)["leading"] for seed in range(seeds)]
        return of_samples([zero_crossing(np.array(gains), np.array(leading)) for leading in found])

    return measure


ROWS = (
    *(
        Row(
            name=f"mean-field-g{gain:g}",
            what=f"tanh, no input: mean-field leading exponent, g = {gain:g}",
            published=value,
            tolerance=5.1e-6,
            unit="nats/step",
            source=_MEAN_FIELD,
            exact=True,
            measure=_leading_closed_form(gain),
        )
        for gain, value in _LEADING.items()
    ),
    *(
        Row(
            name=f"edge-closed-form-{variance:g}",
            what=f"tanh driven by noise, σ² = {variance:g}: critical gain",
            published=value,
            tolerance=5.1e-5,
            source=_DRIVEN,
            exact=True,
            measure=_edge_closed_form(variance),
        )
        for variance, value in _EDGES.items()
    ),
    *(
        Row(
            name=f"edge-{variance:g}",
            what=f"tanh driven by noise, σ² = {variance:g}: measured zero crossing",
            published=value,
            tolerance=0.03 * value,
            quick_tolerance=0.06 * value,
            source=_DRIVEN,
            measure=_crossing(variance),
        )
        for variance, value in _EDGES.items()
    ),
    *(
        Row(
            name=f"leading-g{known['gain']:g}",
            what=f"tanh, no input: leading exponent, g = {known['gain']:g}",
            published=known["leading"],
            tolerance=0.02 * known["leading"],
            quick_tolerance=0.06 * known["leading"],
            unit="nats/step",
            source=SOURCE,
            measure=_measured("leading", known["gain"]),
        )
        for known in PUBLISHED
    ),
    *(
        Row(
            name=f"mean-g{known['gain']:g}",
            what=f"tanh, no input: mean of all exponents, g = {known['gain']:g}",
            published=known["mean"],
            tolerance=0.01,
            quick_tolerance=0.03,
            unit="nats/step",
            source=SOURCE,
            measure=_measured("mean", known["gain"]),
        )
        for known in PUBLISHED
    ),
    *(
        Row(
            name=f"dimension-g{known['gain']:g}",
            what=f"tanh, no input: Kaplan-Yorke dimension / H, g = {known['gain']:g}",
            published=known["dimension_over_size"],
            tolerance=0.02,
            quick_tolerance=0.08,
            unit="H",
            source=f"{SOURCE}; ours is narrower, which lowers it",
            measure=_dimension(known["gain"]),
        )
        for known in PUBLISHED
    ),
)

"""The lecture's own examples: four rules, fifty steps, two companies."""

from collections.abc import Callable

from experiments.gradient_decay.scalar import scalar_case
from experiments.reproduce.row import Found, Row
from experiments.statland import published

_RNN = "StatQuest, recurrent neural networks; weights of the video"
_LSTM = "StatQuest, long short-term memory; weights of StatQuest/signa"

_DAYS = (
    (("low", "low"), 0.0),
    (("low", "medium"), 0.99),
    (("high", "medium"), 0.0),
    (("high", "high"), 0.99),
    (("high", "medium", "medium"), 0.99),
)


def _prediction(days: tuple[str, ...]) -> Callable[[bool], Found]:
    return lambda quick: Found(published.trace(published.published_network(), days)["prediction"])


def _hidden(first: str, day: int) -> Callable[[bool], Found]:
    network, days = published.published_network, (first, "medium")
    return lambda quick: Found(published.trace(network(), days)["steps"][day]["h"])


def _power(w2: float) -> Callable[[bool], Found]:
    return lambda quick: Found(scalar_case(w2)["gradient"])


def _company(name: str) -> Callable[[bool], Found]:
    return lambda quick: Found(published.lstm_trace(published.COMPANIES[name])[-1]["h"])


ROWS = (
    *(
        Row(
            name=f"statland-{'-'.join(days)}",
            what=f"StatLand, one ReLU unit: {', '.join(days)}",
            published=value,
            tolerance=1e-12,
            source=_RNN,
            measure=_prediction(days),
            exact=True,
        )
        for days, value in _DAYS
    ),
    Row(
        name="statland-hidden",
        what="StatLand: hidden state after low, medium",
        published=0.9,
        tolerance=1e-12,
        source=_RNN,
        measure=_hidden("low", 1),
        exact=True,
    ),
    Row(
        name="statland-hidden-high",
        what="StatLand: hidden state after high",
        published=1.8,
        tolerance=1e-12,
        source=_RNN,
        measure=_hidden("high", 0),
        exact=True,
    ),
    Row(
        name="two-to-the-50",
        what="gradient 50 steps back, W2 = 2",
        published=2.0**50,
        tolerance=0.0,
        source=_RNN,
        measure=_power(2.0),
        exact=True,
    ),
    Row(
        name="half-to-the-50",
        what="gradient 50 steps back, W2 = 0.5",
        published=0.5**50,
        tolerance=0.0,
        source=_RNN,
        measure=_power(0.5),
        exact=True,
    ),
    Row(
        name="company-a",
        what="LSTM, company A, prediction for day 5",
        published=0.0064,
        tolerance=5e-5,
        source=_LSTM,
        measure=_company("A"),
        exact=True,
    ),
    Row(
        name="company-b",
        what="LSTM, company B, prediction for day 5",
        published=0.9694,
        tolerance=5e-5,
        source=_LSTM,
        measure=_company("B"),
        exact=True,
    ),
)

"""Tasks that ask for memory: what remembers nothing gets, and two trained networks that others trained too."""

from collections.abc import Callable

import numpy as np

from experiments.reproduce.recipes import adding_errors, order_learned
from experiments.reproduce.row import Found, Row, of_samples
from rnnjax import tasks

_RNN_SEEDS = 16
_SCHMIDHUBER = "npow/schmidhuber-problems (NumPy), whose recipe ours follows"
_CONSTANT = tasks.adding_baseline(-1.0, 1.0).loss


def _adding_lstm(quick: bool) -> Found:
    errors = adding_errors("lstm", 100, 8000, 3)
    return Found(float(np.median(errors)), len(errors), float(np.std(errors, ddof=1)))


def _adding_rnn(quick: bool) -> Found:
    """Seeds either learn or stay near the best constant: a mean of all would be of neither."""
    return of_samples([error for error in adding_errors("rnn", 100, 8000, _RNN_SEEDS) if error < _CONSTANT / 2])


def _order_solved(name: str) -> Callable[[bool], Found]:
    def measure(quick: bool) -> Found:
        seen = order_learned(name, 1500, 5)
        return Found(float(np.isfinite(seen).sum()), len(seen))

    return measure


def _order_sequences(quick: bool) -> Found:
    seen = order_learned("lstm", 1500, 5)
    return Found(float(np.median(seen)), len(seen))


_TCN = "Bai, Kolter and Koltun 2018 print 0.1767"

ROWS = (
    Row(
        name="adding-constant",
        what="adding, U(0, 1): best constant's squared error",
        published=1 / 6,
        tolerance=1e-12,
        source=f"variance of a sum; {_TCN}",
        exact=True,
        measure=lambda quick: Found(tasks.adding_baseline().loss),
    ),
    Row(
        name="adding-constant-centred",
        what="adding, U(-1, 1): best constant's squared error",
        published=2 / 3,
        tolerance=1e-12,
        source="variance of a sum",
        exact=True,
        measure=lambda quick: Found(tasks.adding_baseline(-1.0, 1.0).loss),
    ),
    Row(
        name="copy-floor",
        what="copy memory, T = 1000: cross-entropy of what remembers nothing",
        published=0.02039,
        tolerance=5.1e-6,
        unit="nats",
        source="10 ln 8/(T + 20); trained networks of Bai, Kolter and Koltun 2018 sit at "
        "it: LSTM .0204, RNN .0202, GRU .0197",
        exact=True,
        measure=lambda quick: Found(tasks.copy_memory_baseline(1000).loss),
    ),
    Row(
        name="adding-lstm",
        what="adding, T = 100, U(-1, 1), LSTM of 8 units: median squared error",
        published=0.0007,
        tolerance=0.002,
        source=_SCHMIDHUBER,
        measure=_adding_lstm,
        full_only=True,
    ),
    Row(
        name="adding-rnn",
        what=f"the same, tanh network: mean of the seeds of {_RNN_SEEDS} that get below half a constant's error",
        published=0.0706,
        tolerance=0.07,
        source=f"{_SCHMIDHUBER}; one seed there, which is one that learned",
        measure=_adding_rnn,
        full_only=True,
    ),
    Row(
        name="order-lstm-solved",
        what="temporal order, T = 50, LSTM of 4 units: seeds of 5 that solve it",
        published=5.0,
        tolerance=0.0,
        source=_SCHMIDHUBER,
        measure=_order_solved("lstm"),
        unit="seeds",
        full_only=True,
    ),
    Row(
        name="order-lstm-sequences",
        what="temporal order, T = 50, LSTM of 4 units: median sequences until 95% right",
        published=6400.0,
        tolerance=3200.0,
        source=f"{_SCHMIDHUBER}; looked at every 1,600 sequences",
        unit="sequences",
        measure=_order_sequences,
        full_only=True,
    ),
    Row(
        name="order-rnn-solved",
        what="temporal order, T = 50, tanh network of 4 units: seeds of 5 that solve it",
        published=0.0,
        tolerance=0.0,
        source=_SCHMIDHUBER,
        measure=_order_solved("rnn"),
        unit="seeds",
        full_only=True,
    ),
)

NOT_RUN = (
    ("adding, T = 600: LSTM 0.164, GRU 5.3e-5, RNN 0.177", "Bai, Kolter and Koltun 2018", "hours on a CPU core"),
    ("copy memory, T = 1000: LSTM .0204, RNN .0202, GRU .0197", "the same", "hours; all three sit at the floor above"),
    (
        "temporal order, T = 100: LSTM, 31,390 sequences",
        "Hochreiter and Schmidhuber 1997",
        "another network and trainer",
    ),
    (
        "temporal order, a port with 100 units: T = 20 to 50 in 10,000 updates; 50 units at T = 50 to 200 do not move "
        "in 50,000",
        "a public port of Pascanu, Mikolov and Bengio 2013",
        "another width; with 50 units and ten times the rate see pascanu-omega and experiments.temporal_order",
    ),
    (
        "temporal order, T = 100 to 200: clipping and Ω",
        "Pascanu, Mikolov and Bengio 2013",
        "millions of updates; as far as a budget of minutes goes: experiments.temporal_order",
    ),
    ("continual Reber grammar needs forget gates", "Gers, Schmidhuber and Cummins 2000", "no number; not built"),
    (
        "gradient flossing, delayed XOR, 80 units",
        "Engelken 2023",
        "curves, no number; made small in experiments.flossing",
    ),
)
"""What, source, and why it has no row."""

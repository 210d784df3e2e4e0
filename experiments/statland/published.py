"""The two published networks of StatLand, with every number that passes through them.

In StatLand a stock is low, medium or high on a day; written as numbers 0, 0.5 and 1. The recurrent network has one
ReLU unit and reads the days in order:

    h_t = relu(x_t W1 + h_{t-1} W2 + b1)           prediction = h_T W3 + b2

W1 = 1.8, W2 = -0.5, W3 = 1.1, b1 = b2 = 0. In rnnjax W1 is `w_x`, W2 is `w_h`, b1 is `b`. It meets the four rules of
StatLand, `RULES`, each within 0.01.

The LSTM has one unit too. It reads four days of a company; the short-term memory after the fourth predicts the fifth.

Source of the numbers: J. Starmer, StatQuest, "Recurrent Neural Networks, clearly explained" and "Long Short-Term
Memory, clearly explained".
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax

DAYS = {"low": 0.0, "medium": 0.5, "high": 1.0}

RULES = (  # yesterday, today -> tomorrow
    (("low", "low"), "low"),
    (("low", "medium"), "high"),
    (("high", "medium"), "low"),
    (("high", "high"), "high"),
)
THREE_DAYS = ("high", "medium", "medium")  # no rule says what follows; the published network says high (0.99)

COMPANIES = {"A": (0.0, 0.5, 0.25, 1.0), "B": (1.0, 0.5, 0.25, 1.0)}  # price on days 1 to 4, scaled to 0..1

CELL = rnnjax.Elman(hidden_size=1, activation="relu")


class Network(NamedTuple):
    """The recurrent network with its output."""

    rnn: rnnjax.ElmanParams  # w_x [1, 1] is W1, w_h [1, 1] is W2, b [1] is b1
    w_out: Array  # [] is W3
    b_out: Array  # [] is b2


def published_network() -> Network:
    """W1 = 1.8, W2 = -0.5, b1 = 0, W3 = 1.1, b2 = 0, in JAX's present float dtype."""
    rnn = rnnjax.ElmanParams(w_x=jnp.array([[1.8]]), w_h=jnp.array([[-0.5]]), b=jnp.array([0.0]))
    return Network(rnn, jnp.array(1.1), jnp.array(0.0))


def weights(network: Network) -> dict[str, float]:
    """The five numbers under the lecture's names."""
    rnn = network.rnn
    values = (rnn.w_x[0, 0], rnn.w_h[0, 0], rnn.b[0], network.w_out, network.b_out)
    return dict(zip(("W1", "W2", "b1", "W3", "b2"), map(float, values), strict=True))


class Rows(NamedTuple):
    """Rows of days of unequal length, padded at the end and told apart by `lengths`."""

    xs: np.ndarray  # [T, B, 1]
    lengths: np.ndarray  # [B]


def encode(rows: Sequence[Sequence[str]]) -> Rows:
    """Rows of day words as one padded batch.

    Example:

      >>> xs, lengths = encode([("low", "medium"), ("high", "medium", "medium")])
      >>> xs[:, :, 0].tolist(), lengths.tolist()
      ([[0.0, 1.0], [0.5, 0.5], [0.0, 0.5]], [2, 3])
    """
    lengths = np.array([len(row) for row in rows])
    xs = np.zeros((lengths.max(), len(rows), 1))
    for b, row in enumerate(rows):
        xs[: len(row), b, 0] = [DAYS[day] for day in row]
    return Rows(xs, lengths)


def forward(network: Network, rows: Rows) -> tuple[Array, Array]:
    """Predictions `[B]` and last hidden states `[B]`, all rows in one unroll."""
    xs = jnp.asarray(rows.xs, network.w_out.dtype)
    h, _ = rnnjax.unroll(CELL, network.rnn, xs, lengths=rows.lengths)
    return h[:, 0] * network.w_out + network.b_out, h[:, 0]


def reading(prediction: float) -> str:
    """The nearest of low, medium and high; "none" for NaN or infinity."""
    if not np.isfinite(prediction):
        return "none"
    return min(DAYS, key=lambda day: abs(DAYS[day] - prediction))


def trace(network: Network, days: Sequence[str]) -> dict[str, Any]:
    """One row of days, copy by copy of the unrolled network.

    Returns:
      `days`; `steps`, one mapping a copy: `day`, `x`, `x_w1` = x_t W1, `h_before` = h_{t-1}, `h_w2` = h_{t-1} W2,
      `b1`, `sum` (what goes into the ReLU) and `h` = h_t; `prediction` = h_T W3 + b2; `reads_as`.
    """
    w = weights(network)
    rows = encode([days])
    _, hs = rnnjax.unroll(CELL, network.rnn, jnp.asarray(rows.xs, network.w_out.dtype))
    steps, before = [], 0.0
    for day, h in zip(days, np.asarray(hs[:, 0, 0]).tolist(), strict=True):
        x_w1, h_w2 = DAYS[day] * w["W1"], before * w["W2"]
        total = x_w1 + h_w2 + w["b1"]
        steps.append(
            {"day": day, "x": DAYS[day], "x_w1": x_w1, "h_before": before, "h_w2": h_w2, "b1": w["b1"], "sum": total}
            | {"h": h}
        )
        before = h
    prediction = float(forward(network, rows)[0][0])
    return {"days": list(days), "steps": steps, "prediction": prediction, "reads_as": reading(prediction)}


_GATES = {  # gate: weight of the short-term memory, weight of the input, bias; in the order of rnnjax, i, f, g, o
    "input": (2.00, 1.65, 0.62),
    "forget": (2.70, 1.63, 1.62),
    "candidate": (1.41, 0.94, -0.32),
    "output": (4.38, -0.19, 0.59),
}


def published_lstm() -> rnnjax.LSTMParams:
    """The published LSTM in rnnjax's layout: gates stacked i, f, g, o on the last axis, H = D = 1."""
    short_term, from_input, bias = (jnp.array(column) for column in zip(*_GATES.values(), strict=True))
    return rnnjax.LSTMParams(w_x=from_input[None, :], w_h=short_term[None, :], b=bias)


def lstm_trace(prices: Sequence[float]) -> list[dict[str, float]]:
    """The published LSTM from zero state, one mapping a day.

    Returns:
      For each day `x`; `h_before`, `c_before`; the gates as numbers from 0 to 1, `forget` = σ(f), `input` = σ(i),
      `output` = σ(o); `candidate` = tanh(g); then `c` = forget c_before + input candidate (long-term memory) and
      `h` = output tanh(c) (short-term memory). The last `h` is the prediction.
    """
    cell, params = rnnjax.LSTM(hidden_size=1), published_lstm()
    xs = jnp.asarray(prices, params.w_x.dtype)[:, None]
    carry = cell.initial_carry(params)
    days = []
    for x in xs:
        gates = (x @ params.w_x + params.b + carry.h @ params.w_h).tolist()
        i, f, g, o = (jax.nn.sigmoid(gates[0]), jax.nn.sigmoid(gates[1]), jnp.tanh(gates[2]), jax.nn.sigmoid(gates[3]))
        after, _ = cell.step(params, carry, x)
        values = (x[0], carry.h[0], carry.c[0], f, i, g, o, after.c[0], after.h[0])
        names = ("x", "h_before", "c_before", "forget", "input", "candidate", "output", "c", "h")
        days.append(dict(zip(names, map(float, values), strict=True)))
        carry = after
    return days

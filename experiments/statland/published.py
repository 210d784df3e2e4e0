"""The two published networks of StatLand in plain arithmetic: every number that passes through them, without JAX.

In StatLand a stock is low, medium or high on a day; written as numbers 0, 0.5 and 1. The recurrent network has one
ReLU unit and reads the days in order:

    h_t = relu(x_t W1 + h_{t-1} W2 + b1)           prediction = h_T W3 + b2

It meets the four rules of StatLand, `RULES`, each within 0.01. The LSTM has one unit too. It reads four days of a
company; the short-term memory after the fourth predicts the fifth. `training` has both networks as rnnjax's.

Source of the numbers: J. Starmer, StatQuest, "Recurrent Neural Networks, clearly explained" and "Long Short-Term
Memory, clearly explained".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

DAYS = {"low": 0.0, "medium": 0.5, "high": 1.0}

RULES = (  # yesterday, today -> tomorrow
    (("low", "low"), "low"),
    (("low", "medium"), "high"),
    (("high", "medium"), "low"),
    (("high", "high"), "high"),
)
THREE_DAYS = ("high", "medium", "medium")  # no rule says what follows; the published network says high (0.99)

WEIGHTS = {"W1": 1.8, "W2": -0.5, "b1": 0.0, "W3": 1.1, "b2": 0.0}

COMPANIES = {"A": (0.0, 0.5, 0.25, 1.0), "B": (1.0, 0.5, 0.25, 1.0)}  # price on days 1 to 4, scaled to 0..1

GATES = {  # gate: weight of the short-term memory, weight of the input, bias; in the order of rnnjax, i, f, g, o
    "input": (2.00, 1.65, 0.62),
    "forget": (2.70, 1.63, 1.62),
    "candidate": (1.41, 0.94, -0.32),
    "output": (4.38, -0.19, 0.59),
}


def reading(prediction: float) -> str:
    """The nearest of low, medium and high; "none" for NaN or infinity."""
    if not math.isfinite(prediction):
        return "none"
    return min(DAYS, key=lambda day: abs(DAYS[day] - prediction))


def trace(days: Sequence[str], weights: Mapping[str, float] = WEIGHTS) -> dict[str, Any]:
    """One row of days, copy by copy of the unrolled network.

    Returns:
      `days`; `steps`, one mapping per copy: `day`, `x`, `x_w1` = x_t W1, `h_before` = h_{t-1}, `h_w2` = h_{t-1} W2,
      `b1`, `sum` (the input of the ReLU) and `h` = h_t; `prediction` = h_T W3 + b2; `reads_as`.
    """
    steps, h = [], 0.0
    for day in days:
        step = {"x": DAYS[day], "x_w1": DAYS[day] * weights["W1"], "h_before": h, "h_w2": h * weights["W2"]}
        total = step["x_w1"] + step["h_w2"] + weights["b1"]
        h = max(0.0, total)
        steps.append({"day": day, **step, "b1": weights["b1"], "sum": total, "h": h})
    prediction = h * weights["W3"] + weights["b2"]
    return {"days": list(days), "steps": steps, "prediction": prediction, "reads_as": reading(prediction)}


def lstm_trace(prices: Sequence[float]) -> list[dict[str, float]]:
    """The published LSTM from zero state, one mapping per day: its price `x`, memories before it, gates, memories.

    `forget` = σ(f), `input` = σ(i), `output` = σ(o), `candidate` = tanh(g); `c` = forget c_before + input candidate
    (long-term memory) and `h` = output tanh(c) (short-term memory). The last `h` is the prediction.
    """
    days, h, c = [], 0.0, 0.0
    for x in prices:
        z = {gate: short_term * h + given * x + bias for gate, (short_term, given, bias) in GATES.items()}
        day = {"x": x, "h_before": h, "c_before": c}
        day |= {gate: 1 / (1 + math.exp(-z[gate])) for gate in ("forget", "input", "output")}
        day["candidate"] = math.tanh(z["candidate"])
        c = day["c"] = day["forget"] * c + day["input"] * day["candidate"]
        h = day["h"] = day["output"] * math.tanh(c)
        days.append(day)
    return days

"""The two published networks of StatLand in plain arithmetic: every number that passes through them, without JAX.

    h_t = relu(x_t W1 + h_{t-1} W2 + b1)           prediction = h_T W3 + b2

The LSTM's short-term memory after four days of a company predicts the fifth.

Source of the numbers: J. Starmer, StatQuest, "Recurrent Neural Networks, clearly explained" and "Long Short-Term
Memory, clearly explained".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

DAYS = {"low": 0.0, "medium": 0.5, "high": 1.0}

RULES: tuple[tuple[tuple[str, ...], str], ...] = (  # yesterday, today -> tomorrow
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
    return min(DAYS, key=lambda day: abs(DAYS[day] - prediction)) if math.isfinite(prediction) else "none"


def trace(days: Sequence[str]) -> dict[str, Any]:
    """One row of days through the unrolled network: `steps`, a mapping per copy, and `prediction` = h_T W3 + b2.

    `x_w1` = x_t W1, `h_before` = h_{t-1}, `h_w2` = h_{t-1} W2; `sum` is the input of the ReLU.
    """
    steps, h = [], 0.0
    for day in days:
        step: dict[str, Any] = {"day": day, "x": DAYS[day], "x_w1": DAYS[day] * WEIGHTS["W1"], "h_before": h}
        step |= {"h_w2": h * WEIGHTS["W2"], "b1": WEIGHTS["b1"]}
        step["sum"] = step["x_w1"] + step["h_w2"] + step["b1"]
        step["h"] = h = max(0.0, step["sum"])
        steps.append(step)
    prediction, rule = h * WEIGHTS["W3"] + WEIGHTS["b2"], dict(RULES).get(tuple(days))
    told = {"days": list(days), "steps": steps, "prediction": prediction}
    return told | {"reads_as": reading(prediction), "rule": rule}


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


def show_copies(page: Any, trace: Mapping[str, Any]) -> None:
    """One row of days as a table, one line per copy, and the prediction as the last line."""

    def exact(value: Any) -> str:
        return value if isinstance(value, str) else f"{value + 0.0:.10g}"  # 1e-6, and 0.99 for 0.9900000000000001

    lines = [{"copy": i} | {k: exact(v) for k, v in step.items()} for i, step in enumerate(trace["steps"], 1)]
    said = exact(trace["prediction"])
    lines.append({"copy": "out", "h_before": lines[-1]["h"], "sum": "h·W3 + b2", "h": said})
    heads = {"copy": "copy", "day": "day", "x": "x", "x_w1": "x·W1", "h_before": "h before", "h_w2": "h·W2", "b1": "b1"}
    caption = f"{', '.join(trace['days'])} → {said}, {trace['reads_as']} (rule: {trace['rule'] or 'none'})"
    page.table(lines, heads | {"sum": "sum", "h": "h = relu(sum)"}, caption)

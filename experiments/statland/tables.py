"""The numbers of StatLand as tables, for the terminal and the report alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.harness import Table
from experiments.harness.rows import Row
from experiments.statland.plots import row_name
from experiments.statland.published import RULES
from experiments.statland.training import FATES


def exact(value: float) -> str:
    """Ten digits: enough to see 1e-6, few enough to hide that 0.99 is stored as 0.9900000000000001."""
    return f"{value + 0.0:.10g}"


def unrolled(trace: Mapping[str, Any], expected: str | None) -> Table:
    """One row of days, one line a copy, and the prediction as the last line."""
    columns = ("copy", "day", "x", "x·W1", "h before", "h·W2", "b1", "sum", "h = relu(sum)")
    names = ("x", "x_w1", "h_before", "h_w2", "b1", "sum", "h")
    lines = [
        [str(number), step["day"], *(exact(step[name]) for name in names)]
        for number, step in enumerate(trace["steps"], 1)
    ]
    last = trace["steps"][-1]["h"]
    lines.append(["out", "", "", "", exact(last), "", "", "h·W3 + b2", exact(trace["prediction"])])
    rule = f"rule: {expected}" if expected else "no rule"
    return Table(
        columns, lines, f"{', '.join(trace['days'])} → {exact(trace['prediction'])}, {trace['reads_as']} ({rule})"
    )


def lstm(company: str, days: Sequence[Mapping[str, float]]) -> Table:
    """One company: quantities down, in the order in which a step computes them, days across."""
    labels = {
        "x": "price x",
        "h_before": "h before",
        "c_before": "c before",
        "forget": "forget σ(f): share of c kept",
        "input": "input σ(i): share added",
        "candidate": "candidate tanh(g)",
        "c": "c, long-term memory",
        "output": "output σ(o): share shown",
        "h": "h, short-term memory",
    }
    lines = [[label, *(f"{day[name]:.6f}" for day in days)] for name, label in labels.items()]
    caption = f"LSTM, company {company}: day {len(days) + 1} is predicted {days[-1]['h']:.6f}"
    return Table(("quantity", *(f"day {number}" for number in range(1, len(days) + 1))), lines, caption)


def first_updates(updates: Sequence[Mapping[str, Any]], caption: str) -> Table:
    """Forward, loss, backward, update: quantities down, updates across, so that it fits a narrow page."""
    names = list(updates[0]["weights"])
    lines: list[list[str]] = []

    def line(part: str, label: str, values: Sequence[float]) -> None:
        lines.append([part, label, *(exact_short(value) for value in values)])

    for name in names:
        line("weights", name, [u["weights"][name] for u in updates])
    for index, (days, tomorrow) in enumerate(RULES):
        line("forward", f"{', '.join(days)} → {tomorrow}", [u["predictions"][index] for u in updates])
    line("loss", "Σ residual²", [u["loss"] for u in updates])
    for name in names:
        line("backward", f"dL/d{name}", [u["gradient"][name] for u in updates])
    line("clip", "gradient norm", [u["gradient_norm"] for u in updates])
    line("clip", "factor", [u["clip_factor"] for u in updates])
    for name in names:
        line("update", f"{name} after", [u["weights_after"][name] for u in updates])
    return Table(("part", "quantity", *(f"update {k}" for k in range(1, len(updates) + 1))), lines, caption)


def exact_short(value: float) -> str:
    """Five digits, so that four updates fit a terminal of 80 columns; `summary.json` has them all."""
    return f"{value + 0.0:.5g}"


def outcomes(rows: Sequence[Row], tolerance: float) -> Table:
    """Shares of seeds: how they ended down, training rows across."""
    labels = {f"share_{fate}": fate for fate in FATES} | {
        "share_dead_at_start": "dead before the first update",
        "share_reads_right": "all rules right after rounding",
        "share_learned_and_three_days_high": "learned, and three days high",
    }
    lines = [[label, *(f"{100 * row.values[name]:.1f}%" for row in rows)] for name, label in labels.items()]
    for name, label in {"loss_final_median": "median final loss", "gradient_norm_max": "largest gradient norm"}.items():
        values = [row.values[name] for row in rows]
        lines.append([label, *("not finite" if value is None else exact_short(value) for value in values)])
    seeds = rows[0].options["seeds"]
    names = [row_name(row.options).replace(", no clipping", "") for row in rows]
    return Table(("seeds", *names), lines, f"Share of {seeds} seeds; learned: all four rules within {tolerance:g}")

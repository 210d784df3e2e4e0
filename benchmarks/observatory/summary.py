"""The tables of the observatory, from its results."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.harness import reading

REFERENCE = "one program"
TASKS = ("spectrum", "leading")


def tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """A table a point: milliseconds a network, and how many times one program, for both tasks."""
    columns = ["contestant", "networks run"]
    columns += [f"{task} {what}" for task in TASKS for what in ("[ms a network]", "× one program")]
    columns += ["compile [s]", "not measured"]
    for point in result["points"]:
        rows = reading.by_name(point)
        lines = []
        for name, row in rows.items():
            times = [(per_network(row, task), against(rows, name, task)) for task in TASKS]
            compile_s = reading.number(row, "spectrum", "compile_total_s")
            said = row.get("fault") or row.get("left_out")
            lines.append([name, row["networks"], *(number for pair in times for number in pair), compile_s, said])
        yield (
            f"{point['k']} exponents of {point['networks']} networks, H = {point['H']}, {point['T']} steps, "
            f"interval {point['interval']}",
            columns,
            lines,
        )


def per_network(row: Mapping[str, Any], task: str) -> float | None:
    """Median milliseconds a network."""
    return reading.divided(reading.number(row, task), row["networks"])


def against(rows: Mapping[str, Any], name: str, task: str) -> float | None:
    """How many times the time of one program."""
    return reading.divided(per_network(rows[name], task), per_network(rows[REFERENCE], task))

"""The tables of memory against length, from its results."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.harness import reading

LOSSES = {"last": "loss of the last output", "every": "loss of every output"}


def tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """For each loss, memory and time by length, then both against a plain scan; then who did not take part."""
    for loss, name in LOSSES.items():
        points = [point for point in result["points"] if point["loss"] == loss]
        if points:
            for title, columns, rows in _tables(points):
                yield f"{title}, {name}", columns, rows
    out = [[who, len(where)] for who, where in reading.reasons(result["points"]).items()]
    if out:
        yield "Did not take part", ["who and why", "points"], out


def _tables(points: list[Mapping[str, Any]]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    names = reading.names(points)
    lengths = [f"T = {point['T']}" for point in points]

    def rows(value: Any) -> list[list[Any]]:
        lines = [[name, *(value(point, reading.by_name(point).get(name, {})) for point in points)] for name in names]
        return [line for line in lines if any(value is not None for value in line[1:])]

    def against_scan(key: str, inverse: bool) -> Any:
        def value(point: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
            own = reading.number(row, "train", key)
            scan = reading.number(reading.by_name(point)["scan"], "train", key)
            return reading.divided(scan, own) if inverse else reading.divided(own, scan)

        return value

    yield "Temporary memory of a training step [MiB]", ["contestant", *lengths], rows(mebibytes)
    yield (
        "Median time of a training step [ms]",
        ["contestant", *lengths],
        [
            *rows(lambda point, row: reading.number(row, "train")),
            ["floor", *(point["floor"]["train_ms"] if point.get("floor") else None for point in points)],
        ],
    )
    title = "Times less memory than a plain scan"
    yield title, ["contestant", *lengths], rows(against_scan("temp_bytes", inverse=True))
    title = "Times as long as a plain scan"
    yield title, ["contestant", *lengths], rows(against_scan("median_ms", inverse=False))


def mebibytes(point: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
    """Temporary memory of a contestant's training step."""
    size = reading.number(row, "train", "temp_bytes")
    return None if size is None else size / 2**20

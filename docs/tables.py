"""Writes the README's tables from the committed results: `python docs/tables.py` (tests check that it was run).

Each stands between `<!-- table: NAME -->` and `<!-- end -->`, and comes from `docs/NAME/summary.json`, or, of a
benchmark, from `benchmarks/results`.
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"


def gradient_decay(summary: dict[str, Any]) -> list[list[str]]:
    """Measured rates by cell and scale within the longest sequence, W2 Gaussian, theory in brackets."""
    rows = [row for row in summary["lag_rows"] if row["kind"] == "gain"]
    scales = [scale for scale in (0.5, 0.9, 1.0, 1.2, 1.5, 2.0) if any(row["scale"] == scale for row in rows)]
    table = [["cell", *(f"scale {scale:g}" for scale in scales)]]
    for cell in dict.fromkeys(row["cell"] for row in rows):
        found = {row["scale"]: row for row in rows if row["cell"] == cell}
        table.append([cell, *(_rate(found[scale]) for scale in scales)])
    return table


def _rate(row: dict[str, Any]) -> str:
    measured, theory = row["rate_nats_per_step"], row["predicted_rate_nats_per_step"]
    return f"{_signed(measured)} ± {row['rate_nats_per_step_std']:.2f}" + (f" ({_signed(theory)})" if theory else "")


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−").replace("+0.00", "0.00")


def statland(summary: dict[str, Any]) -> list[list[str]]:
    """Shares of seeds by how their training ended."""
    table = [["trained with", "learned", "stuck", "dead", "diverged"]]
    for row in summary["rows"]:
        clip = "no clipping" if row["clip_norm"] is None else f"clipped to norm {row['clip_norm']:g}"
        name = f"{row['optimizer']} {row['learning_rate']:g}, {clip}"
        table.append([name, *(f"{row[f'share_{fate}']:.0%}" for fate in ("learned", "stuck", "dead", "diverged"))])
    return table


def peers() -> list[list[str]]:
    """Geometric means over the reference grid, and the worst point in brackets, of every recorded run."""
    table = [["", "fastest JAX peer / rnnjax", "PyTorch / rnnjax", "rnnjax / matmul floor"]]
    for path in sorted(RESULTS.glob("peers*.json")):
        result = json.loads(path.read_text())
        for row in result["summary"]:
            if row["group"] in ("dense, all cells", "padded, all cells"):
                kind, task = row["group"].split(",")[0], {"forward": "forward", "train": "training step"}[row["task"]]
                values = [_mean(row[key]) for key in ("best_vs_peer", "best_vs_torch", "best_over_floor")]
                table.append([f"jax {result['machine']['versions']['jax']}, {kind}, {task}", *values])
    return table


def scan_vs_loop() -> list[list[str]]:
    """At the longest sequence that everybody ran: how many times scan's, by size."""
    table = [["batch, features, units", "T", "eager loop, run", "eager loop, training step", "jitted loop, compile"]]
    result = json.loads((RESULTS / "scan_vs_loop.json").read_text())
    found = {}
    for point in result["points"]:
        tasks = {row["name"]: row["tasks"] for row in point.get("contestants", ())}
        if {"forward", "train"} <= set(tasks.get("eager loop", ())) and "forward" in tasks.get("jitted loop", ()):
            scan, eager, jitted = tasks["scan"], tasks["eager loop"], tasks["jitted loop"]["forward"]
            ratios = [eager[task]["median_ms"] / scan[task]["median_ms"] for task in ("forward", "train")]
            compiled = [row["trace_s"] + row["compile_s"] for row in (jitted, scan["forward"])]
            cells = [f"{ratio:,.0f} × scan" for ratio in (*ratios, compiled[0] / compiled[1])]
            found[point["size"]] = [point["size"], str(point["T"]), *cells]
    return table + list(found.values())


def _mean(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['geomean']:.2f} ({ratio['worst']:.2f})"


RESULTS = DOCS.parent / "benchmarks" / "results"
OF_EXPERIMENTS = {"gradient_decay": gradient_decay, "statland": statland}
OF_BENCHMARKS = {"peers": peers, "scan_vs_loop": scan_vs_loop}


def table_of(name: str) -> list[list[str]]:
    if name in OF_BENCHMARKS:
        return OF_BENCHMARKS[name]()
    return OF_EXPERIMENTS[name](json.loads((DOCS / name / "summary.json").read_text()))


def fill(readme: str) -> str:
    """The README with every table made anew."""

    def table(match: re.Match[str]) -> str:
        name = match[1]
        header, *rows = table_of(name)
        lines = [header, ["---"] * len(header), *rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"<!-- table: {name} -->\n{text}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, readme, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(fill(README.read_text()))

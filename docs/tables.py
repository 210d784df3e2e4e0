"""Writes the tables of the manual and of `benchmarks/results` from committed results: `python docs/tables.py`.

Each stands between `<!-- table: NAME -->` and `<!-- end -->`, and comes from `docs/NAME/summary.json`, or, of a
benchmark, from `benchmarks/results`. Tests check that it was run.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent


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


def learning() -> list[list[str]]:
    """The training experiments: median over seeds on the test part, lowest and highest seed in brackets."""
    table = [["", "trivial", *(f"{cell}, {how}" for cell in ("Elman", "LSTM", "GRU") for how in ("clipped", "not"))]]
    for name in ("adding", "copy_memory", "digits", "vowels"):
        path = DOCS / name / "summary.json"
        if path.exists():
            summary = json.loads(path.read_text())
            measure = summary["measure"]
            found = {(line["cell"], line["clipped_at_norm"] is not None): line for line in summary["lines"]}
            lines = [found.get((cell, clipped)) for cell in ("elman", "lstm", "gru") for clipped in (True, False)]
            cells = [_spread(line, f"test_{measure}") if line else "" for line in lines]
            table.append([f"{name}, {measure.replace('_', ' ')}", f"{summary['baseline']:.3g}", *cells])
    return table


def _spread(line: dict[str, Any], key: str) -> str:
    return "{:.2g} ({:.2g} to {:.2g})".format(*(line[f"{key}_{which}"] for which in ("median", "lowest", "highest")))


def text(summary: dict[str, Any]) -> list[list[str]]:
    """Bits per character of the held-out play."""
    models = {row["model"]: row["bits_per_character"] for row in summary["compared"]}
    below = {row["other"]: row for row in summary["below"]}
    shown = ("uniform", "1-gram", "3-gram", "5-gram", "7-gram", next(name for name in models if "H =" in name))

    def saved(name: str) -> str:
        line = below.get(name)
        return f"{line['bits_fewer']:.3f} ± {line['standard_error']:.3f} ({line['share_fewer']:.0%})" if line else ""

    return [
        ["", *shown],
        ["bits per character", *(f"{models[name]:.2f}" for name in shown)],
        ["of which the LSTM saves", *(saved(name) for name in shown)],
    ]


def stocks(summary: dict[str, Any]) -> list[list[str]]:
    """Squared error below persistence's, and what a test of the difference says."""
    table = [["forecast", "squared error below persistence's", "verdict"]]
    for line in summary["lines"]["stocks"]:
        gain = f"{100 * line['gain_over_persistence']:+.1f}%".replace("-", "−").replace("+0.0%", "0")
        table.append([line["model"], gain, line["verdict"]])
    return table


def doors() -> list[list[str]]:
    """Flax's modules over the same with our RNN in their place: geometric mean, and the worst point in brackets."""
    table = [["", "linen / linen with ours", "nnx / nnx with ours"]]
    for row in json.loads((RESULTS / "peers.json").read_text())["summary"]:
        if row["group"] in ("dense, all cells", "padded, all cells"):
            task = {"forward": "forward", "train": "training step"}[row["task"]]
            values = [_mean(row[f"rnnjax in {kind}_vs_flax"]) for kind in ("linen", "nnx")]
            table.append([f"{row['group'].split(',')[0]}, {task}", *values])
    return table


def sweep() -> list[list[str]]:
    """Times per setting over those of one program, on one device or two, whichever is faster."""
    table = [["hidden units", "one jitted call per setting", "compiled for every setting", "Python loop", "floor"]]
    for point in json.loads((RESULTS / "sweep.json").read_text())["points"]:
        ms = {
            row["name"]: row["tasks"]["norms"]["median_ms"] / row["settings"]
            for row in point["contestants"]
            if row["tasks"]
        }
        best = min(time for name, time in ms.items() if name.startswith("one program"))
        names = ("a call a setting", "compiled for every setting", "Python loop")
        times = [f"{ms[name] / best:,.0f} ×" for name in names]
        floor = point["floor"]["train_ms"] / point["settings"]
        table.append([str(point["H"]), *times, f"{floor / best:.2g} ×"])
    return table


def observatory() -> list[list[str]]:
    """Speed-up over the plain NumPy loop, per network; the leading exponent is measured at every point of a width."""
    paths = sorted(RESULTS.glob("observatory*.json"))
    points = [point for path in paths for point in json.loads(path.read_text())["points"]]
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for point in points:
        asked = f"{point['k']}, every {point['interval']} steps"
        for task, what in (("spectrum", asked), ("leading", "the leading one")):
            ms = {
                re.sub(r", \d+ at once", ", in groups", row["name"]): row["tasks"][task]["median_ms"] / row["networks"]
                for row in point["contestants"]
            }
            found.setdefault((point["H"], what), []).append({name: ms["NumPy"] / time for name, time in ms.items()})
    table = [["H", "exponents", "one device", "two devices", "two processes", "floor", "NumPy, stacked"]]
    groups = "one program, in groups"
    shown = (groups, f"{groups}, 2 devices", f"{groups}, 2 processes", "the products alone", "NumPy, networks stacked")
    for (size, what), measured in sorted(found.items(), key=lambda item: item[0][0]):
        cells = [" and ".join(f"{ratios[name]:.3g}" for ratios in measured) for name in shown]
        table.append([str(size), what, *cells])
    return table


def tried() -> list[list[str]]:
    """How many times as fast as the engine, or the product, as it is: geometric mean, worst and best point."""
    found: dict[tuple[str, str], list[float]] = {}
    for point in json.loads((RESULTS / "tried.json").read_text())["points"]:
        reference, *others = point["contestants"]
        for row in others:
            for task, times in row["tasks"].items():
                ratio = reference["tasks"][task]["median_ms"] / times["median_ms"]
                found.setdefault((row["name"], task), []).append(ratio)
    table = [["instead", "forward", "training step"]]
    for name in dict.fromkeys(name for name, _ in found):
        values = [found[name, task] for task in ("forward", "train")]
        cells = [f"{math.exp(sum(map(math.log, v)) / len(v)):.2f} ({min(v):.2f} to {max(v):.2f})" for v in values]
        table.append([name, *cells])
    return table


def training() -> list[list[str]]:
    """Updates per second over those of a hand-written loop with Flax and Optax."""
    table = [["task, cell, B, T, H", "rnnjax in the loop", "`fit`", "`fit`, two devices"]]
    names = ("rnnjax in a loop by hand", "rnnjax fit", "rnnjax fit, 2 devices")
    for result in (json.loads(path.read_text()) for path in sorted(RESULTS.glob("training*.json"))):
        for point in result["points"]:
            ms = {row["name"]: row["tasks"]["train"]["median_ms"] for row in point["contestants"] if row["tasks"]}
            where = ", ".join(str(point[key]) for key in ("task", "cell", "B", "T", "H"))
            cells = [f"{ms['Flax + Optax loop'] / ms[name]:.2f} ×" if name in ms else "" for name in names]
            table.append([where + _accelerator(result), *cells])
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
                where = f"jax {result['machine']['versions']['jax']}{_accelerator(result)}"
                table.append([f"{where}, {kind}, {task}", *values])
    return table


def targets() -> list[list[str]]:
    """The targets of `benchmarks.peers` over its grid of whole sequences, and what each run on a CPU reached."""
    reached: dict[str, list[str]] = {"target": []}
    for path in sorted(RESULTS.glob("peers*.json")):
        result = json.loads(path.read_text())
        if result["machine"]["platform"] != "cpu":
            continue
        means = {row["task"]: row["best_vs_peer"] for row in result["summary"] if row["group"] == "dense, all cells"}
        grid = [p for p in result["points"] if not p["padded"] and p["cell"] in result["options"]["cells"]]
        sizes = [dict(zip("BTDH", map(int, point["point"].split(",")), strict=True)) for point in grid]
        train = [point["ratios"]["train"] for point in grid]
        large = [row for row, size in zip(train, sizes, strict=True) if size["B"] >= 16 and size["H"] >= 128]
        shares = [1 / (row["best_over_floor"] * row["best_vs_peer"]) for row in large]
        forward = {_where(point): point["ratios"]["forward"]["best_vs_peer"] for point in grid}
        torch = {_where(point): point["ratios"]["train"]["best_vs_torch"] for point in grid if point["cell"] == "lstm"}
        column = {
            "target": f"jax {result['machine']['versions']['jax']}",
            "training 2 times as fast as the fastest JAX peer on average (worst: 1.1)": _mean(means["train"]),
            "of large points (B ≥ 16, H ≥ 128), the floor takes over half of that peer's time": (
                f"{sum(share > 0.5 for share in shares)} of {len(shares)} ({min(shares):.2f} to {max(shares):.2f})"
            ),
            "forward 1.3 times as fast on average (worst: 0.95)": _mean(means["forward"]),
            "forward under 0.95": _below(forward, 0.95),
            "an LSTM's training slower than PyTorch's": _below(torch, 1.0),
            "of large points, training at most 1.4 times the floor": (
                f"{sum(row['best_over_floor'] <= 1.4 for row in large)} of {len(large)}"
            ),
        }
        for target, said in column.items():
            reached.setdefault(target, []).append(said)
    return [[target, *columns] for target, columns in reached.items()]


def _where(point: dict[str, Any]) -> str:
    return f"{point['cell']} {point['point']}"


def _below(found: dict[str, float | None], least: float) -> str:
    """How many ratios are below a target, and at which points."""
    if None in found.values():
        return "not measured"
    below = {point: ratio for point, ratio in found.items() if ratio is not None and ratio < least}
    listed = "; ".join(f"{point}: {below[point]:.2f}" for point in sorted(below, key=lambda point: below[point]))
    return f"{len(below)} of {len(found)}" + (f" ({listed})" if below else "")


def scan_vs_loop() -> list[list[str]]:
    """At the longest sequence that everybody ran: how many times scan's, by size."""
    table = [["batch, features, units", "T", "eager loop, run", "eager loop, training step", "jitted loop, compile"]]
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("scan_vs_loop*.json"))]
    found = {}
    for point in (point for result in results for point in result["points"]):
        tasks = {row["name"]: row["tasks"] for row in point.get("contestants", ())}
        if {"forward", "train"} <= set(tasks.get("eager loop", ())) and "forward" in tasks.get("jitted loop", ()):
            scan, eager, jitted = tasks["scan"], tasks["eager loop"], tasks["jitted loop"]["forward"]
            ratios = [eager[task]["median_ms"] / scan[task]["median_ms"] for task in ("forward", "train")]
            compiled = [row["trace_s"] + row["compile_s"] for row in (jitted, scan["forward"])]
            cells = [f"{ratio:,.0f} × scan" for ratio in (*ratios, compiled[0] / compiled[1])]
            found[point["size"]] = [point["size"], str(point["T"]), *cells]
    return table + list(found.values())


def _accelerator(result: dict[str, Any]) -> str:
    """Of the machine, if it was not a CPU."""
    machine = result["machine"]
    return "" if machine["platform"] == "cpu" else f" on one {machine['device_kind']}"


def _mean(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['geomean']:.2f} ({ratio['worst']:.2f})"


RESULTS = DOCS.parent / "benchmarks" / "results"
PAGES = (DOCS / "results.md", DOCS / "benchmarks.md", RESULTS / "README.md")
OF_EXPERIMENTS = {"gradient_decay": gradient_decay, "statland": statland, "stocks": stocks, "text": text}
OF_SEVERAL = {"learning": learning, "peers": peers, "scan_vs_loop": scan_vs_loop, "doors": doors, "sweep": sweep}
OF_SEVERAL |= {"targets": targets, "tried": tried, "training": training, "observatory": observatory}


def table_of(name: str) -> list[list[str]]:
    if name in OF_SEVERAL:
        return OF_SEVERAL[name]()
    return OF_EXPERIMENTS[name](json.loads((DOCS / name / "summary.json").read_text()))


def fill(page: str) -> str:
    """A page with every table made anew."""

    def table(match: re.Match[str]) -> str:
        name = match[1]
        header, *rows = table_of(name)
        lines = [header, ["---"] * len(header), *rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"<!-- table: {name} -->\n{text}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text()))

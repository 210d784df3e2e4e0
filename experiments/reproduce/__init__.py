"""Published numbers beside ours, in one table.

Question: which published numbers on recurrent gradients, spectra and memory come out here, and how closely?
Command: python -m experiments.reproduce
Minutes: 6 on one core; 4 with --quick (smaller networks, fewer seeds, and wider tolerances where size matters).
Expected: every row marked exact is reproduced, else the exit status is 1. The other rows are measured by sampling, with
a tolerance beside them; one that misses it is reported and fails nothing.

Rows marked exact are closed forms and identities that need no luck. The published numbers, their tolerances and sources
are in `rows.toml`, the measurements in `measures.py`. A row that raises is reported, and tried again by the next run.
"""

import math
import tomllib
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from .. import lab
from ..lab import style
from . import measures

THEMES: dict[str, list[dict[str, Any]]] = tomllib.loads(Path(__file__).with_name("rows.toml").read_text("utf-8"))
NOT_ATTEMPTED = THEMES.pop("not attempted")


def published() -> list[dict[str, Any]]:
    return [row for rows in THEMES.values() for row in rows]


@lab.options
class Options(lab.Options):
    """Published numbers beside ours."""

    only: tuple[str, ...] = ()
    """Names of rows, or beginnings of names; all if left out."""

    def check(self) -> None:
        names = [row["name"] for row in published()]
        for start in self.only:
            if not any(name.startswith(start) for name in names):
                raise lab.UsageError(f"--only {start}: no row begins so; choose from {', '.join(names)}.")


def arguments(row: dict[str, Any], quick: bool) -> dict[str, Any]:
    """What a row's measurement is called with."""
    return row.get("arguments", {}) | (row.get("quick_arguments", {}) if quick else {})


def verdict(row: dict[str, Any], quick: bool, found: dict[str, Any]) -> dict[str, Any]:
    """A line of the table: our number beside the published one. `found` is what was measured, or an "error"."""
    ours, seeds, spread = found.get(row.get("key", "value")), found.get("seeds", 1), found.get("spread")
    if ours is not None and np.ndim(ours):
        samples = np.array(ours, float)
        ours, seeds = float(samples.mean()), len(samples)
        spread = float(samples.std(ddof=1)) if seeds > 1 else None
    tolerance = row.get("quick_tolerance", row["tolerance"]) if quick else row["tolerance"]
    word = "error"
    if ours is not None and not math.isnan(ours):
        word = "reproduced" if abs(ours - row["published"]) <= tolerance else "missed"
    line = {"row": row["name"], "what": row["what"], "published": row["published"], "ours": ours}
    line |= {"unit": row.get("unit", "1"), "tolerance": tolerance, "verdict": word, "exact": row.get("exact", False)}
    line |= {"seeds": None if ours is None else seeds, "spread": spread, "seconds": found.get("seconds")}
    return line | {"source": row["source"], "error": found.get("error")}


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    """A line per published number, whose identity is that of its own measuring function."""
    lines = []
    for row in published():
        name = row["name"]
        if (options.quick and row.get("full_only")) or (options.only and not name.startswith(options.only)):
            continue
        try:
            (kept,) = run.rows(getattr(measures, row["measure"]), [arguments(row, options.quick)], name)
            found = kept | {"seconds": kept.seconds}
        except Exception as error:
            run.say(traceback.format_exc())
            found = {"error": f"{type(error).__name__}: {error}"}
        lines.append(lab.Row({"row": name}, verdict(row, options.quick, found), {}))
    return lines


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    lines = [row.plain for row in rows]
    off = [line for line in lines if line["verdict"] != "reproduced"]
    failed = [line["row"] for line in off if line["exact"]]
    missed = [line["row"] for line in off if not line["exact"]]
    right = f"{len(lines) - len(off)} of {len(lines)} numbers are reproduced"
    sentences = [right + ("." if failed else ", all exact ones among them.")]
    sentences += [f"FAILED, though exact: {', '.join(failed)}."] if failed else []
    sentences += [f"Outside their tolerance: {', '.join(missed)}."] if missed else []
    page.text("Results", sentences)
    names = ("what", "published", "ours", "unit", "tolerance", "verdict", "exact", "seeds", "seconds", "source")
    digits = {"published": ".8g", "ours": ".8g", "tolerance": ".2g", "seconds": ".1f"}
    for theme, own in THEMES.items():
        cells = [
            line | {name: None if line[name] is None else f"{line[name]:{how}}" for name, how in digits.items()}
            for line in lines
            if line["row"] in {row["name"] for row in own}
        ]
        if cells:
            page.table(cells, names, theme)
    headings = {"what": "published", "source": "source", "why": "why it has no row"}
    page.table(NOT_ATTEMPTED, headings, "Published, and not attempted here", terminal=False)
    page.say(" ".join(sentences))
    page.summary |= {"rows": lines, "failed_exact": failed, "missed": missed}
    page.status = 1 if failed else 0

    # Rows that are measured by sampling; all, if there are no others.
    known = [line for line in lines if line["ours"] is not None and line["tolerance"] > 0]
    shown = ([line for line in known if not line["exact"]] or known)[::-1]
    fig, ax = style.figure(7.5, 0.28 * len(shown) + 1.6)
    ax.axvspan(-1, 1, color="#e6e6e6", zorder=0)
    ax.axvline(0, color="black", linewidth=0.8)
    for y, line in enumerate(shown):
        off = np.clip((line["ours"] - line["published"]) / line["tolerance"], -2.9, 2.9)
        inside = line["verdict"] == "reproduced"
        look: Any = {"color": style.BLUE, "marker": "o"} if inside else {"color": style.VERMILLION, "marker": "X"}
        ax.plot(off, y, markersize=6 if inside else 9, **look)
    ax.set_yticks(range(len(shown)), [line["row"] for line in shown], fontsize=8)
    ax.set(xlim=(-3, 3), xlabel="(ours − published) / tolerance", title="Deviation from the published number")
    alt = "Deviation of each measured number from the published one, in units of its tolerance."
    caption = "Rows measured by sampling: reproduced within the band, missed outside it (at its edge: further off)."
    page.figure("deviations", fig, alt=alt, caption=caption)


experiment = lab.Experiment(Options, measure, draw, x64=True)

"""Finding the latest finished run of each experiment, and making a section of it."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments import harness
from experiments.harness import folder

_ROWS_SHOWN = 60  # of a table; the whole is in summary.json


@dataclasses.dataclass(frozen=True)
class Found:
    """A finished run on the disk."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def quick(self) -> bool:
        return bool(self.config["options"].get("quick"))


def latest(folders: Iterable[Path], names: Iterable[str]) -> dict[str, Found]:
    """For each experiment the run that finished last, in the order of `names`; full runs before quick ones.

    A folder that was not written by an experiment, is not finished, or is damaged, is passed over.
    """
    runs = [run for place in folders for path in sorted(place.glob("*")) if (run := read(path)) is not None]
    found = {}
    for name in names:
        own = [run for run in runs if run.name == name]
        if own:
            found[name] = max(own, key=lambda run: (not run.quick, run.config["finished_utc"]))
    return found


def read(path: Path) -> Found | None:
    """The finished run in this folder, or None."""
    try:
        config = json.loads((path / folder.CONFIG).read_text())
        summary = json.loads((path / folder.SUMMARY).read_text())
        if config["finished_utc"] is None or config["experiment"] != summary["experiment"]:
            return None
        run = Found(config["experiment"], path, config, summary)
        _ = run.quick, [(each["png"], each["alt"]) for each in summary["figures"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return run


def section(run: Found, described: Mapping[str, str]) -> list[harness.Block]:
    """Heading, question and where it comes from; figures; residuals against theory; the table of `reproduce`."""
    versions = run.config["versions"]
    commit = str(run.config.get("git_commit") or "unknown")[:12] + (
        " with changes" if run.config.get("git_dirty") else ""
    )
    words = [
        f"Question: {described['Question']}",
        f"{'A quick run' if run.quick else 'Run'} of {run.config['finished_utc'][:10]}, commit {commit}, Python "
        f"{versions['python']}, JAX {versions['jax']} on {run.config['device']['platform']}: {run.config['command']}",
    ]
    if "Expected" in described:
        words.insert(1, f"Expected: {described['Expected']}")
    blocks: list[harness.Block] = [harness.Text(described["Title"], words, anchor=run.name)]
    for figure in run.summary["figures"]:
        path = run.folder / Path(figure["png"]).name
        if path.is_file():
            blocks.append(harness.Figure(path.stem, path.read_bytes(), b"", figure["alt"], figure.get("caption", "")))
    if run.name == "reproduce":
        columns = ("what", "published", "ours", "unit", "tolerance", "verdict", "exact", "seeds", "seconds", "source")
        blocks.append(harness.Table.of(run.summary["rows"], columns, "Published numbers beside ours"))
    elif isinstance(run.summary.get("residuals"), list) and run.summary["residuals"]:
        rows = run.summary["residuals"]
        more = f" (the first {_ROWS_SHOWN} of {len(rows)})" if len(rows) > _ROWS_SHOWN else ""
        blocks.append(harness.residual_table(rows[:_ROWS_SHOWN], f"Measured against theory{more}"))
    return blocks

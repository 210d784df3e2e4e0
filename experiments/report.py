"""All results on one page: a figure and its theory, residuals, and published numbers beside ours.

Question: what has been found so far, on one page that can be read on a phone, mailed and printed?
Command: python -m experiments.report
Minutes: 0.1; it computes nothing, and shows for each experiment the run that finished last.
Expected: results/report.html, some megabytes, which opens without a network and names what has not been run yet.

Runs are looked for in `results/` and `docs/` (`--folders`); a run with --quick counts only where there is no other. The
page has everything inside it, and no script.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import lab
from .all import read
from .lab import strict_json
from .lab.options import listed, parse
from .lab.page import Page
from .lab.run import CONFIG, SUMMARY

FIRST = ("reproduce", "gradient_decay")  # then the others by name
ROWS_SHOWN = 60  # of a table; summary.json has them all


@lab.options
class Options:
    """All results on one page."""

    folders: lab.Distinct[Path] = (Path("results"), Path("docs"))
    """Where folders of runs lie."""
    out: Path = Path("results/report.html")
    """The page to write."""
    quick: bool = False
    """Makes no difference; every experiment has it."""

    def check(self) -> None:
        if self.out.is_dir():
            raise lab.UsageError(f"--out {self.out} is a folder; name a file.")


def latest(folders: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """The folder of each experiment's run that finished last, full runs before quick ones, in the order of `names`.

    A folder that was not written by an experiment, is not finished, or is damaged, is passed over.
    """
    found: dict[str, tuple[bool, str, Path]] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*")):
        config, summary = read(path / CONFIG), read(path / SUMMARY)
        name, finished = str(config.get("experiment")), config.get("finished_utc")
        if name in names and finished and summary.get("experiment") == name:
            run = not config["options"].get("quick"), finished, path
            found[name] = max(found.get(name, run), run)
    return {name: found[name][2] for name in names if name in found}


def section(page: Page, folder: Path, described: dict[str, str]) -> dict[str, Any]:
    """Heading, question and origin of a run; its figures and tables. Returns its config."""
    config, summary = read(folder / CONFIG), read(folder / SUMMARY)
    commit = str(config.get("git_commit") or "unknown")[:12] + " with changes" * bool(config.get("git_dirty"))
    quick = "A quick run" if config["options"].get("quick") else "Run"
    versions = f"Python {config['versions']['python']}, JAX {config['versions']['jax']}"
    origin = f"{quick} of {config['finished_utc'][:10]}, commit {commit}, {versions}: {config['command']}"
    words = [f"{name}: {described[name]}" for name in ("Question", "Expected") if name in described]
    page.text(described["Title"], [*words, origin], anchor=config["experiment"])
    for figure in summary["figures"]:
        if (folder / figure["png"]).is_file():
            page.image((folder / figure["png"]).read_bytes(), figure["alt"], figure.get("caption", ""))
    if config["experiment"] == "reproduce":
        columns = ("what", "published", "ours", "unit", "tolerance", "verdict", "exact", "seeds", "seconds", "source")
        page.table(summary["rows"], columns, "Published numbers beside ours")
    elif isinstance(residuals := summary.get("residuals"), list) and residuals:
        more = f" (the first {ROWS_SHOWN} of {len(residuals)})" if len(residuals) > ROWS_SHOWN else ""
        page.residuals(residuals[:ROWS_SHOWN], f"Measured against theory{more}")
    return config


def build(folders: Sequence[Path]) -> tuple[str, list[str]]:
    """The page, and the experiments that have no finished run there.

    Raises:
      UsageError: none of them has one.
    """
    described = listed(Path(__file__).parent)
    del described["report"]
    names = sorted(described, key=lambda name: (name not in FIRST, FIRST.index(name) if name in FIRST else 0, name))
    found = latest(folders, names)
    if not found:
        raise lab.UsageError(
            f"no finished run in {', '.join(map(str, folders))}; run one first (python -m experiments.statland), "
            "or name its folder with --folders."
        )
    missing = [name for name in names if name not in found]
    page = Page()
    page.contents({name: described[name]["Title"] for name in found})
    configs = {name: section(page, folder, described[name]) for name, folder in found.items()}
    facts = {"Runs": ", ".join(found)} | ({"Not run yet": ", ".join(missing)} if missing else {})
    return page.html("rnnjax: results", facts, configs), missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; returns the exit status: 2 for what the user can fix."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        options = parse(Options, given, "experiments.report", __doc__ or "")
        text, missing = build(options.folders)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        strict_json.write_bytes(options.out, text.encode())
    except (lab.UsageError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    told = f"; not run yet: {', '.join(missing)}" if missing else ""
    print(f"open {options.out} ({len(text) / 1e6:.1f} MB){told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

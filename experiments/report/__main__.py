"""Runs `experiments.report`; see its docstring."""

import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import harness, report
from experiments.harness import about, strict_json
from experiments.harness.report import build
from experiments.report.gather import latest, section

_FIRST = ("reproduce", "gradient_decay")  # then the others by name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """All results on one page."""

    folders: tuple[Path, ...] = (Path("results"), Path("docs"))
    """Where folders of runs lie."""
    out: Path = Path("results/report.html")
    """The page to write."""


def page(folders: Sequence[Path]) -> tuple[str, list[str]]:
    """The page, and the experiments that have no finished run there.

    Raises:
      harness.UsageError: none of them has one.
    """
    described = about.listed(Path(report.__file__).parents[1])
    described.pop("report", None)
    names = [name for name in _FIRST if name in described] + [name for name in described if name not in _FIRST]
    found = latest(folders, names)
    if not found:
        raise harness.UsageError(
            f"no finished run in {', '.join(map(str, folders))}; run one first (python -m experiments.statland), "
            "or name its folder with --folders."
        )
    missing = [name for name in names if name not in found]
    blocks: list[harness.Block] = [harness.Contents({name: described[name]["Title"] for name in found})]
    for name, run in found.items():
        blocks += section(run, described[name])
    facts = {"Runs": ", ".join(found)} | ({"Not run yet": ", ".join(missing)} if missing else {})
    return build("rnnjax: results", facts, blocks, {name: run.config for name, run in found.items()}), missing


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page; returns the exit status: 2 for what the user can fix."""
    if importlib.util.find_spec("tyro") is None:
        print("error: tyro not installed; pip install 'rnnjax[experiments]'", file=sys.stderr)
        return 2
    import tyro

    options = tyro.cli(Options, args=argv, prog="python -m experiments.report", description=report.__doc__)
    try:
        if options.out.is_dir():
            raise harness.UsageError(f"--out {options.out} is a folder; name a file.")
        text, missing = page(options.folders)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        strict_json.write_bytes(options.out, text.encode())
    except harness.UsageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --out {options.out} cannot be written ({error.strerror}).", file=sys.stderr)
        return 2
    print(
        f"open {options.out} ({len(text) / 1e6:.1f} MB)" + (f"; not run yet: {', '.join(missing)}" if missing else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

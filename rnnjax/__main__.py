"""Runs an experiment or a benchmark: `rnnjax NAME`, `rnnjax benchmarks NAME`, or with `python -m rnnjax` for `rnnjax`.

    rnnjax                            lists the experiments and the benchmarks
    rnnjax gradient-decay --quick     `python -m experiments.gradient_decay --quick` in a clone
    rnnjax benchmarks scan-vs-loop    `python -m benchmarks.scan_vs_loop` in a clone

A wheel has both as `rnnjax_lab.experiments` and `rnnjax_lab.benchmarks`; a clone has them beside this package.
"""

import importlib.metadata
import os
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

EXTRA = "experiments"


def package_of(kind: str, folder: Path) -> str:
    """The package of the experiments, or of the benchmarks, beside `rnnjax` in this folder; empty if there is none."""
    for package in (f"rnnjax_lab.{kind}", kind):
        if folder.joinpath(*package.split("."), "__main__.py").is_file():
            return package
    return ""


def lacking(extra: str) -> list[str]:
    """The distributions of an extra of rnnjax that are not installed."""
    found = []
    try:
        required = importlib.metadata.requires("rnnjax") or []
    except importlib.metadata.PackageNotFoundError:  # a folder on the path: nobody knows what it requires
        return []
    for line in required:
        if name := re.match(rf"([\w.-]+).*;.*extra == ['\"]{extra}['\"]", line):
            try:
                importlib.metadata.version(name[1])
            except importlib.metadata.PackageNotFoundError:
                found.append(name[1])
    return found


def run(module: str, arguments: Sequence[str]) -> None:
    """`python -m module`, in this process."""
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for what the user can fix."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(__file__).resolve().parents[1]
    packages = {kind: package_of(kind, folder) for kind in ("experiments", "benchmarks")}
    if given and given[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    if not all(packages.values()):
        print(f"error: {folder} has no experiments and benchmarks; install the wheel, or a clone.", file=sys.stderr)
        return 2
    if missing := lacking(EXTRA):
        print(
            f"error: the experiments need {', '.join(missing)}; install the extra: pip install 'rnnjax[{EXTRA}]'",
            file=sys.stderr,
        )
        return 2
    sys.path[:0] = [str(folder), os.getcwd()]  # the second is for cells of the user's own, as with `python -m`
    kind = given.pop(0) if given and given[0] in packages else ""
    name = given.pop(0).replace("-", "_") if given and not given[0].startswith("-") else ""
    if not name:
        for each in [kind] if kind else packages:
            run(packages[each], given)
        return 0
    package = packages[kind or "experiments"]
    where = folder.joinpath(*package.split("."), name)
    if not (name.isidentifier() and (where.with_suffix(".py").is_file() or (where / "__main__.py").is_file())):
        print(f"error: there is no {(kind or 'experiments')[:-1]} {name}; `rnnjax` lists them.", file=sys.stderr)
        return 2
    run(f"{package}.{name}", given)
    return 0


if __name__ == "__main__":
    sys.exit(main())

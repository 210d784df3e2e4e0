"""Makes every committed result anew, where it is older than the code that it comes from.

    python -m experiments.all --dry-run     says what is stale, and why
    python -m experiments.all               makes it anew, experiments first; can be stopped and resumed
    python -m experiments.all --quick       every experiment with --quick, in results/NAME-quick

An experiment's result is `docs/NAME`. It is stale if the code that measures or draws it has changed
(`experiments.lab.identity`); then its command is run again in `results/NAME`, where finished rows of the same code are
kept, and copied to `docs`. So a change of a figure takes seconds. A benchmark's results are the files of
`benchmarks/results`. Those of a GPU, or of another version of JAX than the one at hand, are named and left as they are,
with their date and commit. At the end the manual's tables are made anew (`docs/tables.py`).
"""

import concurrent.futures
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import lab
from .lab import identity, strict_json
from .lab.machine import ROOT
from .lab.options import listed, parse
from .lab.run import CONFIG, PACKAGE, SUMMARY

BENCHMARKS = ROOT / "benchmarks" / "results"
RESULTS = Path("results")


@lab.options
class Options:
    """Makes every committed result anew, where it is stale."""

    quick: bool = False
    """Every experiment with --quick, in results/NAME-quick; nothing committed is touched."""
    dry_run: bool = False
    """Only say what is stale."""
    only: tuple[str, ...] = ()
    """Names of experiments or benchmarks; all if left out."""
    benchmarks: bool = True
    """Benchmarks too (not with --quick)."""


def experiments() -> list[str]:
    """The names of all experiments."""
    return [name for name in listed(Path(__file__).parent) if name != "report"]


def experiment(name: str) -> Any:
    """An experiment by its name."""
    module = importlib.import_module(f".{name}", __package__)
    if not hasattr(module, "experiment"):
        module = importlib.import_module(f".{name}.__main__", __package__)
    return module.experiment


def read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def stale(name: str, folder: Path) -> str:
    """Why the result of an experiment in this folder is stale; empty if it is not."""
    config, found = read(folder / CONFIG), experiment(name)
    if config.get("finished_utc") is None or not (folder / SUMMARY).exists():
        return "there is no finished run"
    made = config.get("code_sha256")
    if not isinstance(made, dict) or made["measure"] != identity.code_sha256(found.measure):
        return "measuring code has changed"
    return "drawing code has changed" if made["draw"] != identity.code_sha256(found.draw) else ""


def stale_benchmark(result: Any) -> tuple[str, str]:
    """Why a benchmark's result is stale, and why it cannot be made anew here; each may be empty."""
    import jax

    if not isinstance(result, dict):
        return "it does not say what it was made from", "run benchmarks.profile by hand"
    why = ""
    try:
        now = identity.code_sha256(f"benchmarks.{result['benchmark']}:measure")
        why = "" if result.get("code_sha256") == now else "code has changed"
    except (ImportError, KeyError, ValueError):
        why = "its benchmark is gone"
    machine = result.get("machine", {})
    version = machine.get("versions", {}).get("jax")
    if machine.get("platform", "cpu") != jax.default_backend():
        return why, f"it needs a {machine['device_kind']}"
    return why, f"it needs jax {version}" if version and version != jax.__version__ else ""


def command_of(recorded: str) -> list[str]:
    """A recorded command, for this Python, without where it wrote."""
    words, kept = shlex.split(recorded)[1:], []
    for word in words:
        if not (kept and kept[-1] in ("--out", "--json", "--figures")):
            kept.append(word)
            continue
        kept.pop()
    return [sys.executable, *(word for word in kept if word != "--fresh")]


def run_logged(command: Sequence[str], log: Path) -> float:
    """Runs a command with its output in a file; returns its seconds.

    Raises:
      RuntimeError: it failed; the message has the end of its output.
    """
    started = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as stream:
        done = subprocess.run(command, cwd=Path.cwd(), stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{shlex.join(command)} failed with exit status {done.returncode}:\n{said}")
    return time.monotonic() - started


def publish(source: Path, target: Path) -> None:
    """Copies a finished run to `docs`: config, summary and figures as PNG."""
    target.mkdir(parents=True, exist_ok=True)
    names = [CONFIG, SUMMARY, *(figure["png"] for figure in read(source / SUMMARY)["figures"])]
    for path in target.iterdir():
        if path.name not in names:
            path.unlink()
    for name in names:
        strict_json.write_bytes(target / name, (source / name).read_bytes())


def remake(name: str, quick: bool) -> float:
    """Runs an experiment with the options of its committed run, and publishes it; returns the seconds."""
    if quick:
        return run_logged([sys.executable, "-m", f"{PACKAGE}.{name}", "--quick"], RESULTS / "logs" / f"{name}.txt")
    recorded = read(ROOT / "docs" / name / CONFIG).get("command", f"python -m experiments.{name}")
    seconds = run_logged(command_of(recorded), RESULTS / "logs" / f"{name}.txt")
    publish(RESULTS / name, ROOT / "docs" / name)
    return seconds


def remake_benchmark(path: Path) -> float:
    """Runs a benchmark with the options of its committed result, and replaces that; returns the seconds."""
    new, figures = RESULTS / "benchmarks" / path.name, RESULTS / "benchmarks" / path.stem
    drawn = any(BENCHMARKS.glob(f"{path.stem}*.png"))  # of several results of a benchmark, one has its figures
    command = [*command_of(read(path)["command"]), "--json", str(new), *(["--figures", str(figures)] * drawn)]
    seconds = run_logged(command, RESULTS / "logs" / f"{path.stem}.txt")
    shutil.copy(new, path)
    for figure in figures.glob("*.png") if drawn else ():
        if (BENCHMARKS / figure.name).exists():
            shutil.copy(figure, BENCHMARKS / figure.name)
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if something is stale with --dry-run, or failed."""
    try:
        options = parse(
            Options, list(sys.argv[1:] if arguments is None else arguments), "experiments.all", __doc__ or ""
        )
    except lab.UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not options.quick and not (ROOT / "docs" / "tables.py").is_file():
        print(f"error: no committed results in {ROOT}: this needs a clone; --quick does not.", file=sys.stderr)
        return 2
    folders = {
        name: RESULTS / f"{name}-quick" if options.quick else ROOT / "docs" / name
        for name in experiments()
        if not options.only or name in options.only
    }
    todo: dict[str, Callable[[], float]] = {}
    for name, folder in folders.items():
        if why := stale(name, folder):
            print(f"stale: {name}: {why}")
            todo[name] = lambda name=name: remake(name, options.quick)
    alone: dict[str, Callable[[], float]] = {}  # benchmarks share the machine with nobody
    for path in sorted(BENCHMARKS.glob("*.json")) if options.benchmarks and not options.quick else ():
        why, not_here = stale_benchmark(read(path))
        if why and (not options.only or path.stem in options.only):
            print(f"stale: {path.relative_to(ROOT)}: {why}{f'; left as it is: {not_here}' * bool(not_here)}")
            alone |= {} if not_here else {path.stem: lambda path=path: remake_benchmark(path)}
    if options.dry_run:
        return 1 if todo or alone else 0
    failed = _carry_out(todo, 2 if (os.cpu_count() or 1) > 1 else 1) + _carry_out(alone, 1)
    if (todo or alone) and not options.quick:
        run_logged([sys.executable, str(ROOT / "docs" / "tables.py")], RESULTS / "logs" / "tables.txt")
    left = [name for name in todo if name not in failed and stale(name, folders[name])]
    print("nothing is stale" if not failed + left else f"failed or still stale: {', '.join(failed + left)}")
    return 1 if failed + left else 0


def _carry_out(todo: dict[str, Callable[[], float]], at_once: int) -> list[str]:
    """Runs all, so many at once; returns those that failed."""
    failed = []
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        running = {pool.submit(work): name for name, work in todo.items()}
        for number, done in enumerate(concurrent.futures.as_completed(running), 1):
            try:
                said = f"{done.result():.0f} s"
            except RuntimeError as error:
                failed.append(running[done])
                said = str(error)
            print(f"{number}/{len(todo)} {running[done]}: {said}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())

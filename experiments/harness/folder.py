"""Taking a result folder: is it usable, is it free, does it hold the run that is asked for?

All three are answered before any long work, each with one line that says what to do.
"""

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.harness import strict_json
from experiments.harness.errors import UsageError

CONFIG, SUMMARY, REPORT, ROWS, LOCK = "config.json", "summary.json", "report.html", "rows.jsonl", ".lock"


def prepare(folder: Path) -> None:
    """Makes `folder` with its parents and proves that a file can be written in it.

    Raises:
      UsageError: it is a file, it cannot be made, or nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; name a folder (it is made if it is not there).")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
            file.flush()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"--out {folder} cannot be written ({reason}); choose another folder with --out.") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process. The system lets go of it when the process ends, however it ends.

    Raises:
      UsageError: another run holds it; the message names its process.
    """
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try_lock(handle):
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise UsageError(
                f"another run is writing to {folder} ({owner or 'its process is unknown'}); "
                "wait for it or choose another --out."
            )
        try:
            same = os.path.samestat(os.stat(path), os.fstat(handle))
        except FileNotFoundError:
            same = False  # the last owner removed the file between our open and our lock
        if same:
            break
        os.close(handle)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # not every system removes an open file; an unheld lock file does no harm
            path.unlink()
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            os.lseek(handle, 4096, os.SEEK_SET)  # beyond the text, which stays readable to others
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            os.lseek(handle, 0, os.SEEK_SET)
        except OSError:
            os.lseek(handle, 0, os.SEEK_SET)
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def claim(folder: Path, experiment: str, options: Mapping[str, Any], *, fresh: bool) -> None:
    """Lets a run go on in `folder` only if what is there is the same run, or if it may be discarded.

    Args:
      experiment: its name, as `config.json` has it.
      options: this run's options as plain JSON values.
      fresh: discard the rows, summary, report and figures of an earlier run of the same experiment.

    Raises:
      UsageError: the folder belongs to another experiment, or holds a run with other options and `fresh` is False.
    """
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        config = json.loads(path.read_text())
        owner, there = config["experiment"], config["options"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} was not written by an experiment; choose another --out.") from error
    if owner != experiment:
        raise UsageError(f"{folder} holds a run of {owner}, not of {experiment}; choose another --out.")
    if fresh:
        discard(folder)
        return
    changed = [name for name in sorted({*there, *options}) if there.get(name) != options.get(name)]
    if changed:
        what = "; ".join(f"{name} was {there.get(name)!r}, now {options.get(name)!r}" for name in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UsageError(
            f"{folder} holds a run with other options ({what}{more}); choose another --out, "
            "or add --fresh to discard what is there."
        )


def discard(folder: Path) -> None:
    """Removes what the harness made in `folder` (config, rows, summary, report, figures); leaves other files alone."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for figure in json.loads((folder / SUMMARY).read_text())["figures"]:
            for name in (figure["png"], figure["svg"]):
                if Path(name).name == name:
                    (folder / name).unlink(missing_ok=True)
    for name in (ROWS, SUMMARY, REPORT, CONFIG):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "rows", ignore_errors=True)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes `config.json`, whole or not at all."""
    strict_json.write(folder / CONFIG, config)

"""Two versions of rnnjax side by side: a folder for each, and a process for each."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.problems import Problem

ROOT = Path(__file__).resolve().parents[2]


def commit(name: str) -> str:
    """The full hash of a commit.

    Raises:
      ValueError: this is no git checkout, or it does not have the commit.
    """
    done = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if done.returncode or name.startswith("-"):
        raise ValueError(f"{name!r} is no commit of this checkout; name one that `git log` shows, or fetch it.")
    return done.stdout.decode().strip()


def extract(name: str, folder: Path) -> dict[str, str | None]:
    """Puts `rnnjax/` of a commit, or of the working tree where `name` is empty, into `folder`, and `benchmarks/` too.

    Returns:
      The commit's hash (None of the working tree) and a digest of the package's code, for the record.
    """
    full = commit(name) if name else None
    folder.mkdir()
    if full is None:
        shutil.copytree(ROOT / "rnnjax", folder / "rnnjax", ignore=shutil.ignore_patterns("__pycache__"))
    else:
        archive = _git("archive", full, "rnnjax")
        if archive.returncode:
            raise ValueError(f"the commit {name} has no rnnjax/: {archive.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
    kept = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=kept)
    return {"commit": full, "code": _digest(folder / "rnnjax")}


class Worker:
    """A process that runs the version of rnnjax in `folder`; see `benchmarks.before_after.worker`."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.before_after.worker", str(devices)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def greet(self) -> None:
        """Waits until the process is ready, and makes sure that it runs the version it was started for."""
        found = Path(self._answer()["rnnjax"])
        if self.folder.resolve() not in found.resolve().parents:
            raise RuntimeError(f"a worker for {self.folder} imported {found}.")

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises RuntimeError where it failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self._process.wait()}; its error is above.")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@contextlib.contextmanager
def pair(before: Path, after: Path, devices: int) -> Iterator[tuple[Worker, Worker]]:
    """A new process for each of the two folders; both end with the block."""
    with contextlib.ExitStack() as stack:
        workers = []
        for folder in (before, after):
            workers.append(Worker(folder, devices))
            stack.callback(workers[-1].stop)
        for worker in workers:
            worker.greet()
        yield workers[0], workers[1]


def contestant(
    name: str, worker: Worker, form: str, problem: Problem, tasks: dict[str, str], seed: int
) -> harness.Contestant:
    """A form in a worker as a contestant.

    Args:
      tasks: what the worker calls "forward" or "train", by the name it has in the contest: contestants are compared
        under that name.
    """

    def build() -> dict[str, harness.Program]:
        return {name: _program(worker, form, task, problem, seed) for name, task in tasks.items()}

    return harness.Contestant(name, build)


def _program(worker: Worker, form: str, task: str, problem: Problem, seed: int) -> harness.Program:
    which = {"form": form, "task": task}
    built = worker.ask("build", **which, cell=problem.cell, point=str(problem.point), seed=seed)

    def shared(_: Any) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.npz"
            worker.ask("save", **which, path=str(path))
            with np.load(path) as arrays:
                return dict(arrays)

    def sample(calls: int) -> float:
        return worker.ask("time", **which, calls=calls)["seconds"]

    return harness.Program(lambda: sample(1), shared, harness.Cost(**built["cost"]), sample=sample)


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]

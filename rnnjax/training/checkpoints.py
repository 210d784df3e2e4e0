"""Checkpoints: a run that is killed at any moment resumes from its last good step, bit for bit.

    folder/step_000000300/arrays/            the `TrainState`, written by Orbax
    folder/step_000000300/manifest.json      its leaves, the run's config, and the SHA-256 of every file
    folder/lock                              locked while a run uses the folder

A step is written to a temporary folder and then renamed, so it is either complete or absent. Loading compares the
hashes: corrupt steps are reported and skipped, since Orbax alone would silently load wrong numbers.

With several processes, only process 0 reads and writes. It sends what it read to the others, so all resume from the
same step without a shared disk. Before a step is written, all processes must hold the same state.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnjax import processes
from rnnjax.cell import check_size
from rnnjax.training import manifest
from rnnjax.training.arrays import load_arrays, save_arrays, stored_as
from rnnjax.training.flat import CheckpointError, check_fit, describe, flatten, local, unflatten
from rnnjax.training.state import TrainState

_ARRAYS = "arrays"
_ASIDE = ".aside_"


class CheckpointWarning(UserWarning):
    """A corrupt step was skipped, or a step could not be written and training continues."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where and how often to save a run; pass it to `fit`, which then saves and resumes automatically.

    Attributes:
      folder: created if it does not exist. Only one run at a time can use it.
      every: updates between two checkpoints, which are written at the end of a dispatch.
      keep: the number of steps to keep, at least 2: the newest, and one to fall back to.
      config: the configuration of the run, as JSON; a folder with another config is rejected.
    """

    folder: str | os.PathLike[str]
    every: int
    keep: int = 3
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_size("every", self.every)
        check_size("keep", self.keep)
        if self.keep < 2:
            raise ValueError("keep is 1; a single step leaves none to fall back to if it is damaged: pass 2.")
        json.dumps(dict(self.config), sort_keys=True, allow_nan=False)

    @contextlib.contextmanager
    def opened(self) -> Iterator["Store"]:
        """Locks the folder for one run.

        Raises:
          CheckpointError: the folder cannot be created or written to, or another run uses it.
        """
        if not processes.several():
            with self._held() as folder:
                yield Store(folder, self)
            return
        with contextlib.ExitStack() as stack:
            folder = _of_process_0(lambda: str(stack.enter_context(self._held())))
            yield SharedStore(Path(folder), self)

    @contextlib.contextmanager
    def _held(self) -> Iterator[Path]:
        """Creates and locks the folder."""
        import fcntl  # not available on every system

        folder = Path(self.folder).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CheckpointError(f"cannot keep checkpoints in {folder}: {error.strerror}.") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
                raise CheckpointError(
                    f"{folder} is in use by another run (process {owner}); wait for it, or use another folder."
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            _sweep(folder)
            yield folder
        finally:
            os.close(lock)  # also releases the lock; so does the end of the process


class Store:
    """A locked folder of checkpoints; created by `Checkpoints.opened`.

    Attributes:
      position: the position in the data of the step that `load` found, or None.
    """

    position: str | None = None

    def __init__(self, folder: Path, options: Checkpoints) -> None:
        self._folder, self._options = folder, options

    def due(self, before: int, now: int) -> bool:
        """Whether (before, now] contains a multiple of `every`."""
        return now // self._options.every > before // self._options.every

    def save(self, state: TrainState, position: str | None = None) -> Path:
        """Writes a step atomically, with the position in the data, and removes the oldest.

        Raises:
          CheckpointError: the step could not be written; earlier steps are unchanged.
        """
        arrays, keys = flatten(state)
        final = self._folder / _name(int(state.step))
        aside = self._folder / f"{_ASIDE}{final.name}"
        try:
            aside.mkdir()
            save_arrays(aside / _ARRAYS, arrays)
            content = {
                "step": int(state.step),
                "config": dict(self._options.config),
                "position": position,
                "leaves": describe(arrays, keys),
                "stored_as": stored_as(arrays),
                "versions": {"jax": jax.__version__, "numpy": np.__version__},
            }
            manifest.write(aside, content)
            if final.exists():  # it is corrupt, or the run would have resumed from it
                final.rename(self._folder / f"{_ASIDE}old_{final.name}")
            aside.rename(final)
            manifest.sync(self._folder)
        except Exception as error:  # Orbax and the file system raise many types
            _sweep(self._folder)
            there = steps(self._folder)
            left = f"the newest on the disk is step {there[-1]}" if there else "there is none on the disk"
            where = f"step {int(state.step)} could not be saved in {self._folder}"
            reason = str(error).partition(" [tensorstore_spec")[0]  # a page of JSON follows
            raise CheckpointError(f"{where}: {reason}; {left}.") from error
        for step in steps(self._folder)[: -self._options.keep]:
            (self._folder / _name(step)).rename(self._folder / f"{_ASIDE}old_{_name(step)}")
        _sweep(self._folder)
        return final

    def load(self, template: TrainState) -> TrainState | None:
        """Loads the newest good step, or None if there is none; warns of each corrupt step that it skips.

        Raises:
          CheckpointError: all steps are corrupt, or the good step has another architecture or config.
        """
        state, self.position = _newest(self._folder, template, self._options.config)
        return state


class SharedStore(Store):
    """A `Store` for several processes: process 0 reads and writes, and all receive the result."""

    def save(self, state: TrainState, position: str | None = None) -> Path:
        state = local(state)  # the following runs in one process
        mine = _digest(flatten(state)[0])
        others = [i for i, each in enumerate(processes.from_all(mine)) if each != mine]
        if others:
            raise CheckpointError(
                f"the processes hold different states at step {int(state.step)}: {', '.join(map(str, others))} and "
                f"{jax.process_index()} differ. Nothing was written. Data and parameters must be the same functions "
                "of the same keys in every process; start from the last checkpoint."
            )
        return Path(_of_process_0(lambda: str(super(SharedStore, self).save(state, position))))

    def load(self, template: TrainState) -> TrainState | None:
        def work() -> tuple[dict[str, np.ndarray] | None, str | None]:
            state = super(SharedStore, self).load(template)
            return None if state is None else flatten(state)[0], self.position

        arrays, self.position = _of_process_0(work)
        return None if arrays is None else unflatten(template, arrays)


def _of_process_0(work: Callable[[], Any]) -> Any:
    """Runs `work` in process 0, and returns its result, or raises its error, in every process."""
    result, error = None, None
    if processes.is_coordinator():
        try:
            result = work()
        except Exception as raised:
            error = raised
    result, told = pickle.loads(processes.from_coordinator(pickle.dumps((result, error))))
    if told is not None:
        raise error or told
    return result


def _digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 over names and bytes."""
    total = hashlib.sha256()
    for name, array in arrays.items():
        total.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode() + array.tobytes())
    return total.digest()


def load(
    folder: str | os.PathLike[str], template: TrainState, *, config: Mapping[str, Any] | None = None
) -> TrainState | None:
    """Loads the newest good step in a folder of checkpoints, without locking or writing.

    Args:
      folder: as `Checkpoints.folder`.
      template: a state of the same shapes and dtypes, such as one from `init_state`.
      config: if given, it must equal the checkpoint's config.
    Returns:
      The state, or None if there is no step.
    Raises:
      CheckpointError: all steps are corrupt, or the good step has another architecture or config.
      ValueError: two leaves of `template` have the same name (keys of one node with the same `repr`).
    Warns:
      CheckpointWarning: for each corrupt step that is skipped.
    """
    return _newest(Path(folder).absolute(), template, config)[0]


def _newest(
    folder: Path, template: TrainState, config: Mapping[str, Any] | None
) -> tuple[TrainState | None, str | None]:
    """The newest good step, and its position in the data."""
    arrays, keys = flatten(template)
    damaged = []
    for step in reversed(steps(folder)):
        path = folder / _name(step)
        content, problems = manifest.check(path)
        if not problems:
            _check_config(content["config"], config, path)
            check_fit(content["leaves"], describe(arrays, keys), str(path))
            if damaged:
                told = f"{'; '.join(damaged)}. Training resumes from step {step}, the newest intact one."
                warnings.warn(told, CheckpointWarning, stacklevel=3)
            found = load_arrays(path / _ARRAYS, arrays, content.get("stored_as", {}))
            return unflatten(template, found), content.get("position")
        damaged.append(f"checkpoint {path} is damaged: {', '.join(problems)}")
    if damaged:
        raise CheckpointError(f"no checkpoint in {folder} is intact: {'; '.join(damaged)}. Use another folder.")
    return None, None


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps in the folder, intact or corrupt, oldest first."""
    paths = Path(folder).glob("step_*")
    return sorted(int(path.name[5:]) for path in paths if path.name[5:].isdecimal() and path.is_dir())


def _name(step: int) -> str:
    return f"step_{step:09d}"


def _sweep(folder: Path) -> None:
    """Removes unfinished writes and removals of a killed run."""
    for path in folder.glob(f"{_ASIDE}*"):
        shutil.rmtree(path, ignore_errors=True)


def _check_config(saved: Mapping[str, Any], wanted: Mapping[str, Any] | None, path: Path) -> None:
    if wanted is None:
        return
    now: dict[str, Any] = json.loads(json.dumps(dict(wanted)))  # JSON turns tuples into lists
    names = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    if names:
        told = "; ".join(f"{name} was {saved.get(name)!r}, is {now.get(name)!r}" for name in names)
        raise CheckpointError(
            f"{path} belongs to another run: {told}. Use another folder, or the config that it was made with."
        )

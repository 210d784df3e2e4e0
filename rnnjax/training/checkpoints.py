"""Checkpoints: a run that is killed at any moment resumes from its last good step, bit for bit.

    folder/step_000000300/     the `TrainState` and the run's config, laid out as in `manifest.py`
    folder/lock                locked while a run uses the folder

Orbax's `CheckpointManager` writes a step to a temporary folder, renames it, and removes the oldest. The manifest comes
last; a step without one is unfinished. Loading compares the hashes: corrupt steps are reported and skipped, since Orbax
alone would silently load wrong numbers.

With several processes, process 0 alone writes and reads a state that every process holds, and sends what it read to the
others, without a shared disk. If an array is sharded over processes, all of them write and read together on a shared
disk.
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

from rnnjax import processes
from rnnjax.cell import check_size
from rnnjax.training import manifest
from rnnjax.training.flat import CheckpointError, check_fit, flatten, is_shared, unflatten
from rnnjax.training.state import TrainState


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
    def opened(self) -> Iterator["Checkpoints"]:
        """Locks the folder for one run, which may then `save` and `load`; with several processes, all make each call.

        Raises:
          CheckpointError: the folder cannot be created or written to, or another run uses it.
        """
        with contextlib.ExitStack() as stack:
            _in_process_0(lambda: stack.enter_context(_locked(Path(self.folder).absolute())))
            yield self

    def due(self, before: int, now: int) -> bool:
        """Whether (before, now] contains a multiple of `every`."""
        return now // self.every > before // self.every

    def save(self, state: TrainState, position: str | None = None) -> Path:
        """Writes a step atomically, with the position in the data, and removes the oldest.

        Raises:
          CheckpointError: the step could not be written; earlier steps are unchanged.
          ValueError: the processes hold different states.
        """
        step, (arrays, leaves), folder = int(state.step), flatten(state), Path(self.folder).absolute()
        final, together = folder / _name(step), any(map(is_shared, arrays.values()))
        content = {"step": step, "config": dict(self.config), "position": position, "leaves": leaves}
        content["stored_as"] = manifest.stored_as(arrays)

        def write() -> None:
            orbax, who = manifest.orbax(together=together)
            options = orbax.CheckpointManagerOptions(
                max_to_keep=self.keep, step_prefix="step", step_format_fixed_length=9, create=False,
                save_root_metadata=False, enable_async_checkpointing=False, cleanup_tmp_directories=True,
                multiprocessing_options=who,
            )  # fmt: skip
            try:
                with orbax.CheckpointManager(folder, options=options) as manager:
                    manager.save(step, args=orbax.args.Composite(arrays=manifest.to_save(arrays)), force=True)
                if processes.is_coordinator():
                    manifest.write(final, content)
            except Exception as error:  # Orbax and the file system raise many types
                for rest in folder.glob(f"{final.name}*"):
                    shutil.rmtree(rest, ignore_errors=True)
                there = steps(folder)
                left = f"the newest on the disk is step {there[-1]}" if there else "there is none on the disk"
                reason = str(error).partition(" [tensorstore_spec")[0]  # a page of JSON follows
                raise CheckpointError(f"step {step} could not be saved in {folder}: {reason}; {left}.") from error

        if processes.is_coordinator():  # corrupt or unfinished, or the run would have resumed from it
            for later in filter(lambda later: later >= step, steps(folder)):
                shutil.rmtree(folder / _name(later), ignore_errors=True)
        if processes.several():
            whole = b"".join(array.tobytes() for array in arrays.values() if not is_shared(array))
            processes.assert_equal({"SHA-256": hashlib.sha256(whole).hexdigest()}, f"state at step {step}")
        _in_process_0(write, together)
        return final

    def load(self, template: TrainState) -> tuple[TrainState | None, str | None]:
        """`load_checkpoint` from this folder, with the config of this run; and the position in the data."""
        return _load(self.folder, template, self.config)


def load(
    folder: str | os.PathLike[str], template: TrainState, *, config: Mapping[str, Any] | None = None
) -> TrainState | None:
    """Loads the newest good step in a folder of checkpoints, without locking or writing.

    With several processes, all must call it; if no array is sharded over them, only process 0 needs the folder.

    Args:
      folder: as `Checkpoints.folder`.
      template: a state of the same shapes and dtypes, such as one from `init_state`. What is loaded is put on the
        devices that its arrays are committed to.
      config: if given, it must equal the checkpoint's config.
    Returns:
      The state, or None if there is no finished step.
    Raises:
      CheckpointError: all steps are corrupt; or the good step has another architecture or config, or is of a later
        version.
      ValueError: two leaves of `template` have the same name (keys of one node with the same `repr`).
    Warns:
      CheckpointWarning: for each corrupt step that is skipped.
    """
    return _load(folder, template, config)[0]


def _load(
    folder: str | os.PathLike[str], template: TrainState, config: Mapping[str, Any] | None
) -> tuple[TrainState | None, str | None]:
    like, leaves = flatten(template)
    found = _in_process_0(lambda: _newest(Path(folder).absolute(), leaves, config))
    if found is None:
        return None, None
    path, stored, position = found
    together = any(map(is_shared, like.values()))
    return unflatten(template, _in_process_0(lambda: manifest.load(path, like, stored), together)), position


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps in the folder, intact or corrupt, oldest first."""
    paths = Path(folder).glob("step_*")
    return sorted(int(path.name[5:]) for path in paths if path.name[5:].isdecimal() and path.is_dir())


def _name(step: int) -> str:
    return f"step_{step:09d}"


def _newest(
    folder: Path, leaves: dict[str, list[Any]], config: Mapping[str, Any] | None
) -> tuple[Path, dict[str, str], str | None] | None:
    """The arrays of the newest good step, their names on disk, and the position in the data."""
    damaged, there = [], steps(folder)
    for step in reversed(there):
        path = folder / _name(step)
        content, problems = manifest.check(path)
        if not problems:
            was = content["config"]
            now = was if config is None else json.loads(json.dumps(dict(config)))  # JSON turns tuples into lists
            names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
            if names:
                told = "; ".join(f"{name} was {was.get(name)!r}, is {now.get(name)!r}" for name in names)
                raise CheckpointError(f"{path} belongs to another run: {told}. Use its config, or another folder.")
            check_fit(content["leaves"], leaves, str(path))
            if damaged:
                told = f"{'; '.join(damaged)}. Training resumes from step {step}, the newest intact one."
                warnings.warn(told, CheckpointWarning, stacklevel=2)
            return path / "arrays", content.get("stored_as", {}), content.get("position")
        damaged.append(f"checkpoint {path} is damaged: {', '.join(problems)}")
    if damaged[1:] or any((folder / _name(step) / manifest.SEAL).exists() for step in there):
        raise CheckpointError(f"no checkpoint in {folder} is intact: {'; '.join(damaged)}. Use another folder.")
    if damaged:  # a run that is killed during its first save leaves one without a manifest
        warnings.warn(f"{damaged[0]}. It was not finished; training starts anew.", CheckpointWarning, stacklevel=2)
    return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl  # not available on every system

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise CheckpointError(f"cannot keep checkpoints in {folder}: {error.strerror}.") from error
    with lock:  # closing it, as the end of the process does, releases the lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = f"process {lock.read(32)}"
            told = f"{folder} is in use by another run ({owner}); wait for it, or use another folder."
            raise CheckpointError(told) from None
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
        yield


def _in_process_0(work: Callable[[], Any], together: bool = False) -> Any:
    """Runs `work` in process 0, or in all if `together`. All get process 0's result, or their own, and its error."""
    if not processes.several():
        return work()
    result, error = None, None
    if together or processes.is_coordinator():
        try:
            result = work()
        except Exception as raised:
            error = raised
    sent, told = pickle.loads(processes.from_coordinator(pickle.dumps((None if together else result, error))))
    if error or told:
        raise error or told
    return result if together else sent

"""Checkpoints: a run that is killed at any moment resumes from its last good step, bit for bit.

    folder/step_000000300/     the `TrainState`, config, position in the data and metrics, laid out as in `disk.py`
    folder/lock                locked while a run uses the folder

Orbax's `CheckpointManager` writes a step to a temporary folder, renames it, and removes the oldest. The manifest comes
last; a step without one is unfinished. Process 0 alone writes and reads a state that every process holds, and sends it
to the others. If an array is sharded over processes, all of them write and read together, on a shared disk.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnjax import processes
from rnnjax.cell import check_size
from rnnjax.training import disk
from rnnjax.training.disk import StrPath, check_fit, flatten, is_shared
from rnnjax.training.faults import CheckpointError
from rnnjax.training.state import TrainState

Line = dict[str, Any]
"""One line of metrics: "step" (updates so far), "loss", "gradient_norm", ..."""


class CheckpointWarning(UserWarning):
    """A corrupt step was skipped, or a step could not be written and training continues."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where and how often to save a run; pass it to `fit`, which then saves and resumes automatically."""

    folder: StrPath  # created if it does not exist; only one run at a time can use it
    every: int  # updates between two checkpoints, which are written at the end of a dispatch
    keep: int = 3  # steps to keep, at least 2: the newest, and one to fall back to
    config: Mapping[str, Any] | None = dataclasses.field(default_factory=dict)
    """The configuration of the run, as JSON; a folder with another is rejected. None: any is accepted."""

    def __post_init__(self) -> None:
        check_size("every", self.every)
        check_size("keep", self.keep)
        if self.keep < 2:
            raise ValueError(f"keep is {self.keep}; pass at least 2, to fall back to a step if the newest is damaged.")
        json.dumps(dict(self.config or {}), sort_keys=True, allow_nan=False)

    @contextlib.contextmanager
    def opened(self) -> Iterator["Checkpoints"]:
        """Locks the folder for one run, which may then `save` and `load`; of several processes, all make each call."""
        import fcntl  # not available on every system

        def lock() -> None:
            path = Path(self.folder).absolute() / "lock"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("a"))  # closing it, as the end of the process does, unlocks it
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told = f"{path.parent} is in use by another run (process {path.read_text()})"
                raise CheckpointError(f"{told}; wait for it, or use another folder.") from None
            except OSError as error:
                raise CheckpointError(f"cannot keep checkpoints in {path.parent}: {error.strerror}.") from error
            file.truncate(0)
            print(os.getpid(), end="", file=file, flush=True)

        with contextlib.ExitStack() as stack:
            _in_process_0(lock)
            yield self

    def save(self, state: TrainState, position: str | None = None, history: Sequence[Line] = ()) -> None:
        """Writes a step, the position in the data and the metrics atomically, and removes the oldest step."""
        step, (arrays, leaves), folder = int(state.step), flatten(state), Path(self.folder).absolute()
        content = {"step": step, "config": dict(self.config or {}), "leaves": leaves}
        content |= {"position": position, "history": list(history)}
        final, together = folder / f"step_{step:09d}", any(map(is_shared, arrays.values()))

        def write() -> None:
            orbax, who, _ = disk.orbax(together)
            options = orbax.CheckpointManagerOptions(
                max_to_keep=self.keep, step_prefix="step", step_format_fixed_length=9, cleanup_tmp_directories=True,
                create=False, save_root_metadata=False, enable_async_checkpointing=False, multiprocessing_options=who,
            )  # fmt: skip
            try:
                with orbax.CheckpointManager(folder, options=options) as manager:
                    saved = orbax.args.StandardSave(disk.stored(arrays))
                    manager.save(step, args=orbax.args.Composite(arrays=saved), force=True)
                if processes.is_coordinator():
                    disk.seal(final, content)
            except Exception as error:  # Orbax and the file system raise many types
                for rest in folder.glob(f"{final.name}*"):
                    shutil.rmtree(rest, ignore_errors=True)
                reason = str(error).partition(" [tensorstore_spec")[0]  # a page of JSON follows
                left = f"steps on the disk: {', '.join(map(str, steps(folder))) or 'none'}"
                raise CheckpointError(f"step {step} could not be saved in {folder}: {reason}; {left}.") from error

        if processes.is_coordinator():  # corrupt or unfinished, or the run would have resumed from it
            for later in [path for later, path in steps(folder).items() if later >= step]:
                shutil.rmtree(later, ignore_errors=True)
        if processes.several():
            whole = b"".join(array.tobytes() for array in arrays.values() if not is_shared(array))
            processes.assert_equal({"SHA-256": hashlib.sha256(whole).hexdigest()}, f"state at step {step}")
        _in_process_0(write, together)

    def load(self, template: TrainState) -> tuple[TrainState | None, str | None, list[Line]]:
        """The newest intact state, or None, the position in the data, and the metrics; without locking or writing.

        The state goes to the devices to which the arrays of `template` are committed, such as one from `init_state`.

        Raises:
          CheckpointError: all steps are corrupt, or the newest good one has another architecture, config or version.
        Warns:
          CheckpointWarning: for the corrupt steps that are skipped.
        """
        like, leaves = flatten(template)
        path, *more = _in_process_0(lambda: self._newest(leaves))
        if path is None:
            return None, None, []
        arrays = _in_process_0(lambda: disk.load(path, like), any(map(is_shared, like.values())))
        return disk.unflatten(template, arrays), *more

    def _newest(self, leaves: Mapping[str, str]) -> tuple[Path | None, str | None, list[Line]]:
        damaged, folder = [], Path(self.folder).absolute()
        for step, path in reversed(steps(folder).items()):
            content, problems = disk.check(path)
            if problems:
                damaged.append(f"checkpoint {path} is damaged: {', '.join(problems)}")
                continue
            if self.config is not None:  # JSON turns tuples into lists
                check_fit(content["config"], json.loads(json.dumps(dict(self.config))), f"{path} is of another run")
            check_fit(content["leaves"], leaves, f"{path} has another architecture")
            if damaged:
                told = f"{'; '.join(damaged)}. Training resumes from step {step}, the newest intact one."
                warnings.warn(told, CheckpointWarning, stacklevel=2)
            return path, content["position"], content["history"]
        if len(damaged) > 1 or any(folder.glob(f"step_*/{disk.SEAL}")):
            raise CheckpointError(f"no checkpoint in {folder} is intact: {'; '.join(damaged)}. Use another folder.")
        if damaged:  # a run that is killed during its first save leaves one without a manifest
            warnings.warn(f"{damaged[0]}. It was not finished; training starts anew.", CheckpointWarning, stacklevel=2)
        return None, None, []


def steps(folder: Path) -> dict[int, Path]:
    """The steps in the folder, intact or corrupt, oldest first."""
    found = {path.name[5:]: path for path in folder.glob("step_*") if path.is_dir()}
    return dict(sorted((int(step), path) for step, path in found.items() if step.isdecimal()))


def _in_process_0(work: Callable[[], Any], together: bool = False) -> Any:
    """Runs `work` in process 0, or in all if `together`. All get process 0's result, or their own, and its error."""
    if not processes.several():
        return work()
    result = error = None
    if together or processes.is_coordinator():
        try:
            result = work()
        except Exception as raised:
            error = raised
    sent, told = pickle.loads(processes.from_coordinator(pickle.dumps((None if together else result, error))))
    if error or told:
        raise error or told
    return result if together else sent

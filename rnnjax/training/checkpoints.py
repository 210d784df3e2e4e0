"""Checkpoints: a run that is killed at any moment resumes from its last good step, bit for bit.

    folder/step_000000300/     the `TrainState`, config, position in the data and metrics:
        arrays/                as Orbax lays them out
        manifest.json          what they are, and {file: sha256} of every other file
        manifest.json.sha256   the hash of manifest.json, in the format of `sha256sum -c`, written last
    folder/lock                locked while a run uses the folder

Orbax's `CheckpointManager` writes a step to a temporary folder, renames it, and removes the oldest. Orbax does not
detect every flipped bit, truncated file, and missing or added file; the manifest does, and a step without one is
unfinished. Process 0 alone writes and reads a state that every process holds, which Orbax's stable interface allows
and its v1 does not. If an array is sharded over processes, all of them write and read together, on a shared disk.
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

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnjax import processes
from rnnjax.cell import PyTree, check_size
from rnnjax.training.faults import CheckpointError, leaf_names
from rnnjax.training.steps import TrainState

MANIFEST, SEAL, FORMAT = "manifest.json", "manifest.json.sha256", 4
StrPath = str | os.PathLike[str]
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
                told = f"in use by another run (process {path.read_text()}); wait for it, or use another folder."
                raise CheckpointError(f"{path.parent} is {told}") from None
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
            checkpoint, who, _ = orbax(together)
            options = checkpoint.CheckpointManagerOptions(
                max_to_keep=self.keep, step_prefix="step", step_format_fixed_length=9, cleanup_tmp_directories=True,
                create=False, save_root_metadata=False, enable_async_checkpointing=False, multiprocessing_options=who,
            )  # fmt: skip
            try:
                with checkpoint.CheckpointManager(folder, options=options) as manager:
                    saved = checkpoint.args.StandardSave(stored(arrays))
                    manager.save(step, args=checkpoint.args.Composite(arrays=saved), force=True)
                if processes.is_coordinator():
                    seal(final, content)
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

        The state goes to the devices to which the arrays of `template` are committed, such as one from `init_state`. A
        CheckpointWarning names corrupt steps that are skipped. A CheckpointError is raised if all are, or if the newest
        good one has another architecture, config or version.
        """
        like, leaves = flatten(template)
        path, *more = _in_process_0(lambda: self._newest(leaves))
        if path is None:
            return None, None, []
        arrays = _in_process_0(lambda: load(path, like), any(map(is_shared, like.values())))
        return unflatten(template, arrays), *more

    def _newest(self, leaves: Mapping[str, str]) -> tuple[Path | None, str | None, list[Line]]:
        damaged, folder = [], Path(self.folder).absolute()
        for step, path in reversed(steps(folder).items()):
            content, problems = check(path)
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
        if len(damaged) > 1 or any(folder.glob(f"step_*/{SEAL}")):
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


def flatten(tree: PyTree) -> tuple[dict[str, Any], dict[str, str]]:
    """`({name: NumPy array}, {name: "[shape] dtype"})`; of keys, the data; shapes and sharded arrays as they are."""
    arrays, kinds = {}, {}
    both = map(jax.tree.leaves, (tree, optax.tree.unwrap_random_key_data(tree)))
    for name, leaf, data in zip(leaf_names(tree), *both, strict=True):
        if name in arrays:
            raise ValueError(f"two leaves are named {name}, and only one of them could be saved: rename one.")
        arrays[name] = data if isinstance(data, jax.ShapeDtypeStruct) or is_shared(data) else np.asarray(data)
        kinds[name] = f"{list(arrays[name].shape)} {getattr(leaf, 'dtype', arrays[name].dtype)}"
    return arrays, kinds


def unflatten(template: PyTree, arrays: Mapping[str, Any]) -> PyTree:
    """Puts the arrays into the structure of `template`, on the devices to which its leaves are committed."""
    names = iter(leaf_names(template))
    return jax.tree.map(lambda leaf: _like(leaf, arrays[next(names)], getattr(leaf, "committed", False)), template)


def local(tree: PyTree) -> PyTree:
    """Moves arrays that several devices hold whole to this process's default device, uncommitted."""

    def moved(leaf: Any, data: Any) -> Any:
        whole = len(leaf.sharding.device_set) > 1 and leaf.is_fully_replicated
        return _like(leaf, np.asarray(data)) if whole else leaf

    return jax.tree.map(moved, tree, optax.tree.unwrap_random_key_data(tree))


def is_shared(leaf: Any) -> bool:
    """Whether no process holds the whole array."""
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _like(leaf: Any, array: Any, committed: bool = False) -> jax.Array:
    array = jax.device_put(array, leaf.sharding) if committed else jnp.asarray(array)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_key else array


def orbax(together: bool = False) -> tuple[Any, Any, Any]:
    """Orbax, its options for this process alone or for all together, and its `Checkpointer`, for a `with` block."""
    from orbax import checkpoint  # takes a second or more to import, and few runs need it

    me = jax.process_index()
    alone = {"primary_host": me, "active_processes": {me}, "barrier_sync_key_prefix": f"process_{me}"}
    options = checkpoint.options.MultiprocessingOptions(**({} if together else alone))
    handler = checkpoint.StandardCheckpointHandler(multiprocessing_options=options)
    return checkpoint, options, checkpoint.Checkpointer(handler, multiprocessing_options=options)


def stored(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays under names that no file system misinterprets, without empty ones, which Orbax rejects."""
    return {f"leaf-{i}": arrays[name] for i, name in enumerate(sorted(arrays)) if arrays[name].size}


def load(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Loads arrays of the shapes and dtypes of `like`, in one process, or in all if an array is sharded over them."""
    checkpoint, _, disk = orbax(any(map(is_shared, like.values())))
    wanted = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in like.items() if not is_shared(leaf)}
    with disk:
        found = disk.restore(folder / "arrays", args=checkpoint.args.StandardRestore(stored({**like, **wanted})))
    return {name: found.get(f"leaf-{i}", wanted.get(name)) for i, name in enumerate(sorted(like))}


def seal(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest with `content` and the hash of every file in `folder`, and syncs all of it to disk."""
    content = {"format": FORMAT, "jax": jax.__version__, **content, "files": _files(folder)}
    text = json.dumps(content, indent=1).encode()
    (folder / MANIFEST).write_bytes(text)
    (folder / SEAL).write_bytes(_seal(text))
    for path in (*folder.rglob("*"), folder, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def check(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns `(content, problems)`; without problems, every byte is as written. Raises if it is of another version."""
    try:
        text = (folder / MANIFEST).read_bytes()
        if (folder / SEAL).read_bytes() != _seal(text):
            return {}, [f"{MANIFEST} does not match {SEAL}"]
        content, found = json.loads(text), _files(folder)
    except OSError as error:
        return {}, [f"{Path(str(error.filename or folder)).name}: {error.strerror}"]
    if content["format"] != FORMAT:
        told = f"{folder} was written by {'a later' if content['format'] > FORMAT else 'an earlier'} rnnjax"
        raise CheckpointError(f"{told}; use that version, or another folder.")
    listed: dict[str, str] = content["files"]
    why = dict.fromkeys(listed.keys() - found.keys(), "is missing")
    why |= dict.fromkeys(found.keys() - listed.keys(), "was not there when it was written")
    why |= {name: "has other bytes than were written" for name in found.keys() & listed if found[name] != listed[name]}
    return content, [f"{name} {why[name]}" for name in sorted(why)]


def check_fit(saved: Mapping[str, Any], here: Mapping[str, Any], told: str) -> None:
    """Raises a CheckpointError that names the entries that differ, unless all are equal."""
    names = sorted(saved.keys() | here.keys(), key=lambda name: (not name.startswith("params"), name))
    both = [(name, saved.get(name, "absent"), here.get(name, "absent")) for name in names]
    if lines := [f"{name}: {a} in the checkpoint, {b} in this run" for name, a, b in both if a != b]:
        more = [f"and {len(lines) - 5} more"] if len(lines) > 5 else []
        raise CheckpointError(f"{told}: {'; '.join(lines[:5] + more)}. Use what it was saved with, or another folder.")


def _files(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if not path.is_dir() and path.name not in (MANIFEST, SEAL)]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _seal(text: bytes) -> bytes:
    return f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode()

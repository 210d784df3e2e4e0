"""`--devices --coordinator --num-processes --process-id`: one experiment on many devices, and over many processes.

An experiment that trains inherits its options from `ProcessOptions`, and passes on `run.mesh` (None: one device):

    class Options(harness.ProcessOptions): ...
    fit_many(..., mesh=run.mesh)                                          runs of a sweep cut over the devices
    fit(..., gradient=run.mesh and data_parallel(loss, run.mesh))         rows of a batch cut over the devices

Every process runs the same `measure`. Process 0 alone writes rows, figures, checkpoints and results; the others are
silent, and hold the rows that process 0 holds. A row does not depend on how many devices it was made on, beyond
rounding, so a run may go on with another number of them.
"""

import contextlib
import dataclasses
import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.harness.errors import UsageError
from experiments.harness.experiment import CommonOptions
from experiments.harness.rows import Arrays, Row, RowStore, Values

if TYPE_CHECKING:
    from jax.sharding import Mesh

FIELDS = ("devices", "coordinator", "num_processes", "process_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions(CommonOptions):
    """Options of an experiment that may run on several devices and in several processes."""

    devices: int | None = None
    """Devices of each process: a CPU counts as so many, of accelerators so many are used. Default: a CPU is one,
    accelerators all."""
    coordinator: str | None = None
    """Host and free port of process 0, as host:port, the same in every process."""
    num_processes: int = 1
    """Processes that train as one; start each with the same command but for --process-id."""
    process_id: int | None = None
    """Which process this is, from 0. Process 0 alone writes."""

    def check(self) -> None:
        super().check()
        if self.devices is not None and self.devices < 1:
            raise UsageError(f"--devices is {self.devices}; give 1 or more.")
        if self.num_processes < 1:
            raise UsageError(f"--num-processes is {self.num_processes}; give 1 or more.")
        several = self.num_processes > 1
        for flag, value in (("--coordinator", self.coordinator), ("--process-id", self.process_id)):
            if (value is not None) != several:
                given = "is missing" if several else f"is {value}"
                raise UsageError(
                    f"{flag} {given} with --num-processes {self.num_processes}; several processes need all three: "
                    f"--coordinator HOST:PORT --num-processes {max(2, self.num_processes)} --process-id 0, 1, ..."
                )
        if self.process_id is not None and not 0 <= self.process_id < self.num_processes:
            raise UsageError(f"--process-id is {self.process_id}; give 0 to {self.num_processes - 1}.")
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not (host and port.isdecimal() and 0 < int(port) < 2**16):
                raise UsageError(
                    f"--coordinator is {self.coordinator}; give HOST:PORT of process 0, such as 10.0.0.1:9911."
                )


def leads(options: CommonOptions) -> bool:
    """Whether this process writes; known before JAX is."""
    return getattr(options, "process_id", None) in (None, 0)


def several(options: CommonOptions) -> bool:
    """Whether the options ask for more than one process."""
    return getattr(options, "num_processes", 1) > 1


@contextlib.contextmanager
def joined(options: CommonOptions, place: Path) -> Iterator[None]:
    """The set-up that the options ask for; nothing where they ask for none. See `rnnjax.processes.joined`.

    Raises:
      UsageError: JAX is in use already, or the other processes did not come.
    """
    with contextlib.ExitStack() as stack:
        try:
            if several(options):
                stack.enter_context(_together(options, place))
            elif getattr(options, "devices", None) is not None:
                from rnnjax import sharding

                sharding.setup_process(options.devices)  # pyright: ignore[reportAttributeAccessIssue]
        except (RuntimeError, OSError) as error:
            raise UsageError(f"--devices or --num-processes: {error}") from error
        yield


def _together(options: Any, place: Path) -> contextlib.AbstractContextManager[None]:
    from rnnjax import processes

    resume = f"Finished rows and checkpoints stay in {place}: run the same commands again to go on from there."
    return processes.joined(
        options.coordinator, options.num_processes, options.process_id, device_count=options.devices, resume=resume
    )


def mesh_of(options: CommonOptions) -> "Mesh | None":
    """All devices that the options ask for, of all processes, or None where that is one.

    Raises:
      UsageError: a process has fewer devices than asked for.
    """
    if not isinstance(options, ProcessOptions):
        return None
    import jax

    from rnnjax import sharding

    devices = jax.devices()
    if options.devices is not None:
        by_process = [[d for d in devices if d.process_index == i] for i in range(jax.process_count())]
        fewest = min(len(own) for own in by_process)
        if fewest < options.devices:
            raise UsageError(f"--devices is {options.devices}, but there are {fewest}; give {fewest} or fewer.")
        devices = [device for own in by_process for device in own[: options.devices]]
    return None if len(devices) == 1 else sharding.make_mesh(devices)


def agree(what: Mapping[str, Any]) -> None:
    """Raises `UsageError` in every process unless all were started alike."""
    from rnnjax import processes

    try:
        processes.agree(what, "options, code or versions")
    except ValueError as error:
        raise UsageError(str(error)) from error


class SharedRows(RowStore):
    """The rows of process 0, which alone reads and writes them, in every process. `put_many` is a collective."""

    def _load(self) -> int:
        from rnnjax import processes

        found = super()._load() if processes.leads() else 0
        state = self._rows, self.damaged, found
        self._rows, self.damaged, found = pickle.loads(processes.from_leader(pickle.dumps(state)))
        return found

    def put_many(self, rows: Iterable[tuple[Values, Values, Arrays]]) -> list[Row]:
        from rnnjax import processes

        rows = list(rows)  # perhaps computed only now, by all processes together
        done = super().put_many(rows) if processes.leads() else []
        done = pickle.loads(processes.from_leader(pickle.dumps(done)))
        keys = [self.key(options) for options, _, _ in rows]
        if [row.key for row in done] != keys:
            raise RuntimeError(f"process 0 has finished rows {[row.key for row in done]}, this process {keys}.")
        if not processes.leads():
            self._rows |= {row.key: row for row in done}
            self._seen |= set(keys)
            self.computed += len(done)
        return done

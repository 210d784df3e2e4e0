"""`--devices --coordinator --num-processes --process-id`: one experiment on many devices, and in many processes.

Every process runs the same `measure`. Process 0 alone writes rows, figures, checkpoints and results; the others are
silent, and hold the rows that process 0 holds. A row does not depend on how many devices it was made on, beyond
rounding, so a run may go on with another number of them.
"""

import contextlib
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .options import UsageError

T = TypeVar("T")


@contextlib.contextmanager
def initialized(options: Any, folder: Path | None) -> Iterator[None]:
    """The set-up that the options ask for; nothing where they ask for none.

    Of several processes, one that meets a `UsageError` in the block says so and ends with status 2, and all with it.

    Raises:
      UsageError: JAX is in use already, or the other processes did not come or were not found.
    """
    from rnnjax import processes, sharding

    with contextlib.ExitStack() as stack:
        try:
            if options.several:
                resume = (
                    f"Finished rows and checkpoints stay in {folder}: run the same commands again to go on from there."
                )
                place = options.coordinator, options.num_processes, options.process_id
                place = (None, None, None) if options.discovered else place
                stack.enter_context(processes.initialize(*place, device_count=options.devices, resume=resume))
            elif options.devices is not None:
                sharding.setup_process(options.devices)
        except ValueError as error:
            raise UsageError(f"--coordinator auto finds no other processes ({error}); give HOST:PORT.") from error
        except (RuntimeError, OSError) as error:
            raise UsageError(f"--devices or --num-processes: {error}") from error
        try:
            yield
        except UsageError as error:
            if not options.several:
                raise
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None


def mesh(options: Any) -> Any:
    """All devices that the options ask for, of all processes, or None where that is one.

    Raises:
      UsageError: a process has fewer devices than asked for.
    """
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


def assert_equal(what: Mapping[str, Any]) -> None:
    """Raises `UsageError` in every process unless all were started with the same options, code and versions."""
    from rnnjax import processes

    try:
        processes.assert_equal(what, "options, code or versions")
    except ValueError as error:
        raise UsageError(str(error)) from error


def from_coordinator(value: T) -> T:
    """What process 0 passed in, in every process."""
    from rnnjax import processes

    return pickle.loads(processes.from_coordinator(pickle.dumps(value)))

"""Setup and shutdown of one process among several."""

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax

from rnnjax.processes.sharing import from_coordinator
from rnnjax.processes.watch import Watch, end_process
from rnnjax.sharding import setup_process

RESUME = "Run the same command again in every process to resume from what was saved."

_HEARTBEAT_SECONDS = 10  # JAX's default is 100, for which a survivor could hang if our watch failed
_VERDICT_SECONDS = 15.0  # keep-alive takes ten seconds to detect that a machine is gone


@contextlib.contextmanager
def initialize(
    coordinator: str,
    count: int,
    index: int,
    *,
    device_count: int | None = None,
    resume: str = RESUME,
    start_seconds: int = 120,
) -> Iterator[None]:
    """Within the block, this process is number `index` of `count`, and `jax.devices()` has the devices of all
    processes.

    Enter the block once per process, before anything else uses JAX. It calls `jax.distributed.initialize` with a
    heartbeat of ten seconds, selects Gloo for collectives on a CPU, turns off JAX's preemption service (which would
    swallow SIGTERM), calls `setup_process(device_count)`, and starts a thread that detects the death of a peer.

    If a peer dies, this process writes one line to standard error, with the number of the dead process and what to do,
    and exits with `LOST_STATUS`, whatever it was doing. Checkpoints on disk are kept. If an error leaves the block, the
    process exits at once with its traceback and status 1, because waiting for the peers at exit could take minutes.

    Args:
      coordinator: `host:port` of process 0, the same in every process. The port must be free there.
      count: the number of processes.
      index: the number of this process, from 0. Process 0 is the coordinator.
      device_count: the number of devices on this process's CPU. None: unchanged.
      resume: the instruction in the message about a lost peer.
      start_seconds: how long to wait for the other processes to start; after that, this process exits with
        `LOST_STATUS`.
    Raises:
      ValueError: the arguments are inconsistent.
      RuntimeError: JAX or the port is already in use.
    """
    host, _ = _address(coordinator)
    if not 0 <= index < count:
        raise ValueError(f"index is {index} for count = {count}; number the processes from 0 to {count - 1}.")
    setup_process(device_count)
    if count == 1:
        yield
        return
    _connect(coordinator, count, index, start_seconds)
    with _stdout_to_stderr():
        watch = _watching(host, count, index, resume, float(start_seconds))
    try:
        yield
    except BaseException as error:
        if _may_be_of_a_peer(error):
            time.sleep(_VERDICT_SECONDS)  # if a dead peer caused the error, the watch ends this process meanwhile
        _end(watch, error)
    watch.say_bye()
    jax.distributed.shutdown()  # waits for all processes
    watch.close()


def is_coordinator() -> bool:
    """Whether this process is the coordinator: number 0, or the only process. Only the coordinator writes files.

    Example:

      >>> is_coordinator()
      True
    """
    return jax.process_index() == 0


def several() -> bool:
    """Whether JAX runs over more than one process.

    Example:

      >>> several()
      False
    """
    return jax.process_count() > 1


def _connect(coordinator: str, count: int, index: int, seconds: int) -> None:
    if index == 0:
        _check_free(coordinator)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)
    message = (
        f"error: process {index} of {count} could not connect to the others at {coordinator} within {seconds} s; "
        f"start all {count} processes within that time, with the same coordinator and numbers 0 to {count - 1}.\n"
    )
    patience = threading.Timer(seconds, end_process, [message])  # JAX itself would abort with a page of log
    patience.daemon = True
    patience.start()
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        cluster_detection_method="deactivate",
        initialization_timeout=seconds + 60,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_HEARTBEAT_SECONDS * 30,
    )
    patience.cancel()


def _check_free(coordinator: str) -> None:
    """Raises if the port is taken; JAX would abort the process without a Python error."""
    _, port = _address(coordinator)
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        raise RuntimeError(f"port {port} of process 0 cannot be used ({error.strerror}); choose another.") from error


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirects standard output: Gloo prints a line there at the first collective."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # there may be no standard output
            sys.stdout.flush()
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        yield


def _watching(host: str, count: int, index: int, resume: str, seconds: float) -> Watch:
    """Connects every process to process 0, at a port that the processes exchange through JAX."""
    watch = Watch(index, count, resume)
    if index == 0:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, 0), family=family, backlog=count) as server:
            token = secrets.token_hex(16)
            from_coordinator(f"{server.getsockname()[1]} {token}".encode())
            watch.lead(server, token, seconds)
    else:
        port, token = from_coordinator(b"").decode().split()
        watch.follow(host, int(port), token, seconds)
    return watch


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"coordinator is {coordinator!r}; give host:port of process 0, such as '10.0.0.1:9911'.")
    return host.strip("[]"), int(port)


def _may_be_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed. Gloo raises a ValueError if it notices the failure before the call returns."""
    return isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and "Gloo " in str(error))


def _end(watch: Watch, error: BaseException) -> None:
    """Releases the peers, and exits as the error would."""
    watch.close()
    status = 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif isinstance(error, KeyboardInterrupt):
        status = 130
    else:
        traceback.print_exception(error)
    with contextlib.suppress(Exception):
        print(end="", flush=True)
    os._exit(status)

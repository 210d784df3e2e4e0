"""The explicit set-up of one process among several, and its end."""

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

from rnnjax.processes.sharing import from_leader
from rnnjax.processes.watch import Watch, end_process
from rnnjax.sharding import setup_process

RESUME = "Run the same command again in every process to go on from what is saved."

_HEARTBEAT_SECONDS = 10  # jax's own is 100, and a survivor without our watch would hang for as long
_VERDICT_SECONDS = 15.0  # keep-alive takes ten to find out that a machine is gone


@contextlib.contextmanager
def joined(
    coordinator: str,
    count: int,
    index: int,
    *,
    device_count: int | None = None,
    resume: str = RESUME,
    start_seconds: int = 120,
) -> Iterator[None]:
    """Within the block this process is number `index` of `count`, and `jax.devices()` are those of all of them.

    It is said before anything else uses JAX, once in the life of a process, and does this and no more:
    `jax.distributed.initialize` with a heartbeat of ten seconds; Gloo for collectives on a CPU; JAX's preemption
    service off, since it would swallow SIGTERM; `setup_process(device_count)`; a thread that notices a peer's death.

    If a peer dies, this process writes one line to its standard error, which process and what to do, and ends with
    `LOST_STATUS`, whatever it was doing; work on the disk is kept. An error that leaves the block ends the process at
    once with its traceback and status 1, as waiting at exit for peers that wait for this one would take minutes.

    Args:
      coordinator: `host:port` of process 0, the same in every process; the port has to be free there.
      count: how many processes there are.
      index: which of them this is, from 0. Process 0 is the one that others meet at.
      device_count: as how many devices this process's CPU counts. None: as it is.
      resume: what the line about a lost peer says to do.
      start_seconds: how long to wait for the others to start; after that the process ends as if one were lost.
    Raises:
      ValueError: numbers that make no sense.
      RuntimeError: JAX is in use already, or the port is.
    """
    host, _ = _address(coordinator)
    if not 0 <= index < count:
        raise ValueError(f"index is {index} for count = {count}; number the processes from 0 to {count - 1}.")
    setup_process(device_count)
    if count == 1:
        yield
        return
    _initialize(coordinator, count, index, start_seconds)
    with _stdout_to_stderr():
        watch = _watching(host, count, index, resume, float(start_seconds))
    try:
        yield
    except BaseException as error:
        if _may_be_of_a_peer(error):
            time.sleep(_VERDICT_SECONDS)  # did it fail since a peer died? Then the watch ends this process meanwhile
        _end(watch, error)
    watch.say_bye()
    jax.distributed.shutdown()  # waits for all
    watch.close()


def leads() -> bool:
    """Whether this is the process that writes: number 0, or the only one.

    Example:

      >>> leads()
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


def _initialize(coordinator: str, count: int, index: int, seconds: int) -> None:
    if index == 0:
        _check_free(coordinator)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)
    message = (
        f"error: process {index} of {count} has not met the others at {coordinator} within {seconds} s; start all "
        f"{count} processes within that time, with the same coordinator and numbers 0 to {count - 1}, each once.\n"
    )
    patience = threading.Timer(seconds, end_process, [message])  # JAX itself would abort, with a page of its log
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
    """JAX would end the process without a word of Python."""
    _, port = _address(coordinator)
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        raise RuntimeError(f"port {port} of process 0 cannot be used ({error.strerror}); choose another.") from error


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """At the first collective Gloo prints a line to the standard output, which belongs to results."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # there may be none
            sys.stdout.flush()
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        yield


def _watching(host: str, count: int, index: int, resume: str, seconds: float) -> Watch:
    """Connects every process to process 0, at a port that the processes tell each other through JAX."""
    watch = Watch(index, count, resume)
    if index == 0:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, 0), family=family, backlog=count) as server:
            token = secrets.token_hex(16)
            from_leader(f"{server.getsockname()[1]} {token}".encode())
            watch.lead(server, token, seconds)
    else:
        port, token = from_leader(b"").decode().split()
        watch.follow(host, int(port), token, seconds)
    return watch


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"coordinator is {coordinator!r}; give host:port of process 0, such as '10.0.0.1:9911'.")
    return host.strip("[]"), int(port)


def _may_be_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed; Gloo's failure comes as a ValueError where it is noticed before the call returns."""
    return isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and "Gloo " in str(error))


def _end(watch: Watch, error: BaseException) -> None:
    """Lets the peers go, and ends this process as its error would."""
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

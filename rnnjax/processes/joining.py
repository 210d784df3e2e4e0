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
from typing import Any

import jax

from rnnjax.processes.sharing import from_coordinator
from rnnjax.processes.watch import Watch, end_process
from rnnjax.sharding import setup_process

RESUME = "Run the same command again in every process to resume from what was saved."

_HEARTBEAT_SECONDS = 10  # JAX's default is 100, for which a survivor could hang if our watch failed
_VERDICT_SECONDS = 15.0  # keep-alive takes ten seconds to detect that a machine is gone


@contextlib.contextmanager
def initialize(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    device_count: int | None = None,
    resume: str = RESUME,
    start_seconds: int = 120,
) -> Iterator[None]:
    """Within the block, this process is number `index` of `count`, and `jax.devices()` has the devices of all
    processes.

    Enter it once per process, before anything else uses JAX. It calls `jax.distributed.initialize` with Gloo for
    collectives on a CPU and without JAX's preemption service, which would swallow SIGTERM, and watches the peers. If
    one dies, this process writes its number and what to do to standard error, and exits with `LOST_STATUS`, whatever it
    was doing. An error that leaves the block ends the process at once, since waiting for the peers could take minutes.

    Args:
      coordinator: `host:port` of process 0, the same in every process. The port must be free there. None: JAX discovers
        it, `count` and `index`, as under SLURM or Open MPI.
      count: the number of processes.
      index: the number of this process, from 0. Process 0 is the coordinator.
      device_count: the number of devices on this process's CPU. None: unchanged.
      resume: the instruction in the message about a lost peer.
      start_seconds: how long to wait for the other processes to start, before exiting with `LOST_STATUS`.
    Raises:
      ValueError: the arguments are inconsistent, or nothing was discovered.
      OSError: the port is in use.
      RuntimeError: JAX is in use.
    """
    host, port, place = None, "", {}
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"coordinator is {coordinator!r}; give host:port of process 0, such as '10.0.0.1:9911'.")
        if count is None or index is None or not 0 <= index < count:
            raise ValueError(
                f"index is {index} for count = {count}; number the processes from 0 to {(count or 1) - 1}."
            )
        place = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
    setup_process(device_count)
    if count == 1:
        yield
        return
    if index == 0 and port:
        socket.create_server(("", int(port))).close()  # raises if the port is taken; JAX would abort
    _connect(place, start_seconds)
    watch = Watch(jax.process_index(), jax.process_count(), resume)
    with _stdout_to_stderr():
        _start(watch, host, float(start_seconds))
    try:
        yield
    except BaseException as error:
        if _may_be_of_a_peer(error):
            time.sleep(_VERDICT_SECONDS)  # if a dead peer caused the error, the watch ends this process meanwhile
        watch.close()
        if not isinstance(error, (SystemExit, KeyboardInterrupt)):
            traceback.print_exception(error)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        status = error.code if isinstance(error, SystemExit) else 130 if isinstance(error, KeyboardInterrupt) else 1
        os._exit(status if isinstance(status, int) else int(status is not None))
    watch.tell("bye\n")
    jax.distributed.shutdown()  # waits for all processes
    watch.close()


def _may_be_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed. Gloo raises a ValueError if it notices the failure before the call returns."""
    return isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and "Gloo " in str(error))


def _connect(place: dict[str, Any], seconds: int) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)
    told = f"error: could not connect to the other processes within {seconds} s ({place or 'discovered'}); start all "
    told += "of them within that time, with the same coordinator and count, and numbers from 0 to count - 1.\n"
    patience = threading.Timer(seconds, end_process, [told])  # JAX itself would abort with a page of log
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            **place,
            cluster_detection_method="deactivate" if place else None,
            initialization_timeout=seconds + 60,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS * 30,
        )
    finally:
        patience.cancel()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirects standard output: Gloo prints a line there at the first collective."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _start(watch: Watch, host: str | None, seconds: float) -> None:
    """Connects every process to process 0, at an address that the processes exchange through JAX."""
    host = (host or socket.gethostname()).strip("[]")
    if jax.process_index() > 0:
        host, port, token = from_coordinator(b"").decode().split()
        watch.follow(host, int(port), token, seconds)
        return
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    with socket.create_server((host, 0), family=family, backlog=jax.process_count()) as server:
        token = secrets.token_hex(16)
        from_coordinator(f"{host} {server.getsockname()[1]} {token}".encode())
        watch.lead(server, token, seconds)

"""Training over several processes: `jax.distributed`, with a clear message and exit when one process dies.

    with rnnjax.processes.initialize("10.0.0.1:9911", count=2, index=0):     # before anything uses JAX
        mesh = rnnjax.sharding.make_mesh()                                   # the devices of all processes
        ...                                                                  # every process runs the same program

Every process must make the same calls of the other functions in the same order.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from rnnjax.sharding import setup_process

LOST_STATUS = 75
"""Exit status of a survivor: EX_TEMPFAIL of sysexits.h, which means that a retry may succeed."""


@contextlib.contextmanager
def initialize(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    device_count: int | None = None,
    resume: str = "Run the same command again in every process to resume from what was saved.",
    start_seconds: int = 120,
) -> Iterator[None]:
    """In the block, this process is number `index` of `count`, and `jax.devices()` has the devices of all processes.

    Enter it once, before anything else uses JAX. It calls `jax.distributed.initialize`, with Gloo on a CPU. If another
    process dies, this one writes its number and what to do to standard error, and exits with `LOST_STATUS`, whatever it
    was doing. An error that leaves the block ends the process at once; waiting for the others could take minutes.

    Args:
      coordinator: `host:port` of process 0, the same in every process, with a port that is free there. None: JAX
        discovers it, `count` and `index`, as under SLURM or Open MPI.
      count, index: the number of processes, and of this one; process 0 is the coordinator.
      device_count, resume: devices of this process's CPU, None: unchanged; the advice when a process is lost.
      start_seconds: how long to wait for the others to start, before exiting with `LOST_STATUS`.
    Raises:
      ValueError: the arguments are inconsistent, or nothing was discovered.
      OSError, RuntimeError: the port, or JAX, is in use.
    """
    host, place = socket.gethostname(), {}
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"coordinator is {coordinator!r}; give host:port of process 0, such as '10.0.0.1:9911'.")
        if count is None or index is None or not 0 <= index < count:
            raise ValueError(f"index is {index}, count {count}; number the processes from 0 to {(count or 1) - 1}.")
        place = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
        if index == 0 and count > 1:
            socket.create_server(("", int(port))).close()  # raises if the port is taken; JAX would abort
    setup_process(device_count)
    if count == 1:
        yield
        return
    watch = _started(place, host.strip("[]"), resume, start_seconds)
    try:
        yield
    except BaseException as error:
        if _may_be_of_a_peer(error):
            time.sleep(15)  # if a dead process caused it, the watch ends this one meanwhile
        watch.close()
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            code = getattr(error, "code", 130)  # of SystemExit
            end_process("", code if isinstance(code, int) else int(code is not None))
        end_process(traceback.format_exc(), 1)
    watch.tell("bye\n")
    jax.distributed.shutdown()  # waits for all processes
    watch.close()


def is_coordinator() -> bool:
    """Whether this is process 0, or the only process, which alone writes metrics and results."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether JAX runs over more than one process."""
    return jax.process_count() > 1


def from_coordinator(data: bytes) -> bytes:
    """Broadcasts `data` of process 0 to every process."""
    size = int(broadcast_one_to_all(np.int32(len(data))))  # the others must pass an array of the same size
    mine = np.frombuffer(data.ljust(size + 1, b"\0")[: size + 1], np.uint8)  # an array may not be empty
    return np.asarray(broadcast_one_to_all(mine)).astype(np.uint8).tobytes()[:size]


def largest(number: int) -> int:
    """The largest `number` (32 bits) of all processes, in every process."""
    return int(np.max(process_allgather(np.int32(number))))


def assert_equal(what: Mapping[str, Any], told: str = "options") -> None:
    """Raises a ValueError in every process unless all hold equal JSON values, which `told` describes; it names them."""
    mine = json.loads(json.dumps(dict(what)))
    first = json.loads(from_coordinator(json.dumps(mine).encode()))
    both = [(name, first.get(name), mine.get(name)) for name in sorted(mine.keys() | first.keys())]
    values = "; ".join(f"{name} is {there!r} there, {here!r} here" for name, there, here in both if there != here)
    if differ := np.flatnonzero(process_allgather(np.int32(bool(values)))).tolist():
        who = jax.process_index() if values else ", ".join(map(str, differ))
        raise ValueError(
            f"process {who} has other {told} than process 0: {values or 'its own output lists them'}. Start all with "
            "the same command except its number."
        )


def _may_be_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed. Gloo raises a ValueError if it notices the failure before the call returns."""
    return isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and "Gloo " in str(error))


def _started(place: dict[str, Any], host: str, resume: str, seconds: int) -> "Watch":
    """Starts JAX, and connects every process to process 0, at an address that they exchange through JAX."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    told = f"error: not all processes started within {seconds} s ({place or 'discovered'}); start all of them at once, "
    told += "with the same coordinator and count, and numbers from 0 to count - 1.\n"
    patience = threading.Timer(seconds, end_process, [told])  # JAX itself would abort with a page of log
    patience.daemon = True
    patience.start()
    stdout = os.dup(1)
    try:
        jax.distributed.initialize(
            **place,
            cluster_detection_method="deactivate" if place else None,
            initialization_timeout=seconds + 60,
            heartbeat_timeout_seconds=10,  # how long a survivor could hang if the watch failed
        )
        os.dup2(2, 1)  # Gloo prints a line at the first collective
        watch = Watch(jax.process_index(), jax.process_count(), resume)
        if not is_coordinator():
            watch.follow(*from_coordinator(b"").decode().split())
            return watch
        dual = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
        with socket.create_server(("", 0), backlog=jax.process_count(), **dual) as server:
            from_coordinator(f"{host} {server.getsockname()[1]}".encode())
            watch.lead(server)
        return watch
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        patience.cancel()


class Watch:
    """The TCP connections of process 0 with each of the others, each read by a thread.

    When a process is killed, its kernel closes them; when a machine is gone, keep-alive packets go unanswered.

        others to process 0:    their own "<number>" once,   "bye"  when the work is done
        process 0 to others:    "<number>" of the lost one,  "bye"  when the work is done
    """

    def __init__(self, index: int, count: int, resume: str) -> None:
        self._index, self._count, self._resume = index, count, resume
        self._links: dict[int, socket.socket] = {}
        self._over = threading.Lock()  # taken by the first loss, or by `close`, and never released

    def lead(self, server: socket.socket) -> None:
        while len(self._links) < self._count - 1:
            link, _ = server.accept()
            link.settimeout(10)
            lines = link.makefile(errors="replace")
            with contextlib.suppress(OSError, ValueError):  # it is not one of our processes
                self.listen(int(lines.readline(200)), link, lines)

    def follow(self, host: str, port: str) -> None:
        link = socket.create_connection((host, int(port)))
        link.sendall(f"{self._index}\n".encode())
        self.listen(0, link, link.makefile())

    def listen(self, index: int, link: socket.socket, lines: TextIO) -> None:
        link.settimeout(None)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}.items():
            with contextlib.suppress(OSError, AttributeError):  # not available on every system
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._links[index] = link
        threading.Thread(target=self._hear, args=(index, lines), daemon=True).start()

    def _hear(self, index: int, lines: TextIO) -> None:
        line = ""
        with contextlib.suppress(OSError):
            line = lines.readline()
        if line != "bye\n" and self._over.acquire(blocking=False):
            self._lost(int(line) if line.endswith("\n") else index)

    def _lost(self, lost: int) -> None:
        self.tell(f"{lost}\n", but=lost)
        end_process(
            f"error: process {lost} of {self._count} is gone (killed, or stopped by an error in its output); "
            f"process {self._index} cannot continue alone and stops. {self._resume}\n"
        )

    def tell(self, line: str, but: int | None = None) -> None:
        for index in self._links.keys() - {but}:
            with contextlib.suppress(OSError):
                self._links[index].sendall(line.encode())

    def close(self) -> None:
        """Ends the connections, which the others take for a loss unless they heard "bye"."""
        self._over.acquire(blocking=False)
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


def end_process(message: str, status: int = LOST_STATUS) -> None:
    """Writes a message and exits at once, even if other threads are waiting."""
    os.write(2, message.encode())
    flushed = threading.Thread(target=sys.stdout.flush, daemon=True)  # may block on a full pipe
    flushed.start()
    flushed.join(1.0)
    os._exit(status)

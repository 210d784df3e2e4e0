"""Detects at once when another process dies, reports it in one line, and exits.

Every process holds one TCP connection to process 0. When a process is killed, its kernel closes the connection; when a
machine leaves the network, keep-alive packets go unanswered. Without this watch, a survivor would wait in a collective
until `jax.distributed` aborts it with a page of log, and if process 0 dies, without its number.

    peer to process 0:     "<token> <number>"  once,    "bye"  when its work is done
    process 0 to peers:    "<number>" of the lost one,  "bye"  when its work is done
"""

import contextlib
import os
import socket
import sys
import threading
from typing import TextIO

LOST_STATUS = 75
"""Exit status of a survivor: EX_TEMPFAIL of sysexits.h, which means that a retry may succeed."""

_KEEP_ALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}  # detects a lost machine after ten seconds


class Watch:
    """The connections of process `index` of `count`, each read by a thread; `resume` is the advice when one is lost."""

    def __init__(self, index: int, count: int, resume: str) -> None:
        self._index, self._count, self._resume = index, count, resume
        self._links: dict[int, tuple[socket.socket, TextIO]] = {}
        self._over = threading.Lock()  # taken by the first loss, or by `close`, and never released

    def lead(self, server: socket.socket, token: str, timeout: float) -> None:
        """Process 0: accepts the connections of all others."""
        server.settimeout(timeout)
        while len(self._links) < self._count - 1:
            link, _ = server.accept()
            link.settimeout(timeout)
            lines = link.makefile(errors="replace")
            words = lines.readline(200).split()
            if len(words) == 2 and words[0] == token:
                self._links[int(words[1])] = link, lines
            else:
                link.close()  # not one of our processes
        self.listen()

    def follow(self, host: str, port: int, token: str, timeout: float) -> None:
        """The other processes: connect to process 0."""
        link = socket.create_connection((host, port), timeout)
        link.sendall(f"{token} {self._index}\n".encode())
        self._links[0] = link, link.makefile()
        self.listen()

    def listen(self) -> None:
        """Starts the threads."""
        for index, (link, _) in self._links.items():
            link.settimeout(None)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEP_ALIVE.items():
                with contextlib.suppress(OSError, AttributeError):  # not available on every system
                    link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            threading.Thread(target=self._hear, args=(index,), daemon=True).start()

    def _hear(self, index: int) -> None:
        line = ""
        with contextlib.suppress(OSError):
            line = self._links[index][1].readline()
        if line != "bye\n" and self._over.acquire(blocking=False):
            self._lost(int(line) if line.endswith("\n") else index)

    def _lost(self, lost: int) -> None:
        """Reports that process `lost` is gone, to the user and to the peers, and exits."""
        self.tell(f"{lost}\n", but=lost)
        end_process(
            f"error: process {lost} of {self._count} is gone (killed, or stopped by an error in its output); "
            f"process {self._index} cannot continue alone and stops. {self._resume}\n"
        )

    def tell(self, line: str, but: int | None = None) -> None:
        """Sends a line; after "bye", closing the connections is not an error."""
        for index, (link, _) in self._links.items():
            if index != but:
                with contextlib.suppress(OSError):
                    link.sendall(line.encode())

    def close(self) -> None:
        """Ends the connections, which a peer takes for a loss unless it heard "bye"."""
        self._over.acquire(blocking=False)
        for link, _ in self._links.values():
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


def end_process(message: str) -> None:
    """Writes a message and exits at once, even if other threads are waiting."""
    os.write(2, message.encode())
    flushed = threading.Thread(target=sys.stdout.flush, daemon=True)  # may block on a full pipe
    flushed.start()
    flushed.join(1.0)
    os._exit(LOST_STATUS)

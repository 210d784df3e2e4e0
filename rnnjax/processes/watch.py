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
        self._links: dict[int, socket.socket] = {}
        self._over = threading.Lock()  # taken by the first loss, or by `close`, and never released

    def lead(self, server: socket.socket, token: str, timeout: float) -> None:
        """Process 0: accepts the connections of all others."""
        server.settimeout(timeout)
        heard: dict[int, TextIO] = {}
        while len(heard) < self._count - 1:
            link, _ = server.accept()
            link.settimeout(timeout)
            lines = link.makefile(errors="replace")
            words = lines.readline(200).split()
            if len(words) == 2 and words[0] == token:
                self._links[int(words[1])], heard[int(words[1])] = link, lines
            else:
                link.close()  # not one of our processes
        for index, lines in heard.items():
            self._listen(index, lines)

    def follow(self, host: str, port: int, token: str, timeout: float) -> None:
        """The other processes: connect to process 0."""
        self._links[0] = socket.create_connection((host, port), timeout)
        self._links[0].sendall(f"{token} {self._index}\n".encode())
        self._listen(0, self._links[0].makefile())

    def _listen(self, index: int, lines: TextIO) -> None:
        link = self._links[index]
        link.settimeout(None)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            with contextlib.suppress(OSError, AttributeError):  # not available on every system
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        threading.Thread(target=self._hear, args=(index, lines), daemon=True).start()

    def _hear(self, index: int, lines: TextIO) -> None:
        line = ""
        with contextlib.suppress(OSError):
            line = lines.readline()
        if line != "bye\n" and self._over.acquire(blocking=False):
            self._lost(int(line) if line.endswith("\n") else index)

    def _lost(self, lost: int) -> None:
        """Reports that process `lost` is gone, to the user and to the peers, and exits."""
        self._tell(f"{lost}\n", [index for index in self._links if index not in (0, lost)])
        end_process(
            f"error: process {lost} of {self._count} is gone (killed, or stopped by an error in its output); "
            f"process {self._index} cannot continue alone and stops. {self._resume}\n"
        )

    def _tell(self, line: str, peers: list[int]) -> None:
        for index in peers:
            with contextlib.suppress(OSError):
                self._links[index].sendall(line.encode())

    def say_bye(self) -> None:
        """Announces that this process is done, so that closing its connections is not an error."""
        self._tell("bye\n", [*self._links])

    def close(self) -> None:
        """Ends the connections, which a peer takes for a loss unless it heard "bye"."""
        self._over.acquire(blocking=False)
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()


def end_process(message: str) -> None:
    """Writes a message and exits at once, even if other threads are waiting."""
    os.write(2, message.encode())
    flushed = threading.Thread(target=sys.stdout.flush, daemon=True)  # may block on a full pipe
    flushed.start()
    flushed.join(1.0)
    os._exit(LOST_STATUS)

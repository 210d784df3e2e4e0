"""Detects at once when another process dies, reports it in one line, and exits.

Every process holds one TCP connection to process 0. When a process is killed, its kernel closes the connection; when a
machine leaves the network, keep-alive packets go unanswered. Without this watch, a survivor would wait in a collective
until `jax.distributed` aborts it with a page of log.

    peer to process 0:     "<token> <number>"  once,    "bye"  when its work is done
    process 0 to peers:    "lost <number>"     once,    "bye"  when its work is done
"""

import contextlib
import os
import selectors
import socket
import sys
import threading
from dataclasses import dataclass, field

LOST_STATUS = 75
"""Exit status of a survivor: EX_TEMPFAIL of sysexits.h, which means that a retry may succeed."""

_ALIVE_IDLE, _ALIVE_EVERY, _ALIVE_TRIES = 4, 2, 3  # seconds, seconds, packets: detects a lost machine after ten seconds


@dataclass
class Watch:
    """The connections of this process, and the thread that reads them.

    Attributes:
      index: the number of this process. count: the number of processes.
      resume: the instruction in the message.
    """

    index: int
    count: int
    resume: str
    _links: dict[int, socket.socket] = field(default_factory=dict)
    _leaving: bool = False

    def lead(self, server: socket.socket, token: str, timeout: float) -> None:
        """Process 0: accepts the connections of all others."""
        server.settimeout(timeout)
        while len(self._links) < self.count - 1:
            link, _ = server.accept()
            link.settimeout(timeout)
            words = _line(link).split()
            if len(words) == 2 and words[0] == token and words[1].isdecimal():
                self._links[int(words[1])] = link
            else:
                link.close()  # not one of our processes
        server.close()
        self._start()

    def follow(self, host: str, port: int, token: str, timeout: float) -> None:
        """The other processes: connect to process 0."""
        link = socket.create_connection((host, port), timeout)
        link.sendall(f"{token} {self.index}\n".encode())
        self._links[0] = link
        self._start()

    def _start(self) -> None:
        selector = selectors.DefaultSelector()
        for index, link in self._links.items():
            link.settimeout(None)
            _keep_alive(link)
            selector.register(link, selectors.EVENT_READ, (index, bytearray()))
        threading.Thread(target=self._read, args=(selector,), name="rnnjax peers", daemon=True).start()

    def _read(self, selector: selectors.BaseSelector) -> None:
        with selector:
            while selector.get_map():
                for key, _ in selector.select():
                    index, heard = key.data
                    try:
                        data = key.fileobj.recv(4096)  # pyright: ignore[reportAttributeAccessIssue]
                    except OSError:
                        data = b""
                    heard += data
                    lines = bytes(heard).split(b"\n")
                    if b"bye" in lines:
                        selector.unregister(key.fileobj)
                    elif (told := [line for line in lines[:-1] if line.startswith(b"lost ")]) or not data:
                        self._end(int(told[0].split()[1]) if told else index)
                        return

    def _end(self, lost: int) -> None:
        """Reports that process `lost` is gone, to the user and to the peers, and exits."""
        for index, link in self._links.items():
            if self.index == 0 and index != lost:
                with contextlib.suppress(OSError):
                    link.sendall(f"lost {lost}\n".encode())
        if self._leaving:  # this process exits with its own error, which is reported instead
            return
        end_process(
            f"error: process {lost} of {self.count} is gone (killed, or stopped by an error in its output); "
            f"process {self.index} cannot continue alone and stops. {self.resume}\n"
        )

    def say_bye(self) -> None:
        """Announces that this process is done, so that closing its connections is not an error."""
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.sendall(b"bye\n")

    def close(self) -> None:
        self._leaving = True
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


def _line(link: socket.socket) -> str:
    heard = b""
    while not heard.endswith(b"\n") and len(heard) < 200:
        data = link.recv(1)
        if not data:
            break
        heard += data
    return heard.decode(errors="replace")


def _keep_alive(link: socket.socket) -> None:
    if link.family not in (socket.AF_INET, socket.AF_INET6):
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("KEEPIDLE", _ALIVE_IDLE), ("KEEPINTVL", _ALIVE_EVERY), ("KEEPCNT", _ALIVE_TRIES)):
        if hasattr(socket, f"TCP_{name}"):  # not available on every system
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"), value)

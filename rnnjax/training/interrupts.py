"""Treats SIGTERM and Ctrl-C as a request to save and exit after the current dispatch."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Request:
    """A request to exit.

    Attributes:
      signal: the number of the signal, or None if there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def leave(self) -> None:
        """Exits as the signal would have: KeyboardInterrupt, or exit status 128 + signal."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextlib.contextmanager
def listening() -> Iterator[Request]:
    """Within the block, SIGTERM and the first Ctrl-C are only recorded; a second Ctrl-C interrupts at once.

    Only the main thread can have signal handlers; in other threads this does nothing.
    """
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.signal is not None:
            raise KeyboardInterrupt
        request.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

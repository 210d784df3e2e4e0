"""SIGTERM and Ctrl-C as a request, which training meets after its current chunk: save, then leave."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Request:
    """Whether somebody asked the process to end.

    Attributes:
      signal: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def leave(self) -> None:
        """Ends the process as the signal would have: KeyboardInterrupt, or exit status 128 + signal."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextlib.contextmanager
def listening() -> Iterator[Request]:
    """Within the block SIGTERM and a first Ctrl-C are only noted; a second Ctrl-C interrupts at once.

    Handlers belong to the main thread: elsewhere nothing is changed, and nothing noted.
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

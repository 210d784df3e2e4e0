"""Treats SIGTERM and Ctrl-C as a request to save and exit after the current dispatch."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Request:
    """A request to exit; `signal` is the number of the signal, or None."""

    signal: int | None = None

    def leave(self) -> None:
        """Exits as the signal would have: KeyboardInterrupt, or exit status 128 + signal."""
        if self.signal is not None:
            raise KeyboardInterrupt if self.signal == signal.SIGINT else SystemExit(128 + self.signal)


@contextlib.contextmanager
def listening() -> Iterator[Request]:
    """Records SIGTERM and the first Ctrl-C; a second interrupts. Threads but the main one cannot, and do nothing."""
    request = Request()

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and request.signal is not None:
            raise KeyboardInterrupt
        request.signal = number

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT) if main}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

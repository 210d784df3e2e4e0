"""A real browser for a test: headless Chromium over the DevTools protocol, on a pipe, with the standard library alone.

The protocol: JSON messages ended by a zero byte, to the browser on its descriptor 3 and from it on 4.
https://chromedevtools.github.io/devtools-protocol
"""

import contextlib
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)

_FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe
"""
_PATIENCE = 60.0  # seconds for one answer


class Browser:
    """One page of a running browser; `events` are all that it has told."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._buffer, self._count = to_browser, from_browser, b"", 0
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result; what comes in between goes to `events`."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait_for(self, method: str) -> None:
        """Reads on until an event of this name has come."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            data = os.read(self._from, 1 << 20) if ready else b""
            assert data, "the browser has gone, or says nothing"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A fresh browser, ended when the block ends."""
    import fcntl  # not on every system, nor is it needed where there is no Chromium

    assert CHROMIUM is not None
    down, up = os.pipe(), os.pipe()
    # Copies beyond 4, so that making 3 and 4 in the child runs over neither
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (down[0], up[1]))
    actions = [(os.POSIX_SPAWN_DUP2, reading, 3), (os.POSIX_SPAWN_DUP2, writing, 4)]
    actions += [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    command = [CHROMIUM, *_FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
    process = os.posix_spawn(CHROMIUM, command, os.environ, file_actions=actions)  # no fork: JAX has threads
    for end in (down[0], up[1], reading, writing):
        os.close(end)
    try:
        yield Browser(down[1], up[0])
    finally:
        os.close(down[1])
        os.close(up[0])
        _end(process)


def _end(process: int) -> None:
    """Asks the browser to leave, waits for it, and insists after ten seconds."""
    os.kill(process, signal.SIGTERM)
    for _ in range(100):
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        time.sleep(0.1)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


class Seen(NamedTuple):
    """What a page did and looks like at one width."""

    complaints: list[str]  # console messages, exceptions and what the browser itself logged, a blocked request too
    requests: list[str]  # addresses asked for, but for the page itself and data inside it
    images: list[tuple[str, bool]]  # alt, and whether it is shown
    overflow_px: int  # how much wider than the window the page is
    dead_links: list[str]  # fragments that lead nowhere
    pdf_bytes: int  # of the page as printed


def look(page: Browser, path: Path, width: int = 390, height: int = 844) -> Seen:
    """Opens a file at the width of a phone and says what happened."""
    page.events.clear()
    for domain in ("Page", "Runtime", "Log", "Network"):
        page.call(f"{domain}.enable")
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)
    address = path.resolve().as_uri()
    page.call("Page.navigate", url=address)
    page.wait_for("Page.loadEventFired")
    images = page.evaluate("[...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0])")
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    dead = page.evaluate(
        "[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))"
        ".filter(h => !h.startsWith('#') || !document.getElementById(h.slice(1)))"
    )
    printed = page.call("Page.printToPDF", transferMode="ReturnAsBase64")["data"]
    complaints, requests = [], []
    for event in page.events:
        params = event.get("params", {})
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            complaints.append(json.dumps(params))
        if event.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url != address and not url.startswith("data:"):
                requests.append(url)
    return Seen(complaints, requests, [(alt, shown) for alt, shown in images], overflow, dead, len(printed))

"""Reads a built manual as a visitor does: `python -m tests.manual_pages results/manual`.

Every page: links within the manual lead somewhere, fragments too, and every image has words. With Chromium, also, at
the width of a desk and of a phone: nothing in the console, every image is shown, and nothing is wider than the window.
Links to other sites are not followed. `--screenshots FOLDER` keeps pictures.
"""

import argparse
import base64
import html.parser
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.experiments.browser import CHROMIUM, Browser, browser

WIDTHS = (1280, 390)


class Page(html.parser.HTMLParser):
    """The links, anchors and images of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.images: list[tuple[str, str]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.images.append((found.get("src", ""), found.get("alt", "")))


def complaints(folder: Path) -> Iterator[str]:
    """What is wrong in the files themselves."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for link in page.links:
            where = urllib.parse.urlsplit(link)
            if where.scheme or where.netloc:
                continue
            fragment = urllib.parse.unquote(where.fragment)
            target = (path.parent / urllib.parse.unquote(where.path)).resolve() if where.path else path
            if not target.is_file():
                yield f"{name}: a link to {link}, which is not there"
            elif fragment and target in pages and fragment not in pages[target].anchors:
                yield f"{name}: a link to {link}, whose page has no such place"
        for source, alt in page.images:
            file = Path(urllib.parse.urlsplit(source).path).name
            if not alt.strip() or alt.strip() == file or alt.endswith((".png", ".svg")):
                yield f"{name}: no words for the image {source[:80]}"


def visited(folder: Path, only: list[str], screenshots: Path | None) -> Iterator[str]:
    """What is wrong in a browser."""
    paths = [folder / f"{name}.html" for name in only] or sorted(folder.rglob("*.html"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, browser(Path(profile)) as page:
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        for path in paths:
            name = path.relative_to(folder).with_suffix("").as_posix()
            for width in WIDTHS:
                yield from (f"{name} at {width} px: {said}" for said in _open(page, path, width))
                if screenshots:
                    picture = page.call("Page.captureScreenshot", format="png")["data"]
                    screenshots.mkdir(parents=True, exist_ok=True)
                    (screenshots / f"{name.replace('/', '-')}-{width}.png").write_bytes(base64.b64decode(picture))


def _open(page: Browser, path: Path, width: int) -> Iterator[str]:
    page.events.clear()
    size: dict[str, Any] = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 800}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    page.call("Page.navigate", url=path.resolve().as_uri())
    page.wait_for("Page.loadEventFired")
    lazy = "for (const image of document.images) image.loading = 'eager'"
    page.evaluate(lazy)
    for source, shown in page.evaluate("[...document.images].map(i => [i.src, i.complete && i.naturalWidth > 0])"):
        if not shown:
            yield f"the image {source[-80:]} is not shown"
    over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if over > 0:
        yield f"{over} px wider than the window"
    for event in page.events:
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            yield f"the console says {str(event['params'])[:300]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="pages to open in the browser, such as cells/LSTM; all")
    parser.add_argument("--screenshots", type=Path, help="of the pages that are opened")
    given = parser.parse_args()
    found = list(complaints(given.folder))
    if CHROMIUM is None:
        print("Chromium is not here: files only")
    else:
        found += visited(given.folder, given.only, given.screenshots)
    print("\n".join([*found, f"{len(list(given.folder.rglob('*.html')))} pages, {len(found)} complaints"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

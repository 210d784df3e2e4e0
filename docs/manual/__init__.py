"""Writes the pages of the manual that follow from docstrings and committed results."""

from pathlib import Path


def write_page(path: Path, text: str) -> None:
    """Writes a page, unless it has the same text: Sphinx reads pages again that are newer than their last build."""
    if not path.exists() or path.read_text("utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def clear(folder: Path, kept: set[str]) -> None:
    """Removes the pages of an earlier build that are not written any more."""
    for page in folder.glob("*"):
        if page.name not in kept:
            page.unlink()

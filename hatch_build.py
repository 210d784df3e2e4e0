"""The README as the package index shows it: its links lead to the repository, whose address is `Home` in pyproject."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PLACEHOLDER = "HOME_URL"


def absolute(text: str, home: str) -> str:
    """A page whose relative links lead to the files of the repository `home`; as it was if that is the placeholder."""
    if home == PLACEHOLDER:
        return text

    def link(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        return f"{image}[{words}]({home.rstrip('/')}/{'raw' if image else 'blob'}/main/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)", link, text)


class Readme(MetadataHookInterface):
    """Fills in `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Home"])}

"""Says what is in the way of a release: `python .ci/may_release.py v0.2.0`. Exit status 1 if anything is."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "HOME_URL"


def version(root: Path) -> str:
    """`rnnjax.__version__`, read and not imported."""
    return re.findall(r'^__version__ = "(.*)"$', (root / "rnnjax" / "__init__.py").read_text(), re.MULTILINE)[0]


def obstacles(tag: str, root: Path = ROOT) -> list[str]:
    """What must be changed before this tag can be published."""
    found, here = [], version(root)
    if tag != f"v{here}":
        found.append(f"the tag is {tag}, but rnnjax.__version__ is {here}: the tag must be v{here}")
    home = tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Home"]
    if home == PLACEHOLDER or not home.startswith("https://"):
        found.append(f"Home in pyproject.toml is {home}: write the address of the repository")
    if f"\nversion: {here}\n" not in (root / "CITATION.cff").read_text():
        found.append(f"CITATION.cff has another version than {here}")
    heading = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    if not re.fullmatch(rf"{re.escape(here)} \(\d{{4}}-\d\d-\d\d\)", heading):
        found.append(f"CHANGELOG.md begins with {heading}: it must be {here} and the day, such as (2026-01-31)")
    return found


if __name__ == "__main__":
    found = obstacles(*sys.argv[1:2])
    print("\n".join(found) or f"{sys.argv[1]} can be released")
    sys.exit(bool(found))

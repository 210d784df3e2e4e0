"""Compares given names with known names, for error messages that suggest the right one."""

import difflib
from collections.abc import Collection, Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion of the known name closest to `name`; empty if none is close.

    Example:

      >>> nearest("hn_bias", ["hn.bias", "hr.kernel"])
      " (did you mean 'hn.bias'?)"
      >>> nearest("hn_bias", ["kernel"])
      ''
    """
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def discrepancies(given: Collection[str], expected: Collection[str], others: Collection[str] = ()) -> str:
    """Describes which names are unknown and which are missing; empty if there are none.

    Args:
      others: further valid names, which may be suggested too.

    Example:

      >>> discrepancies(["i.kernel", "h.kernle"], ["i.kernel", "h.kernel"])
      "'h.kernle' is unknown (did you mean 'h.kernel'?), 'h.kernel' is missing"
    """
    unknown = [name for name in given if name not in expected]
    missing = [name for name in expected if name not in given]
    found = [f"{name!r} is unknown{nearest(name, missing) or nearest(name, [*expected, *others])}" for name in unknown]
    return ", ".join(found + [f"{name!r} is missing" for name in missing])

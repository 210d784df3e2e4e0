"""Leaves out the doctests of doors to libraries that are not installed."""

import importlib.util

collect_ignore = [f"rnnjax/{name}.py" for name in ("equinox", "haiku") if importlib.util.find_spec(name) is None]

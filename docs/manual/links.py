"""Makes links of code: a literal that is a public name leads to its place in the reference."""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes

from manual.public import Name, modules

_KEPT = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.desc_signature)


def connect(app: Any, names: dict[str, Name]) -> None:
    targets = _targets(names)

    def link(app: Any, doctree: nodes.document) -> None:
        for literal in list(doctree.findall(nodes.literal)):
            found = targets.get(re.sub(r"\(.*\)$", "", literal.astext()))
            if found and not _within(
                literal, nodes.reference, nodes.title, addnodes.pending_xref, addnodes.desc_signature
            ):
                kind, target = found
                options = {"refdomain": "py", "reftype": kind, "reftarget": target, "refexplicit": True}
                here = addnodes.pending_xref("", refdoc=app.env.docname, refwarn=True, **options)
                literal.replace_self(here)
                here += literal

    app.connect("doctree-read", link)


def _targets(names: dict[str, Name]) -> dict[str, tuple[str, str]]:
    """Kind and path of what a literal may say: a path, a path without `rnnjax`, or a name that only one thing has."""
    found: dict[str, tuple[str, str]] = {}
    ends: dict[str, set[str]] = {}
    for name in names.values():
        if name.value.__class__.__module__ and not str(getattr(name.value, "__module__", "rnnjax")).startswith(
            "rnnjax"
        ):
            continue
        for path in (name.path, *name.others):
            found[path] = found[path.removeprefix("rnnjax.")] = ("obj", name.path)
            ends.setdefault(path.rpartition(".")[2], set()).add(name.path)
    for end, paths in ends.items():
        if len(paths) == 1 and (end[0].isupper() or "_" in end):
            found.setdefault(end, ("obj", min(paths)))
    for module in modules():
        found[module.__name__] = ("mod", module.__name__)
    return found


def _within(node: nodes.Node, *kinds: type) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False

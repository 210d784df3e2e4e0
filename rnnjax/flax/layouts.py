"""Matches the parameter tree of a Flax cell with the known layouts, and checks the name and shape of every leaf."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnjax._names import discrepancies
from rnnjax.cell import PyTree
from rnnjax.cells import ElmanParams, GRUParams, LSTMParams

Shape = tuple[int | str, ...]
"""Each axis as a multiple of H, or "D" for the input width."""

GATES: dict[type, int] = {LSTMParams: 4, GRUParams: 3, ElmanParams: 1}
"""The parameter records with a counterpart in Flax, and their number of gates."""


class Layout(NamedTuple):
    """The leaves of one of Flax's cells.

    Attributes:
      cell: the name of the cell in Flax.
      shapes: the shape of each leaf, by its dotted name.
    """

    cell: str
    shapes: Mapping[str, Shape]


def recognised(
    what: str, tree: Mapping[Any, Any], layouts: Sequence[Layout], expected: str
) -> tuple[Layout, dict[str, Any]]:
    """Finds the layout of a tree, and returns it with the leaves by dotted name.

    Args:
      what: the caller's name of the tree, for messages.
      expected: a description of valid trees, for the message if no layout is similar.
    Raises:
      ValueError: a name is unknown or missing, or a shape does not fit the others.
    """
    leaves = dict(_flat(tree))
    named = [layout for layout in layouts if set(layout.shapes) == set(leaves)]
    wrong = [_misfit(layout, leaves) for layout in named]
    for layout, misfit in zip(named, wrong, strict=True):
        if not misfit:
            return layout, leaves
    if not wrong:
        nearest = max(layouts, key=lambda layout: _likeness(layout, leaves))
        if _likeness(nearest, leaves):
            wrong = [f"of a {nearest.cell}, {discrepancies(list(leaves), list(nearest.shapes))}"]
    shown = [f"{name} {list(np.shape(leaf))}" for name, leaf in sorted(leaves.items())]
    holds = ", ".join(shown[:14] + [f"{len(shown) - 14} more"] * (len(shown) > 14)) or "nothing"
    if wrong:
        raise ValueError(f"`{what}` does not fit: {'; or '.join(wrong)}. It holds {holds}.")
    raise ValueError(f"`{what}` holds {holds}; expected {expected}.")


def wraps(what: str, tree: Mapping[Any, Any], *parts: str) -> bool:
    """Whether a tree consists of exactly these parts.

    Raises:
      ValueError: it has these parts and others.
    """
    if not all([isinstance(tree.get(part), Mapping) for part in parts]):
        return False
    more = sorted(str(name) for name, part in tree.items() if name not in parts and not _is_empty(part))
    if more:
        raise ValueError(
            f"`{what}` holds {', '.join(more)} beside {', '.join(parts)}, which no cell of "
            "rnnjax has; pass only the part of the cell."
        )
    return True


def misfit_of(params: PyTree) -> str:
    """Describes the first array of a parameter record that does not fit; empty if all fit."""
    if any([leaf is None for leaf in params]):
        return "a bias is None, and Flax's cells always have one: put zeros there"
    rows = np.shape(params.w_h)[:1]
    size, gates = (*rows, 0)[0], GATES[type(params)]
    shapes = {"w_x": (*np.shape(params.w_x)[:1], gates * size), "w_h": (size, gates * size)}
    shapes |= {"b": (gates * size,), "b_hn": (size,)}
    for name, leaf in params._asdict().items():
        if np.shape(leaf) != shapes[name]:
            return f"{name} is {list(np.shape(leaf))} where {size} units need {list(shapes[name])}"
    return ""


def check_record(params: PyTree) -> None:
    """Raises unless Flax can hold all of `params`: TypeError for another record, ValueError for wrong shapes."""
    if type(params) not in GATES:
        raise TypeError(
            f"`params` is a {type(params).__name__}; expected LSTMParams, GRUParams, ElmanParams or a BothWays of "
            "them. For the tuple of a Stack, convert each layer."
        )
    misfit = misfit_of(params)
    if misfit:
        raise ValueError(f"`params` are {type(params).__name__}, but {misfit}.")


def _is_empty(part: Any) -> bool:
    return isinstance(part, Mapping) and not dict(_flat(part))


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in tree.items():
        if isinstance(part, Mapping):
            yield from _flat(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


def _likeness(layout: Layout, leaves: Mapping[str, Any]) -> int:
    """The number of leaves with names of this layout; recurrent kernels must also have its number of gates."""
    fits = 0
    for name in set(layout.shapes) & set(leaves):
        wanted, shape = layout.shapes[name], np.shape(leaves[name])
        recurrent = len(wanted) == 2 and wanted[0] == 1
        fits += not recurrent or (len(shape) == 2 and shape[1] == wanted[1] * shape[0])
    return fits


def _misfit(layout: Layout, leaves: Mapping[str, Any]) -> str:
    """Describes the first leaf that does not fit the sizes of the others."""
    shapes = {name: np.shape(leaf) for name, leaf in leaves.items()}
    matrices = {name: shape for name, shape in layout.shapes.items() if len(shape) == 2}
    flat = next((name for name in matrices if len(shapes[name]) != 2), None)
    if flat is not None:
        return f"of a {layout.cell}, {flat!r} should be a matrix"
    width = next(shapes[name][0] for name, shape in matrices.items() if shape[0] == "D")
    size = next(shapes[name][0] for name, shape in matrices.items() if shape[0] != "D")
    for name, shape in layout.shapes.items():
        wanted = tuple([width if isinstance(axis, str) else axis * size for axis in shape])
        if shapes[name] != wanted:
            return f"of a {layout.cell} with {size} units, {name!r} should be {list(wanted)}"
    return ""

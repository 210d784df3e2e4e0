"""Equinox's `LSTMCell`, `GRUCell` and `Linear`: in modules, lists of modules, or arrays by name.

    Equinox                                     rnnjax
    LSTMCell: weight_ih [4H, D], weight_hh      w_x, w_h: their transposes, gates in the same order
      bias [4H]                                 b
    GRUCell: weight_ih [3H, D], weight_hh, bias as above
      bias_n [H]                                b_hn
    no bias, with use_bias=False                `WithoutBias` of the cell
    Linear: weight [K, H], bias                 the head of a `Readout`

Equinox has cells and no layers, so what a model's `__call__` does between them is not known here: compare the
outputs of one batch. A file of `eqx.tree_serialise_leaves` has no names: load it into the module, and convert that.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cell import PyTree
from rnnjax.converters.layouts import EQUINOX, to_layout
from rnnjax.converters.models import (
    Layer,
    Layers,
    Parts,
    assembled,
    directions,
    layout_for,
    ordered,
    parts_of,
    split_whole,
)
from rnnjax.converters.names import held, leaves_of, name_of, numpy_tree


def from_equinox(module: Any, *, layers: Layers | None = None, head: str | None = None) -> tuple[Any, PyTree]:
    """Converts a module of Equinox to a cell and its parameters.

    Args:
      module: an `LSTMCell` or `GRUCell`; a model with such cells; a list of cells, bottom to top, with a
        `rnnjax.BothWays(forward, backward)` of two for a bidirectional layer, and a `Linear` for the head; or arrays by
        name, such as `{"cell.weight_ih": ...}`.
      layers: the names of the cells in the model, bottom to top, such as `["encoder", "decoder"]`; a pair names the
        forward and backward direction of one layer. By default those of one list, in its order.
      head: the name of the linear head; by default the only `Linear`.
    Returns:
      `(cell, params)`: a cell for one layer, a `Stack` for several, a `Bidirectional` for each pair, in a `Readout` if
      there is a head. The arrays are NumPy arrays of unchanged dtype.
    Raises:
      ValueError: an array belongs to no cell or head; the order of cells is not known; or the head has no bias.
      TypeError: the module that holds such arrays is another than Equinox's.

    Example:

      >>> weights = {"weight_ih": np.zeros((16, 3)), "weight_hh": np.zeros((16, 4)), "bias": np.zeros(16)}
      >>> cell, params = from_equinox(weights)
      >>> cell.hidden_size, params.w_x.shape
      (4, (3, 16))
    """
    return assembled("`module`", *_parts(module), layers, head)


def to_equinox(
    cell: Any, params: PyTree, like: PyTree, *, layers: Layers | None = None, head: str | None = None
) -> PyTree:
    """Puts parameters into a module of Equinox: the inverse of `from_equinox`.

    Args:
      cell: an `LSTM` or `GRU`, also `WithoutBias`; a `Stack` or `Bidirectional` of them; or a `Readout` of these.
      params: of the cell.
      like: a module, or a list of modules, as for `from_equinox`.
      layers, head: as for `from_equinox`.
    Returns:
      `like` with these weights.
    Raises:
      TypeError: Equinox has no such cell.
      ValueError: `like` has other cells, or other shapes.
    """
    parts, left = _parts(like)
    order, head = ordered("`like`", parts, left, layers, head)
    made, read = split_whole(cell, params)
    halves = [directions(*each) for each in made]
    names = [[each] if isinstance(each, str) else list(each) for each in order]
    if [len(each) for each in names] != [len(each) for each in halves] or (read is None) != (head is None):
        raise ValueError(f"`like` has the layers {order!r} and the head {head!r}, which are not those of {cell!r}.")
    new: dict[str, Any] = {}
    for name, half in zip(itertools.chain(*names), itertools.chain(*halves), strict=True):
        found = to_layout(layout_for(*half, EQUINOX.values()), numpy_tree(half[1]))
        new |= {f"{name}.{leaf}".lstrip("."): array for leaf, array in found.items()}
    if read is not None:
        new |= {f"{head}.weight": np.asarray(read.w).T, f"{head}.bias": np.asarray(read.b)}
    old = {name: leaf.shape for name, leaf in leaves_of(like).items()}
    if old != (shapes := {name: array.shape for name, array in new.items()}):
        differing = [name for name in {**old, **shapes} if old.get(name) != shapes.get(name)]
        raise ValueError(
            "`like` does not have the shapes of `params`: "
            + ", ".join(f"{name!r} {old.get(name)} and {shapes.get(name)}" for name in differing)
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(new[name_of(path)]) if name_of(path) in new else leaf, like
    )


def _parts(module: Any) -> tuple[Parts, dict[str, str]]:
    parts, left = parts_of(leaves_of(module), EQUINOX.values(), ("weight", "bias"), ".")
    if not isinstance(module, Mapping):
        modules = held(module)
        for name, part in parts.items():
            kind, known = type(modules[name]), ("LSTMCell", "GRUCell") if isinstance(part, Layer) else ("Linear",)
            if kind.__name__ not in known or kind.__module__.split(".")[0] != "equinox":
                raise TypeError(
                    f"`module` holds a {kind.__module__}.{kind.__name__} at {name!r}, which has the arrays of "
                    f"Equinox's {' or '.join(known)}, but may compute something else; pass its arrays by "
                    "name if it does not."
                )
    return parts, left

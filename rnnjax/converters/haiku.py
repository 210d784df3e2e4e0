"""Haiku's parameters of `hk.LSTM`, `hk.GRU` and `hk.VanillaRNN`, stacked, in two directions, with a linear head.

    Haiku                                       rnnjax
    lstm/linear: w [D + H, 4H], b               LSTM: gates from i, g, f, o to i, f, g, o, and 1 added to b of f, which
                                                  Haiku's step adds
    gru: w_i, w_h, b                            ResetBeforeGRU: from z, r, a to r, z, n; z here is 1 - z of Haiku, so
                                                  its weights change sign
    vanilla_rnn/linear: w, b, linear_1: w, b    Elman(H, "relu"): the biases are added
    linear: w [H, K], b                         the head of a Readout

A module with one linear map is read as an LSTM where the shapes fit, one with two as a VanillaRNN, as names do not say
it. Convolutional cores are refused. What the code of a model does between its modules is not part of its parameters:
compare the outputs of one batch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnjax.cell import PyTree
from rnnjax.converters.layouts import HAIKU, to_layout
from rnnjax.converters.models import Layers, assembled, directions, layout_for, parts_of, split_whole
from rnnjax.converters.names import leaves_of, numpy_tree


def from_haiku(
    params: Mapping[str, Any], *, layers: Layers | None = None, head: str | None = None
) -> tuple[Any, PyTree]:
    """Converts Haiku's parameters to a cell and its parameters.

    Args:
      params: of `hk.transform(...).init`, or the part that belongs to the recurrent layers and a linear head.
      layers: names of the cores from bottom to top, such as `["lstm", "gru"]`; a pair, such as `[("fwd", "bwd")]`, is
        the forward and backward direction of one layer. By default `lstm`, `lstm_1`, ... in this order.
      head: the name of the linear head; by default the only `hk.Linear`.
    Returns:
      `(cell, params)`: a cell for one layer, a `Stack` for several, a `Bidirectional` for each pair, in a `Readout` if
      there is a head. The arrays are NumPy arrays of unchanged dtype.
    Raises:
      ValueError: an array belongs to no layer or head, or fits no other; the order of layers is not known; or the head
        has no bias.

    Example:

      >>> weights = {"lstm/linear": {"w": np.zeros((7, 16)), "b": np.zeros(16)}}
      >>> cell, params = from_haiku(weights)
      >>> cell.hidden_size, params.w_x.shape, params.b[4:8].tolist()
      (4, (3, 16), [1.0, 1.0, 1.0, 1.0])
    """
    parts, left = parts_of(leaves_of(params, "/"), HAIKU.values(), ("w", "b"), "/")
    return assembled("`params`", parts, left, layers, head)


def to_haiku(
    cell: Any, params: PyTree, *, layers: Layers | None = None, head: str = "linear"
) -> dict[str, dict[str, np.ndarray]]:
    """Converts parameters to Haiku's: the inverse of `from_haiku`.

    Args:
      cell: an `LSTM`, `ResetBeforeGRU` or `Elman(H, "relu")`, with biases; a `Stack` or `Bidirectional` of them; or a
        `Readout` of these.
      params: of the cell.
      layers: the names, as in `from_haiku`; by default those that Haiku gives: lstm, lstm_1, gru, vanilla_rnn ...
      head: the name of the `hk.Linear`.
    Raises:
      TypeError: Haiku has no such cell (its GRU resets before the product, its VanillaRNN has a ReLU).
      ValueError: `layers` does not fit the cell.

    Example:

      >>> import jax, rnnjax
      >>> cell = rnnjax.LSTM(4)
      >>> tree = to_haiku(cell, cell.init(jax.random.key(0), input_size=3))
      >>> tree["lstm/linear"]["w"].shape, float(tree["lstm/linear"]["b"].max())  # Haiku's step adds the 1
      ((7, 16), 0.0)
    """
    made, read = split_whole(cell, params)
    found = [[(layout_for(*half, HAIKU.values()), half[1]) for half in directions(*each)] for each in made]
    if layers is None:
        names, counts = [], dict[str, int]()
        for each in found:
            for layout, _ in each:
                stem = {"LSTM": "lstm", "GRU": "gru", "VanillaRNN": "vanilla_rnn"}[layout.name]
                count = counts[stem] = counts.get(stem, -1) + 1
                names.append(f"{stem}_{count}" if count else stem)
    else:
        names = [name for each in layers for name in ((each,) if isinstance(each, str) else each)]
        if [1 if isinstance(each, str) else 2 for each in layers] != [len(each) for each in found]:
            raise ValueError(f"layers is {list(layers)!r}, which does not name the {len(found)} layers of {cell!r}.")
    tree: dict[str, dict[str, Any]] = {}
    for name, (layout, half) in zip(names, [half for each in found for half in each], strict=True):
        for leaf, array in to_layout(layout, numpy_tree(half)).items():
            module, _, parameter = f"{name}/{leaf}".rpartition("/")
            tree.setdefault(module, {})[parameter] = array
    if read is not None:
        tree[head] = {"w": np.asarray(read.w), "b": np.asarray(read.b)}
    return tree

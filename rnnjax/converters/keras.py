"""Keras 3: `LSTM`, `GRU`, `SimpleRNN`, their cells, `RNN`, `StackedRNNCells`, `Bidirectional`, and a linear `Dense`.

    Keras                                       rnnjax
    LSTM: kernel [D, 4H], recurrent_kernel,     LSTM: the same (i, f, c, o are i, f, g, o)
      bias [4H]
    GRU: kernel [D, 3H], recurrent_kernel,      GRU: gates from z, r, h to r, z, n; the rows of the bias are added, but
      bias [2, 3H]                                that of the candidate's product is b_hn
    GRU(reset_after=False): bias [3H]           ResetBeforeGRU, same order of gates
    SimpleRNN: kernel, recurrent_kernel, bias   Elman with its activation
    use_bias=False                              `WithoutBias` of the cell
    Bidirectional(merge_mode)                   Bidirectional(merge): concat, sum, ave, mul
    Dense, TimeDistributed(Dense)               the head of a Readout
    Masking, Dropout                            left out; pass `lengths` or `mask` to `unroll`

`from_keras` reads live objects and files by their configuration, without importing Keras; for files it needs h5py,
which comes with Keras.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnjax.cell import PyTree
from rnnjax.converters.keras_files import chain_of, read_file
from rnnjax.converters.keras_layers import (
    NO_COUNTERPART,
    RECURRENT,
    Described,
    dense,
    name_of,
    recurrent,
    warn_of_dropout,
)
from rnnjax.converters.layouts import KERAS, to_layout
from rnnjax.converters.models import directions, layout_for, split_whole, whole
from rnnjax.converters.names import numpy_tree

_LEFT_OUT = ("InputLayer", "Masking", "NotEqual", "Any")


def from_keras(model: Any, *, config: str | Mapping[str, Any] | None = None) -> tuple[Any, PyTree]:
    """Converts a layer or model of Keras to a cell and its parameters.

    Args:
      model: a layer, a `Sequential` or functional model that is one chain, a list of layers, or a file: `.keras`, `.h5`
        of a whole model, or `.weights.h5` with its `config`.
      config: `model.to_json()` or `model.get_config()` of a `.weights.h5`, which says neither order nor activations.
    Returns:
      `(cell, params)`: a cell for one layer, a `Stack` for several, in a `Readout` if a `Dense` ends the chain. Outputs
      are those of every step; with `return_sequences=False`, Keras's are those of the last step that is not masked, and
      of a `Bidirectional` the last of each direction, as in the carry. The arrays are NumPy arrays of unchanged dtype.
    Raises:
      ValueError: a layer, activation or option has no counterpart here; a weight is missing or not used; or a file says
        too little.
      TypeError: `model` is not Keras's.
    Warns:
      UserWarning: dropout is left out.

    Example:

      >>> layer = Described("GRU", {"units": 4, "reset_after": False, "activation": "tanh", "recurrent_activation":
      ...     "sigmoid", "use_bias": True}, [np.zeros((3, 12)), np.zeros((4, 12)), np.zeros(12)])
      >>> from_keras([layer])[0].hidden_size
      4
    """
    described = _described(model, config)
    layers: list[tuple[Any, PyTree]] = []
    read, both_at_end = None, False
    for layer in described:
        kind, settings, weights = layer
        if kind == "TimeDistributed" and settings["layer"]["class_name"] == "Dense":
            kind, settings = "Dense", settings["layer"]["config"]
        if kind in RECURRENT:
            if read is not None:
                raise ValueError(f"`model` has a layer {kind} {name_of(settings)} after a Dense, {NO_COUNTERPART}")
            layers += recurrent(layer)
            both_at_end = kind == "Bidirectional" and not settings["layer"]["config"].get("return_sequences")
        elif kind == "Dense":
            read = dense(settings, weights, bool(layers) and read is None, both_at_end)
        elif kind in ("Dropout", "SpatialDropout1D"):
            warn_of_dropout(kind, settings.get("rate"))
        elif kind not in _LEFT_OUT and (kind, settings.get("activation")) != ("Activation", "linear"):
            what = f"Activation({settings.get('activation')!r})" if kind == "Activation" else kind
            raise ValueError(f"`model` has a layer {what} {name_of(settings)}, {NO_COUNTERPART}")
    if not layers:
        raise ValueError(f"`model` has no recurrent layer; it has {', '.join(layer.kind for layer in described)}.")
    return whole("`model`", layers, read)


def to_keras(cell: Any, params: PyTree) -> list[np.ndarray]:
    """Converts parameters to the list of arrays that `set_weights` of a layer or model of Keras takes.

    Args:
      cell: an `LSTM`, `GRU`, `Elman` or `ResetBeforeGRU`, or `WithoutBias` of the first three; a `Stack` or
        `Bidirectional` of them; or a `Readout` of these.
      params: of the cell.
    Returns:
      Arrays in Keras's order. The layers must be built with the cell's sizes, activation, merge and `reset_after`.
    Raises:
      TypeError: Keras has no such cell.

    Example:

      >>> import jax, rnnjax
      >>> cell = rnnjax.GRU(4)
      >>> [w.shape for w in to_keras(cell, cell.init(jax.random.key(0), input_size=3))]
      [(3, 12), (4, 12), (2, 12)]
    """
    layers, read = split_whole(cell, params)
    found: list[np.ndarray] = []
    for half, weights in [half for layer in layers for half in directions(*layer)]:
        layout = layout_for(half, weights, KERAS.values())
        leaves = to_layout(layout, numpy_tree(weights))
        found += leaves.values()
    return found + ([] if read is None else [np.asarray(read.w), np.asarray(read.b)])


def _described(model: Any, config: str | Mapping[str, Any] | None) -> list[Described]:
    if isinstance(model, str | os.PathLike):
        return [Described(*layer) for layer in read_file(os.fspath(model), config)]
    if config is not None:
        raise ValueError("`config` belongs to a `.weights.h5` file; a model has its own.")
    if isinstance(model, Sequence):
        return [layer if isinstance(layer, Described) else _live(layer) for layer in model]
    if not callable(getattr(model, "get_weights", None)) or not callable(getattr(model, "get_config", None)):
        raise TypeError(f"`model` is a {type(model).__name__}; expected a layer, a model or a file of Keras.")
    if hasattr(model, "layers"):
        settings = model.get_config()
        if "layers" not in settings:
            raise ValueError(
                f"`model` is a {type(model).__name__}, whose code says how its layers connect; pass the list of its "
                "recurrent layers, bottom to top."
            )
        chain_of(settings)
        by_name = {layer.name: layer for layer in model.layers}
        return [
            _live(by_name[each["config"]["name"]]) for each in settings["layers"] if each["config"]["name"] in by_name
        ]
    return [_live(model)]


def _live(layer: Any) -> Described:
    known = {base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("keras.")}
    kind = type(layer).__name__
    if kind not in known:
        raise ValueError(f"`model` has a layer {kind}, which is none of Keras's; it may compute something else.")
    return Described(kind, layer.get_config(), [np.asarray(weight) for weight in layer.get_weights()])

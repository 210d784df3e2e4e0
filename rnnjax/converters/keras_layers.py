"""Layers of Keras as their configurations describe them, and the cells here that are the same."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rnnjax.cell import PyTree
from rnnjax.compose import Bidirectional, BothWays
from rnnjax.converters.keras_files import kind_of
from rnnjax.converters.layouts import KERAS, Layout, from_layout
from rnnjax.converters.models import Linear
from rnnjax.textbook import ACTIVATIONS

_MERGES: dict[str, Any] = {"concat": "concatenate", "sum": "sum", "ave": "mean", "mul": "product"}
_CELLS = ("LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell")
RECURRENT = (*_CELLS, "RNN", "StackedRNNCells", "Bidirectional")
NO_COUNTERPART = "which has no counterpart here; pass the list of the layers that have, such as `model.layers[:-1]`."


class Described(NamedTuple):
    """A layer as its configuration says, and its weights in Keras's order."""

    kind: str
    config: Mapping[str, Any]
    weights: list[np.ndarray]


def recurrent(layer: Described) -> list[tuple[Any, PyTree]]:
    """One layer, or as many as a `StackedRNNCells` has cells."""
    weights = list(layer.weights)
    found = _parsed(layer.kind, layer.config, weights)
    if weights:
        raise ValueError(f"layer {layer.kind} {name_of(layer.config)} has {len(weights)} weights more than are known.")
    return found


def _parsed(kind: str, config: Mapping[str, Any], weights: list[np.ndarray]) -> list[tuple[Any, PyTree]]:
    """Takes from `weights`, in order, what the layer needs."""
    if kind == "Bidirectional":
        merge = config["merge_mode"]
        if merge not in _MERGES:
            raise ValueError(f"Bidirectional {name_of(config)} has merge_mode={merge!r}; here outputs are merged.")
        forward, backward = config["layer"], config.get("backward_layer") or config["layer"]
        if forward["config"].get("go_backwards"):
            raise ValueError(f"the forward layer of Bidirectional {name_of(config)} has go_backwards=True.")
        halves = []
        for inner, settings in map(kind_of, (forward, backward)):
            halves.append(_parsed(inner, {**settings, "go_backwards": False}, weights))
        if len(halves[0]) != 1 or len(halves[1]) != 1:
            raise ValueError(
                f"Bidirectional {name_of(config)} runs several cells, each way its own; here each layer has two."
            )
        (cell, params), (other, others) = halves[0][0], halves[1][0]
        return [(Bidirectional(cell, other, _MERGES[merge]), BothWays(params, others))]
    if config.get("go_backwards"):
        raise ValueError(
            f"{kind} {name_of(config)} has go_backwards=True; set it to False, and run the cell with "
            "`unroll(..., reverse=True)`, whose outputs are in the order of the input."
        )
    if kind == "RNN":
        return _parsed(*kind_of(config["cell"]), weights)
    if kind == "StackedRNNCells":
        parts = [_parsed(*kind_of(each), weights) for each in config["cells"]]
        return [half for part in parts for half in part]
    if kind not in _CELLS:
        raise ValueError(f"`model` has a recurrent cell {kind} {name_of(config)}, {NO_COUNTERPART}")
    for name in ("dropout", "recurrent_dropout"):
        if config.get(name):
            warn_of_dropout(f"{kind}({name}={config[name]})", config[name])
    return [_one(kind.removesuffix("Cell"), config, weights)]


def _one(kind: str, config: Mapping[str, Any], weights: list[np.ndarray]) -> tuple[Any, PyTree]:
    activation, biased = config.get("activation", "tanh"), config.get("use_bias", True)
    given = {"activation": activation, "recurrent_activation": config.get("recurrent_activation", "sigmoid")}
    if kind == "SimpleRNN":
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ValueError(
                f"SimpleRNN {name_of(config)} has activation={activation!r}; known: {', '.join(ACTIVATIONS)}."
            )
    elif given != {"activation": "tanh", "recurrent_activation": "sigmoid"}:
        raise ValueError(f"{kind} {name_of(config)} has {given}; here it has tanh and sigmoid, as by default in Keras.")
    before = kind == "GRU" and not config.get("reset_after", True)
    if before and not biased:
        raise ValueError(
            f"GRU {name_of(config)} has reset_after=False and use_bias=False; a ResetBeforeGRU here always has a bias: "
            "give the layer a bias of zeros."
        )
    layout: Layout = KERAS["GRU(reset_after=False)" if before else kind]
    names = ("kernel", "recurrent_kernel", "bias")[: 3 if biased else 2]
    if len(weights) < len(names):
        raise ValueError(
            f"{kind} {name_of(config)} has {len(weights)} weights, but needs {', '.join(names)}; is it built?"
        )
    leaves: dict[str, Any] = dict(zip(names, weights, strict=False))
    del weights[: len(names)]
    if misfit := layout.misfit(leaves):
        raise ValueError(f"weights of {kind} {name_of(config)} do not fit: {misfit}.")
    return from_layout(layout, leaves, activation)  # type: ignore[arg-type]


def dense(settings: Mapping[str, Any], weights: list[np.ndarray], at_end: bool, both_at_end: bool) -> Linear:
    activation = settings.get("activation")
    if activation not in ("linear", None):
        raise ValueError(
            f"Dense {name_of(settings)} has activation={activation!r}, and a Readout is linear; convert the layers "
            "before it, or set its activation to `keras.activations.linear`, and apply the function to the outputs."
        )
    if not at_end:
        raise ValueError(f"`model` has a Dense {name_of(settings)} besides one head at its end, {NO_COUNTERPART}")
    if both_at_end:
        raise ValueError(
            f"`model` has a Dense {name_of(settings)} after a Bidirectional with return_sequences=False: it reads the "
            "last step of one direction and the first of the other, which a Readout does not. Convert the layers alone."
        )
    if not 1 <= len(weights) <= 2 or weights[0].ndim != 2:
        raise ValueError(f"Dense {name_of(settings)} has {[each.shape for each in weights]}; is it built?")
    return Linear(weights[0], weights[1] if len(weights) == 2 else None)


def name_of(config: Mapping[str, Any]) -> str:
    return repr(config.get("name", ""))


def warn_of_dropout(what: str, rate: Any) -> None:
    if rate:
        warnings.warn(f"{what} is left out; see `rnnjax.wrappers.Dropout` and `Stack(dropout=)`.", stacklevel=3)

"""Reads a PyTorch state dict and checks every name and shape of a recurrent module."""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from rnnjax._names import discrepancies, nearest

Kind = Literal["LSTM", "GRU", "RNN"]
Weights = dict[str, np.ndarray]
"""Weights of one layer and direction: `weight_ih`, `weight_hh`, and optionally `bias_ih`, `bias_hh`, `weight_hr`."""

GATES: dict[int, Kind] = {4: "LSTM", 3: "GRU", 1: "RNN"}
_NAME = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(0|[1-9]\d*)(_reverse)?)?")


class Recurrent(NamedTuple):
    """A recurrent module as described by its state dict.

    Attributes:
      layers: the weights of each direction, for each layer.
      projection: the width of the projected hidden state; `None` without a projection.
    """

    kind: Kind
    hidden_size: int
    projection: int | None
    bias: bool
    layers: list[list[Weights]]


def read(state_dict: Mapping[str, Any], prefix: str) -> Recurrent:
    """Reads the recurrent module whose names start with `prefix`.

    Raises:
      ValueError: there are no recurrent weights; a name is unknown, missing or duplicated; a shape does not fit the
        others.
    """
    names = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
    _check_prefix(list(state_dict), prefix)
    layers, ways, parts, by_cell = _outline(names)
    expected = {
        part if by_cell else f"{part}_l{layer}{way}": (layer, way, part)
        for layer, way, part in itertools.product(range(layers), ways, parts)
    }
    others = [] if by_cell else [f"{part}_l{layer}_reverse" for layer, part in itertools.product(range(layers), parts)]
    wrong = discrepancies(names, expected, others)
    if wrong:
        under = f" under prefix={prefix!r}" if prefix else ""
        raise ValueError(
            f"`state_dict`{under} is not that of one recurrent module: {wrong}. For a model, name the recurrent module "
            "with `prefix`, such as 'encoder.lstm.'."
        )
    halves: dict[tuple[int, str], Weights] = {}
    for name, (layer, way, part) in expected.items():
        halves.setdefault((layer, way), {})[part] = as_numpy(state_dict[prefix + name])
    in_layers = [[halves[layer, way] for way in ways] for layer in range(layers)]
    return _measured(in_layers, lambda part, layer, way: part if by_cell else f"{part}_l{layer}{ways[way]}")


def prefixes(keys: Iterable[str]) -> set[str]:
    """What is before the names of recurrent weights."""
    return {key[: match.start()] for key in keys if (match := _at_the_end(key))}


def _check_prefix(keys: list[str], prefix: str) -> None:
    """Raises unless names of recurrent weights directly follow `prefix`."""
    holders = prefixes(keys)
    if prefix in holders:
        return
    if not holders:
        raise ValueError(
            f"`state_dict` holds no recurrent weights (weight_ih_l0, weight_hh_l0, ...), but {_listed(keys)}."
        )
    if prefix:
        raise ValueError(
            f"`state_dict` has no recurrent weights under prefix={prefix!r}{nearest(prefix, holders)}; it has some "
            f"under {_listed(sorted(holders))}."
        )
    unknown = next(key for key in keys if not _NAME.fullmatch(key))
    raise ValueError(
        f"`state_dict` holds {unknown!r}, which is not part of a recurrent module, so it is that of a model. Name the "
        f"recurrent module with `prefix`: {_listed(sorted(holders))}."
    )


def _at_the_end(key: str) -> re.Match[str] | None:
    """Matches the name of a recurrent weight after a prefix, which is empty or ends with a dot."""
    return re.search(rf"(?:^|(?<=\.)){_NAME.pattern}$", key)


def _outline(names: list[str]) -> tuple[int, list[str], list[str], bool]:
    """Infers the number of layers, the directions and the expected weights from all names together.

    Returns:
      `(layers, ways, parts, by_cell)`; `by_cell` if the names are those of a single-step cell, without a layer number.
    Raises:
      ValueError: names of cells and of layers are mixed, or a layer is missing.
    """
    matches = [match for match in map(_NAME.fullmatch, names) if match]
    of_cell = [match[0] for match in matches if match[2] is None]
    of_layers = [match[0] for match in matches if match[2] is not None]
    if of_cell and of_layers:
        raise ValueError(
            f"`state_dict` holds {_listed(of_cell)}, as a GRUCell names them, beside {_listed(of_layers)}, as a GRU "
            "does: two modules, or one twice; pass one of the two sets."
        )
    found = {match[1] for match in matches}
    biases = {"bias_ih", "bias_hh"} if found & {"bias_ih", "bias_hh"} else set()
    wanted = {"weight_ih", "weight_hh"} | biases | (found & {"weight_hr"})
    parts = [part for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr") if part in wanted]
    ways = ["", "_reverse"] if any(match[3] for match in matches) else [""]
    layers = {int(match[2] or 0) for match in matches}
    absent = next(layer for layer in range(len(layers) + 1) if layer not in layers)
    if absent < len(layers):
        raise ValueError(
            f"`state_dict` holds layers {sorted(layers)}, but no `weight_ih_l{absent}`; layers must be numbered from 0 "
            "without gaps."
        )
    return len(layers), ways, parts, bool(of_cell)


def _measured(layers: list[list[Weights]], name_of: Any) -> Recurrent:
    """Reads the sizes from the first layer, and checks that all weights have them."""
    first = layers[0][0]
    for part in ("weight_ih", "weight_hh", *(["weight_hr"] if "weight_hr" in first else [])):
        if first[part].ndim != 2:
            raise ValueError(f"`{name_of(part, 0, 0)}` is {list(first[part].shape)}; expected a matrix.")
    rows = first["weight_hh"].shape[0]
    projection, size = first["weight_hr"].shape if "weight_hr" in first else (None, first["weight_hh"].shape[1])
    gates = rows // size if size and rows % size == 0 else 0
    if gates not in GATES or (projection is not None and gates != 4):
        choices = "n = 4 (LSTM), 3 (GRU) or 1 (RNN)" if projection is None else "n = 4: only an LSTM has a projection"
        raise ValueError(
            f"`{name_of('weight_hh', 0, 0)}` is {list(first['weight_hh'].shape)} for {size} hidden units; expected "
            f"[n * {size}, {projection or size}] with {choices}."
        )
    given_out = projection or size
    for (layer, halves), way in itertools.product(enumerate(layers), range(len(layers[0]))):
        width = first["weight_ih"].shape[1] if layer == 0 else len(halves) * given_out
        shapes = {"weight_ih": (rows, width), "weight_hh": (rows, given_out), "weight_hr": (projection, size)}
        for part, array in halves[way].items():
            wanted = shapes.get(part, (rows,))
            if array.shape != wanted:
                below = f" over a layer of {width} outputs" if layer and part == "weight_ih" else ""
                raise ValueError(
                    f"`{name_of(part, layer, way)}` is {list(array.shape)}, but in this {GATES[gates]} with {size} "
                    f"hidden units{below} it should be {list(wanted)}."
                )
    return Recurrent(GATES[gates], size, projection, "bias_ih" in first, layers)


def as_numpy(value: Any) -> np.ndarray:
    """Converts a tensor or array to NumPy; a bfloat16 tensor goes through float32, since NumPy does not support it."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    if str(tensor.dtype).endswith("bfloat16"):
        return tensor.float().numpy().astype("bfloat16")
    return tensor.numpy()


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:6]))
    return (shown or "nothing") + (f" and {len(names) - 6} more" if len(names) > 6 else "")

"""Reads the layers of Keras's files: `.keras`, `.h5` of a whole model, and `.weights.h5` with a configuration.

A file of weights is sorted by name; the configuration has the order of layers, and says what is stored where.
"""

# pyright: reportMissingImports=false
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Stored = tuple[str, Mapping[str, Any], list[np.ndarray]]
"""A layer's class, configuration, and weights in Keras's order."""


def read_file(path: str, config: str | Mapping[str, Any] | None = None) -> list[Stored]:
    """The layers of a file, in order.

    Raises:
      ValueError: it is no file of Keras; `config` is missing, or given where the file has one; its layers are no chain;
        or weights are missing or not used.
      ImportError: h5py is not installed.
    """
    if path.endswith(".keras"):
        _refuse(config, path)
        with zipfile.ZipFile(path) as archive:
            whole = json.loads(archive.read("config.json"))
            return list(_by_path(_settings(whole), _h5(io.BytesIO(archive.read("model.weights.h5")))))
    if path.endswith(".weights.h5"):
        if config is None:
            raise ValueError(
                f"{path!r} holds weights without the order of layers, their activations or `reset_after`; pass "
                "config=model.to_json(), or load it into the model and convert that."
            )
        given = json.loads(config) if isinstance(config, str) else config
        return list(_by_path(_settings(given), _h5(path)))
    if path.endswith((".h5", ".hdf5")):
        _refuse(config, path)
        return list(_legacy(path))
    raise ValueError(f"{path!r} is no file of Keras: expected .keras, .h5 or .weights.h5.")


def kind_of(layer: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The class and configuration of a layer or cell.

    Raises:
      ValueError: it is none of Keras's.
    """
    if not str(layer.get("module", "keras")).startswith("keras"):
        raise ValueError(
            f"{layer['class_name']} of {layer['module']} is none of Keras's; it may compute something else."
        )
    return layer["class_name"], layer["config"]


def chain_of(settings: Mapping[str, Any]) -> None:
    """Raises ValueError unless each layer takes the outputs of the one before it, and nothing else."""
    before: str | None = None
    for layer in settings["layers"]:
        name, nodes = layer["config"]["name"], layer.get("inbound_nodes")
        if nodes is None:  # of a Sequential
            continue
        given = [
            found for node in nodes for found in _sources(node.get("args", node) if isinstance(node, dict) else node)
        ]
        if layer["class_name"] in ("NotEqual", "Any"):  # the mask of a Masking
            continue
        if len(nodes) > 1 or given != ([] if before is None else [before]):
            raise ValueError(
                f"layer {name!r} takes {given or 'nothing'} and not the outputs of {before!r} alone, so the model is "
                "no chain; pass the list of its recurrent layers, bottom to top."
            )
        before = name


def _sources(tree: Any) -> Iterator[str]:
    """The names of layers among the arguments of a call."""
    if isinstance(tree, Mapping):
        if "keras_history" in tree:
            yield tree["keras_history"][0]
        else:
            for part in tree.values():
                yield from _sources(part)
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from _sources(part)


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a model, which its layers are part of."""
    inner = config if "layers" in config else config.get("config", {})
    if "layers" not in inner:
        raise ValueError(
            "the configuration has no `layers`; only Sequential and functional models say how theirs connect."
        )
    chain_of(inner)
    return inner


def _by_path(settings: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Iterator[Stored]:
    """Layers are stored by their class with a number, and not by their name."""
    left = {name for name in arrays if not name.startswith("optimizer/") and "seed_generator" not in name}
    counts: dict[str, int] = {}
    for layer in settings["layers"]:
        kind, config = kind_of(layer)
        where = f"layers/{_numbered(counts, kind)}"
        weights = []
        for place in _places(kind, config, where):
            names = sorted((name for name in left if re.fullmatch(rf"{re.escape(place)}/vars/\d+", name)), key=_number)
            weights += [arrays[name] for name in names]
            left -= set(names)
        yield kind, config, weights
    if left:
        raise ValueError(f"the file also holds {', '.join(sorted(left)[:8])}, which no layer of the configuration has.")


def _places(kind: str, config: Mapping[str, Any], where: str) -> Iterator[str]:
    """Where the weights of a layer are, in Keras's order."""
    if kind == "Bidirectional":
        inner = config["layer"]
        for name, part in (("forward_layer", inner), ("backward_layer", config.get("backward_layer") or inner)):
            yield from _places(part["class_name"], part["config"], f"{where}/{name}")
    elif kind == "TimeDistributed":
        yield from _places(config["layer"]["class_name"], config["layer"]["config"], f"{where}/layer")
    elif kind == "RNN":
        yield from _places(config["cell"]["class_name"], config["cell"]["config"], f"{where}/cell")
    elif kind == "StackedRNNCells":
        counts: dict[str, int] = {}
        for cell in config["cells"]:
            inside = f"{where}/cells/{_numbered(counts, cell['class_name'])}"
            yield from _places(cell["class_name"], cell["config"], inside)
    elif kind in ("LSTM", "GRU", "SimpleRNN"):
        yield f"{where}/cell"
    else:
        yield where


def _numbered(counts: dict[str, int], kind: str) -> str:
    """lstm, lstm_1, ..., as Keras numbers classes."""
    snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind)).lower()
    counts[snake] = counts.get(snake, -1) + 1
    return f"{snake}_{counts[snake]}" if counts[snake] else snake


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])


def _legacy(path: str) -> Iterator[Stored]:
    """A whole model in HDF5, whose attributes name the weights of each layer in order."""
    with _h5py().File(path) as file:
        if "model_config" not in file.attrs:
            raise ValueError(f"{path!r} has no `model_config`, so it holds weights alone: save the model as .keras.")
        settings = _settings(json.loads(file.attrs["model_config"]))
        stored = file["model_weights"]
        for layer in settings["layers"]:
            name = layer["config"]["name"]
            names = [str(each) for each in stored[name].attrs["weight_names"]] if name in stored else []
            arrays = [np.asarray(stored[name][each]) for each in names if "seed_generator" not in each]
            yield (*kind_of(layer), arrays)


def _h5(source: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with _h5py().File(source) as file:
        file.visititems(lambda name, node: found.update({name: np.asarray(node)}) if hasattr(node, "shape") else None)
    return found


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("reading files of Keras needs h5py, which comes with Keras: pip install h5py") from error
    return h5py


def _refuse(config: Any, path: str) -> None:
    if config is not None:
        raise ValueError(f"`config` belongs to a `.weights.h5` file; {path!r} has its own.")

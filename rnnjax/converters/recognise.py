"""Says whose weights a module, a tree or a file holds, without importing the library, and converts them."""

import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from rnnjax.cell import PyTree
from rnnjax.converters import torchrecurrent
from rnnjax.converters.equinox import from_equinox
from rnnjax.converters.files import read_arrays
from rnnjax.converters.flax_models import from_flax
from rnnjax.converters.haiku import from_haiku
from rnnjax.converters.keras import from_keras
from rnnjax.converters.models import Layers, Linear, check_is_head
from rnnjax.converters.names import leaves_of, nested
from rnnjax.converters.pytorch import from_torch
from rnnjax.converters.state_dict import prefixes
from rnnjax.textbook import Activation

Library = Literal["Keras", "torchrecurrent", "PyTorch", "Equinox", "Flax", "Haiku"]

_PACKAGES: dict[str, Library] = {
    "keras": "Keras",
    "torchrecurrent": "torchrecurrent",
    "torch": "PyTorch",
    "equinox": "Equinox",
    "flax": "Flax",
    "haiku": "Haiku",
}


def from_any(
    weights: Any, *, layers: Layers | None = None, head: str | None = None, activation: Activation | None = None
) -> tuple[Any, PyTree]:
    """Converts the weights of a model of Flax, Haiku, Equinox, Keras or PyTorch, and recognises whose they are.

    Modules are recognised by their type, and trees, state dicts and files by the names and shapes of their arrays. All
    arrays must be part of a recurrent layer or of one linear head.

    Args:
      weights: a module; its parameters or state dict; or a file: `.safetensors`, `.npz`, `.keras` or `.h5`.
      layers: names of the recurrent layers, bottom to top, such as `["lstm", "gru"]`; a pair, such as
        `[("fwd", "bwd")]`, is the two directions of one. For Flax, Haiku and Equinox, where the names may not say it.
      head: the name of the linear head; by default the only linear map.
      activation: of a plain RNN of PyTorch or Flax whose arrays alone are given, "tanh" or "relu".
    Returns:
      `(cell, params)` for `rnnjax.unroll`, with NumPy arrays.
    Raises:
      ValueError: it is not known whose arrays these are; an array is not used; a layer has no counterpart; or the
        order of layers or an activation is not known. The message names the converter to call.
      TypeError: `weights` is neither a module nor arrays.

    Example:

      >>> cell, params = from_any({"lstm/linear": {"w": np.zeros((7, 16)), "b": np.zeros(16)}})  # Haiku
      >>> cell.hidden_size, params.b[4:8].tolist()
      (4, [1.0, 1.0, 1.0, 1.0])
    """
    named: dict[str, Any] = {"layers": layers, "head": head, "activation": activation}
    if isinstance(weights, str | os.PathLike):
        path = os.fspath(weights)
        if path.endswith((".keras", ".h5", ".hdf5")):
            return _call(from_keras, "Keras", path, **named)
        weights = nested(read_arrays(path))
    library = _of_type(weights)
    if library is None:
        leaves = leaves_of(weights)
        library = _of_names(leaves)
        if library == "PyTorch":
            weights = leaves
    if library == "torchrecurrent":
        kind = type(weights).__name__.removesuffix("Cell")
        cell = kind if kind in {each.__name__ for each in torchrecurrent.KINDS} else "JANET"
        raise ValueError(
            "`weights` are torchrecurrent's, whose cells have hyperparameters that are not part of their arrays; call "
            f"rnnjax.converters.from_torchrecurrent(cell, module.state_dict()) with the same cell here, such as "
            f"rnnjax.cells.{cell}(hidden_size)."
        )
    if library == "Keras":
        return _call(from_keras, library, weights, **named)
    if library == "Haiku":
        return _call(from_haiku, library, weights, **named)
    if library == "Equinox":
        return _call(from_equinox, library, weights, **named)
    if library == "Flax":
        return from_flax(weights, **named)
    return _torch(weights, **named)


def _call(convert: Any, library: str, weights: Any, **named: Any) -> tuple[Any, PyTree]:
    """A converter with those options that it has."""
    known = {"Keras": (), "PyTorch": ("head", "activation")}.get(library, ("layers", "head"))
    for name, value in named.items():
        if value is not None and name not in known:
            raise ValueError(f"`weights` are {library}'s, which say themselves what `{name}` is; leave it out.")
    return convert(weights, **{name: value for name, value in named.items() if name in known})


def _of_type(weights: Any) -> Library | None:
    """Whose a module is, or the modules in a list; `None` for arrays."""
    if isinstance(weights, list | tuple) and weights:
        return _of_type(weights[0])
    if isinstance(weights, Mapping):
        return None
    packages = [base.__module__.split(".")[0] for base in type(weights).__mro__]
    found: Library | None = next((_PACKAGES[package] for package in packages if package in _PACKAGES), None)
    if found == "PyTorch" and "torchrecurrent" in packages:
        found = "torchrecurrent"
    if found == "Haiku":
        raise TypeError(
            "`weights` is a module of Haiku, which holds none; pass the parameters of `transform(...).init`."
        )
    if found == "Flax" and any(base.__module__.startswith("flax.linen") for base in type(weights).__mro__):
        raise TypeError("`weights` is a linen module, which holds no parameters; pass the variables of its `init`.")
    if found is None and not hasattr(weights, "shape"):
        known = ", ".join(dict.fromkeys(_PACKAGES.values()))
        raise TypeError(f"`weights` is a {type(weights).__name__}; expected a module, arrays or a file of {known}.")
    return found


def _of_names(leaves: Mapping[str, Any]) -> Library:
    """Whose arrays these are."""
    last = {name.replace("/", ".").rpartition(".")[2] for name in leaves}
    if any(name.removesuffix("_reverse").rpartition("_l")[2].isdigit() and "weight_" in name for name in leaves):
        return "PyTorch"
    if "recurrent_kernel" in last:
        raise ValueError(
            "`weights` have the names of Keras's, but not its options, such as `reset_after`; call "
            "rnnjax.converters.from_keras with the model, its .keras file, or its .weights.h5 file and `config`."
        )
    if "kernel" in last:
        return "Flax"
    if last & {"w", "w_i"}:
        return "Haiku"
    if "weight_ih" in last and last & {"bias", "bias_n"} and not last & {"bias_ih", "bias_hh"}:
        return "Equinox"
    if "weight_ih" in last:
        return _of_one_step(leaves, last)
    shown = ", ".join(f"{name!r} {list(np.shape(leaf))}" for name, leaf in list(leaves.items())[:8]) or "nothing"
    raise ValueError(
        f"`weights` holds {shown}, and it is not known whose these are. The converters are from_torch, from_haiku, "
        "from_equinox, from_keras and from_torchrecurrent in rnnjax.converters, from_linen and from_nnx in rnnjax.flax."
    )


def _of_one_step(leaves: Mapping[str, Any], last: set[str]) -> Library:
    """PyTorch's single-step cells have the names of several of torchrecurrent's."""
    (prefix, *more) = sorted(prefixes(leaves)) or [""]
    names = {name.removeprefix(prefix) for name in leaves if name.startswith(prefix) and name != prefix}
    rows, size = np.shape(leaves.get(f"{prefix}weight_hh", np.zeros((0, 1))))
    gates = rows // size if size else 0
    others = torchrecurrent.with_names(names & {*last}, gates)
    if more or gates not in (1, 3, 4) or not names & {*last} <= {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}:
        return "torchrecurrent"
    if others:
        kind = {1: "RNNCell", 3: "GRUCell", 4: "LSTMCell"}[gates]
        raise ValueError(
            f"`weights` have the names and shapes of a {kind} of PyTorch and of {', '.join(others)} of torchrecurrent; "
            "call rnnjax.converters.from_torch or from_torchrecurrent."
        )
    return "PyTorch"


def _torch(
    weights: Any, *, layers: Layers | None, head: str | None, activation: Activation | None
) -> tuple[Any, PyTree]:
    if layers is not None:
        raise ValueError("`weights` are PyTorch's, which say themselves what `layers` is; leave it out.")
    state = weights if isinstance(weights, Mapping) else weights.state_dict()
    found = sorted(prefixes(state))
    if len(found) != 1:
        raise ValueError(
            f"`weights` are PyTorch's, with recurrent modules at {found}; the order of several is not known: call "
            "rnnjax.converters.from_torch with the `prefix` of each."
        )
    prefix = found[0]
    others = {name for name in state if not name.startswith(prefix)} if prefix else set[str]()
    found_head = [name.removesuffix("weight") for name in others if name.endswith("weight")]
    guessed = head is None and len(found_head) == 1
    if guessed:
        head = found_head[0]
    elif head:
        head = f"{head.rstrip('.')}."
    if unused := sorted(others - {f"{head}weight", f"{head}bias"}):
        raise ValueError(
            f"`weights` are PyTorch's, and also hold {', '.join(map(repr, unused[:8]))}, not used; call "
            f"rnnjax.converters.from_torch with prefix={prefix!r}, and head= for a linear map that reads its outputs."
        )
    cell, params = from_torch(weights, prefix=prefix, activation=activation, head=head)
    if guessed:
        bottom = jax.tree.leaves(params.rnn)[0]  # w_x of the first layer
        check_is_head("`weights`", head or "", Linear(params.w_out, params.b_out), bottom.shape[0])
    return cell, params

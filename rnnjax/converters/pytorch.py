"""PyTorch's layout of recurrent weights: `torch.nn.LSTM`, `GRU` and `RNN`, layers and directions, and their cells.

    PyTorch                                                  rnnjax
    weight_ih_l{k} [nH, D]                                   w_x [D, nH]: its transpose, gates in the same order
    weight_hh_l{k} [nH, H]                                   w_h [H, nH]
    bias_ih_l{k}, bias_hh_l{k} [nH]                          b [nH]: their sum
      GRU, candidate                                         b: bias_ih; b_hn: bias_hh
      none, with bias=False                                  `WithoutBias` of the cell: None for b and b_hn
    weight_hr_l{k} [P, H], with proj_size=P                  w_p [H, P] of an `LSTMProjected`
    ..._reverse                                              the backward cell of a `Bidirectional`
    layers k = 0, 1, ...                                     the parts of a `Stack`

n is 4 for an LSTM (i, f, g, o), 3 for a GRU (r, z, n) and 1 for an RNN. `to_torch` puts the whole bias into `bias_ih`.
Both directions check every weight, and raise for a name that is unknown, missing or duplicated.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnjax._names import nearest
from rnnjax.cell import PyTree
from rnnjax.cells import ElmanParams, GRUParams, LSTMParams, LSTMProjectedParams
from rnnjax.compose import Bidirectional, BothWays
from rnnjax.converters.layouts import TORCH, Layout, from_layout, to_layout
from rnnjax.converters.models import Linear, whole
from rnnjax.converters.names import numpy_tree
from rnnjax.converters.state_dict import Recurrent, Weights, as_numpy, read
from rnnjax.converters.torch_module import check_config, config_of, is_module
from rnnjax.readout import ReadoutParams
from rnnjax.textbook import Activation

_RECORDS = (LSTMParams, GRUParams, ElmanParams, LSTMProjectedParams)


def from_torch(
    state_dict: Any, *, prefix: str = "", activation: Activation | None = None, head: str | None = None
) -> tuple[Any, PyTree]:
    """Converts a PyTorch module or state dict to a cell and its parameters.

    Args:
      state_dict: a recurrent module, a model that contains one, or a state dict of tensors or arrays. Only a module
        contains the `nonlinearity` of an RNN.
      prefix: the name of the recurrent module in the model, such as `"encoder.lstm."`.
      activation: the nonlinearity of a `torch.nn.RNN` if only its state dict is given: "tanh" (PyTorch's default) or
        "relu".
      head: the name of a `torch.nn.Linear` of the model that reads the outputs, such as `"fc."`.
    Returns:
      `(cell, params)`: a cell for one layer, a `Stack` for several, with a `Bidirectional` for each bidirectional
      layer and the module's `dropout`; with a `head` in a `Readout`. The arrays are NumPy arrays of unchanged dtype;
      `jax.device_put(params)` converts them to JAX arrays.
    Raises:
      ValueError: a name is not a recurrent weight, is missing or duplicated; the shapes fit no cell; `activation`
        contradicts the module, or is not given for the state dict of an RNN; or there is no such `head`.
      TypeError: `state_dict` is neither a state dict nor a recurrent module.
    Warns:
      UserWarning: the module has `batch_first`, which is not part of the cell.

    Example:

      >>> rng = np.random.default_rng(0)
      >>> weights = {"weight_ih_l0": rng.normal(size=(8, 3)), "weight_hh_l0": rng.normal(size=(8, 2)),
      ...            "bias_ih_l0": rng.normal(size=8), "bias_hh_l0": rng.normal(size=8)}
      >>> cell, params = from_torch(weights)
      >>> cell.hidden_size, params.w_x.shape
      (2, (3, 8))
    """
    dropout = 0.0
    if is_module(state_dict):
        config = config_of(state_dict, prefix)
        found = read(state_dict.state_dict(), prefix)
        check_config(config, found)
        if activation is not None and activation != config.activation:
            made = f"a {config.kind}" + (f" of {config.activation}" if config.activation else "")
            raise ValueError(f"activation is {activation!r}, but the module is {made}; leave `activation` out.")
        activation = config.activation  # type: ignore[assignment]
        dropout = config.dropout
        if config.batch_first:
            warnings.warn(
                "the PyTorch module has batch_first=True: rnnjax takes time first, so pass `xs.swapaxes(0, 1)`",
                stacklevel=2,
            )
    elif isinstance(state_dict, Mapping) and all([isinstance(key, str) for key in state_dict]):
        found = read(state_dict, prefix)
        if activation not in (None, "tanh") and found.kind != "RNN":
            raise ValueError(f"activation is {activation!r}, but the weights are {found.kind}'s; leave it out.")
        if activation is None and found.kind == "RNN":
            raise ValueError(
                "`state_dict` is that of an RNN, and does not say its nonlinearity; pass the module, or activation="
                '"tanh" (PyTorch\'s default) or "relu".'
            )
    else:
        raise TypeError(
            f"`state_dict` is a {type(state_dict).__name__}; expected a PyTorch module or its `state_dict()`."
        )
    converted = []
    for layer in found.layers:
        halves = [from_layout(_layout_of(found), weights, activation) for weights in layer]
        if len(halves) == 1:
            converted.append(halves[0])
        else:
            cells, params = zip(*halves, strict=True)
            converted.append((Bidirectional(*cells), BothWays(*params)))
    module: Any = state_dict
    weights = module.state_dict() if is_module(module) else module
    return whole("`state_dict`", converted, None if head is None else _linear(weights, head), dropout)


def to_torch(params: PyTree, *, prefix: str = "", head: str = "head.") -> dict[str, np.ndarray]:
    """Converts parameters to a PyTorch state dict of NumPy arrays.

    Load it with `module.load_state_dict({k: torch.from_numpy(v) for k, v in ...})`.

    Args:
      params: `LSTMParams`, `GRUParams`, `ElmanParams` or `LSTMProjectedParams`, a `BothWays` of two, or a tuple of
        layers of one kind; or the `ReadoutParams` of a `Readout` of these. Parameters of a `WithoutBias` cell are for a
        module with `bias=False`.
      prefix: a prefix for each name.
      head: the name of the `torch.nn.Linear` of a `Readout`.
    Returns:
      `weight_ih_l0` and so on. `bias_hh` is zero except for the candidate of a GRU; `from_torch` is the inverse. (The
      activation of an `Elman` is not part of its parameters: create the `torch.nn.RNN` with the same `nonlinearity`.)
    Raises:
      ValueError: the layers or directions do not fit into one PyTorch module, because they differ in kind or width or
        only some have biases; or the arrays do not fit each other.
      TypeError: PyTorch has no such cell.

    Example:

      >>> import jax, rnnjax
      >>> params = rnnjax.GRU(2).init(jax.random.key(0), input_size=3)
      >>> {name: w.shape for name, w in to_torch(params).items()}
      {'weight_ih_l0': (6, 3), 'weight_hh_l0': (6, 2), 'bias_ih_l0': (6,), 'bias_hh_l0': (6,)}
    """
    linear: dict[str, np.ndarray] = {}
    if isinstance(params, ReadoutParams):
        w, b = np.asarray(params.w_out), np.asarray(params.b_out)
        params, linear = params.rnn, {f"{head}weight": np.copy(w.T, order="C"), f"{head}bias": b.copy()}
    stacked = isinstance(params, tuple) and not hasattr(params, "_fields")
    layers = [tuple(layer) if isinstance(layer, BothWays) else (layer,) for layer in (params if stacked else (params,))]
    halves: list[Any] = [half for layer in layers for half in layer]
    for half in halves:
        if type(half) not in _RECORDS:
            raise TypeError(
                f"`params` holds a {type(half).__name__}; PyTorch has cells for "
                f"{', '.join(record.__name__ for record in _RECORDS)}, for a tuple of layers and for a BothWays of two."
            )
    kinds = {(type(half), np.shape(half.w_h), half.b is None) for half in halves}
    if len(kinds) != 1 or len({len(layer) for layer in layers}) > 1:
        shown = [" and ".join(_shown(half) for half in layer) for layer in layers]
        raise ValueError(
            f"`params` holds {', '.join(shown) or 'nothing'}; a PyTorch module has one kind of cell, one width, one "
            "number of directions, and biases everywhere or nowhere: convert the layers one by one."
        )
    state = {}
    for index, layer in enumerate(layers):
        for half, way in zip(layer, ("", "_reverse"), strict=False):
            for name, array in _to_one(half).items():
                state[f"{name}_l{index}{way}"] = array
    try:
        read(state, "")
    except ValueError as error:
        raise ValueError(f"`params` do not fit one PyTorch module; in PyTorch's names: {error}") from None
    return {f"{prefix}{name}": array for name, array in state.items()} | linear


def _linear(state: Mapping[str, Any], head: str) -> Linear:
    names = [f"{head}weight", f"{head}bias"]
    arrays = [as_numpy(state[name]) if name in state else None for name in names]
    if arrays[0] is None or arrays[0].ndim != 2:
        known = [
            name.removesuffix("weight") for name in state if name.endswith("weight") and len(state[name].shape) == 2
        ]
        raise ValueError(f"`state_dict` has no linear map at head={head!r}{nearest(head, known)}.")
    return Linear(arrays[0].T, arrays[1])


def _layout_of(found: Recurrent) -> Layout:
    return TORCH["projected" if found.projection is not None else found.kind]


def _to_one(params: Any) -> Weights:
    b_hn = params.b_hn if isinstance(params, GRUParams) else None
    if isinstance(params, GRUParams) and (b_hn is None) != (params.b is None):
        raise ValueError(
            f"`params` holds {_shown(params)} with b_hn {'left out' if b_hn is None else 'given'}; a GRU of PyTorch "
            "has both biases or none: use zeros for the missing one."
        )
    layout = next(layout for layout in TORCH.values() if layout.record is type(params))
    return to_layout(layout, numpy_tree(params))


def _shown(params: Any) -> str:
    bias = " without bias" if params.b is None else ""
    return f"{type(params).__name__}{bias} with w_h {list(np.shape(params.w_h))}"

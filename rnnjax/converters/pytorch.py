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

from rnnjax.cell import Cell, PyTree
from rnnjax.cells import (
    GRU,
    LSTM,
    Elman,
    ElmanParams,
    GRUParams,
    LSTMParams,
    LSTMProjected,
    LSTMProjectedParams,
)
from rnnjax.compose import Bidirectional, BothWays, Stack
from rnnjax.converters.state_dict import Recurrent, Weights, read
from rnnjax.converters.torch_module import check_config, config_of, is_module
from rnnjax.textbook import Activation
from rnnjax.wrappers import WithoutBias

_RECORDS = (LSTMParams, GRUParams, ElmanParams, LSTMProjectedParams)


def from_torch(
    state_dict: Any, *, prefix: str = "", activation: Activation | None = None
) -> tuple[Cell | Stack | Bidirectional, PyTree]:
    """Converts a PyTorch module or state dict to a cell and its parameters.

    Args:
      state_dict: a recurrent module, a model that contains one, or a state dict of tensors or arrays. Only a module
        contains the `nonlinearity` of an RNN.
      prefix: the name of the recurrent module in the model, such as `"encoder.lstm."`.
      activation: the nonlinearity of a `torch.nn.RNN` if only its state dict is given; "tanh" by default, as in
        PyTorch.
    Returns:
      `(cell, params)`: a cell for one layer, a `Stack` for several, with a `Bidirectional` for each bidirectional
      layer and the module's `dropout`. The arrays are NumPy arrays of unchanged dtype; `jax.device_put(params)`
      converts them to JAX arrays.
    Raises:
      ValueError: a name is not a recurrent weight, is missing or duplicated; the shapes fit no cell; or `activation`
        contradicts the module.
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
    else:
        raise TypeError(
            f"`state_dict` is a {type(state_dict).__name__}; expected a PyTorch module or its `state_dict()`."
        )
    converted = []
    for layer in found.layers:
        halves = [(_cell_of(found, activation or "tanh"), _from_one(found, weights)) for weights in layer]
        if len(halves) == 1:
            converted.append(halves[0])
        else:
            cells, params = zip(*halves, strict=True)
            converted.append((Bidirectional(*cells), BothWays(*params)))
    if len(converted) == 1:
        return converted[0]
    cells, params = zip(*converted, strict=True)
    return Stack(cells, dropout), params


def to_torch(params: PyTree, *, prefix: str = "") -> dict[str, np.ndarray]:
    """Converts parameters to a PyTorch state dict of NumPy arrays.

    Load it with `module.load_state_dict({k: torch.from_numpy(v) for k, v in ...})`.

    Args:
      params: `LSTMParams`, `GRUParams`, `ElmanParams` or `LSTMProjectedParams`, a `BothWays` of two, or a tuple of
        layers of one kind. Parameters of a `WithoutBias` cell are for a module with `bias=False`.
      prefix: a prefix for each name.
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
    return {f"{prefix}{name}": array for name, array in state.items()}


def _cell_of(found: Recurrent, activation: Activation) -> Any:
    size = found.hidden_size
    if found.projection is not None:
        cell = LSTMProjected(size, found.projection)
    else:
        cell = {"LSTM": LSTM(size), "GRU": GRU(size), "RNN": Elman(size, activation)}[found.kind]
    return cell if found.bias else WithoutBias(cell)


def _from_one(found: Recurrent, weights: Weights) -> PyTree:
    size = found.hidden_size
    w_x, w_h = (_transposed(weights[name]) for name in ("weight_ih", "weight_hh"))
    b: Any = weights["bias_ih"] + weights["bias_hh"] if found.bias else None
    if found.projection is not None:
        return LSTMProjectedParams(w_x, w_h, b, _transposed(weights["weight_hr"]))
    if found.kind == "LSTM":
        return LSTMParams(w_x, w_h, b)
    if found.kind == "RNN":
        return ElmanParams(w_x, w_h, b)
    b_hn: Any = None
    if found.bias:
        b[2 * size :] = weights["bias_ih"][2 * size :]
        b_hn = weights["bias_hh"][2 * size :].copy()
    return GRUParams(w_x, w_h, b, b_hn)


def _to_one(params: Any) -> Weights:
    state = {"weight_ih": _transposed(params.w_x), "weight_hh": _transposed(params.w_h)}
    b_hn = params.b_hn if isinstance(params, GRUParams) else None
    if isinstance(params, GRUParams) and (b_hn is None) != (params.b is None):
        raise ValueError(
            f"`params` holds {_shown(params)} with b_hn {'left out' if b_hn is None else 'given'}; a GRU of PyTorch "
            "has both biases or none: use zeros for the missing one."
        )
    if params.b is not None:
        b = np.asarray(params.b)
        b_hh = np.zeros_like(b)
        if b_hn is not None:
            b_hh[len(b) - len(b_hn) :] = b_hn
        state |= {"bias_ih": b.copy(), "bias_hh": b_hh}
    if isinstance(params, LSTMProjectedParams):
        state["weight_hr"] = _transposed(params.w_p)
    return state


def _shown(params: Any) -> str:
    bias = " without bias" if params.b is None else ""
    return f"{type(params).__name__}{bias} with w_h {list(np.shape(params.w_h))}"


def _transposed(matrix: Any) -> Any:
    return np.ascontiguousarray(np.asarray(matrix).T)

"""PyTorch's layout of recurrent weights: `torch.nn.LSTM`, `GRU` and `RNN`, layers and directions, and their cells.

    PyTorch                                                  rnnjax
    weight_ih_l{k} [nH, D]                                   w_x [D, nH]: its transpose, gates in the same order
    weight_hh_l{k} [nH, H]                                   w_h [H, nH]
    bias_ih_l{k}, bias_hh_l{k} [nH]                          b [nH]: their sum, since only that enters
      GRU, candidate                                         b: bias_ih alone; b_hn: bias_hh
    ..._reverse                                              the backward half of a `Bidirectional`
    layers k = 0, 1, ...                                     the parts of a `Stack`

n is 4 for an LSTM (i, f, g, o), 3 for a GRU (r, z, n) and 1 for an RNN. The way back puts the whole bias into
`bias_ih`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnjax.cell import Cell, PyTree
from rnnjax.cells import GRU, LSTM, Elman, ElmanParams, GRUParams, LSTMParams
from rnnjax.cells.elman import Activation
from rnnjax.compose import Bidirectional, BothWays, Stack

_KEY = re.compile(r"(weight|bias)_(ih|hh)(?:_l(\d+))?(_reverse)?")


def from_torch(
    state_dict: Mapping[str, Any], *, prefix: str = "", activation: Activation = "tanh"
) -> tuple[Cell | Stack | Bidirectional, PyTree]:
    """The cell that a PyTorch state dict describes, and its parameters.

    Args:
      state_dict: tensors or arrays by PyTorch's names; of a recurrent module, or of a model that holds one.
      prefix: where the module is in the model: `"encoder.lstm."`.
      activation: what a `torch.nn.RNN` was made with (its `nonlinearity`); the weights do not say. LSTM and GRU have no
        use for it.
    Returns:
      `(cell, params)`: a cell for one layer, a `Stack` for several, with a `Bidirectional` for each that runs both
      ways. The arrays are NumPy's, in the dtype they came in; `jax.device_put(params)` makes them JAX's.
    Raises:
      ValueError: a name that is no recurrent weight, a weight that is missing, shapes that fit no cell.

    Example:

      >>> rng = np.random.default_rng(0)
      >>> weights = {"weight_ih_l0": rng.normal(size=(8, 3)), "weight_hh_l0": rng.normal(size=(8, 2)),
      ...            "bias_ih_l0": rng.normal(size=8), "bias_hh_l0": rng.normal(size=8)}
      >>> cell, params = from_torch(weights)
      >>> cell.hidden_size, params.w_x.shape
      (2, (3, 8))
    """
    layers = _layers(state_dict, prefix)
    converted = []
    for index in sorted(layers):
        halves = [_from_one(layers[index][way], f"layer {index}{way}", activation) for way in sorted(layers[index])]
        if len(halves) == 1:
            converted.append(halves[0])
        else:
            cells, params = zip(*halves, strict=True)
            converted.append((Bidirectional(*cells), BothWays(*params)))
    if len(converted) == 1:
        return converted[0]
    cells, params = zip(*converted, strict=True)
    return Stack(cells), params


def to_torch(params: PyTree, *, prefix: str = "") -> dict[str, np.ndarray]:
    """A PyTorch state dict of NumPy arrays; `module.load_state_dict({k: torch.from_numpy(v) for ...})` takes it in.

    Args:
      params: `LSTMParams`, `GRUParams` or `ElmanParams`, a `BothWays` of two, or a tuple of layers of one kind.
      prefix: what to put before each name.
    Returns:
      `weight_ih_l0` and so on. `bias_hh` is zero but for the candidate of a GRU; `from_torch` gives `params` back.
    Raises:
      ValueError: layers or directions that one PyTorch module cannot hold: of different kinds or widths.
      TypeError: parameters of a cell that PyTorch does not have.

    Example:

      >>> import jax, rnnjax
      >>> params = rnnjax.GRU(2).init(jax.random.key(0), input_size=3)
      >>> {name: w.shape for name, w in to_torch(params).items()}
      {'weight_ih_l0': (6, 3), 'weight_hh_l0': (6, 2), 'bias_ih_l0': (6,), 'bias_hh_l0': (6,)}
    """
    stacked = isinstance(params, tuple) and not hasattr(params, "_fields")
    layers = [tuple(layer) if isinstance(layer, BothWays) else (layer,) for layer in (params if stacked else (params,))]
    shapes = {(type(half), getattr(half, "w_h", np.empty(0)).shape) for layer in layers for half in layer}
    if len(shapes) > 1 or len({len(layer) for layer in layers}) > 1:
        kinds = [" and ".join(f"{type(half).__name__}" for half in layer) for layer in layers]
        raise ValueError(
            f"`params` holds {', '.join(kinds)} with recurrent weights {sorted(str(s) for _, s in shapes)}; a PyTorch "
            "module has one kind of cell, one width and one number of directions: convert the layers one by one."
        )
    state = {}
    for index, layer in enumerate(layers):
        for half, way in zip(layer, ("", "_reverse"), strict=False):
            for name, array in _to_one(half).items():
                state[f"{prefix}{name}_l{index}{way}"] = array
    return state


def _layers(state_dict: Mapping[str, Any], prefix: str) -> dict[int, dict[str, dict[str, np.ndarray]]]:
    """`[layer]["" or "_reverse"]["weight_ih"]`, every direction with both weights."""
    layers: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    for key, value in state_dict.items():
        if not key.startswith(prefix):
            continue
        match = _KEY.fullmatch(key.removeprefix(prefix))
        if match is None:
            why = (
                "a projection (proj_size), which rnnjax's LSTM has not" if "weight_hr" in key else "no recurrent weight"
            )
            raise ValueError(
                f"`state_dict` holds {key!r}, {why}; expected weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, ... "
                f"after prefix={prefix!r}: name the recurrent module by `prefix`, such as 'encoder.lstm.'."
            )
        name = f"{match[1]}_{match[2]}"
        layers.setdefault(int(match[3] or 0), {}).setdefault(match[4] or "", {})[name] = _array(value)
    if not layers:
        raise ValueError(f"`state_dict` holds no weights with prefix={prefix!r}, but {sorted(state_dict)}.")
    for index in range(max(layers) + 1):
        ways = layers.get(index, {})
        if set(ways) != set(layers[max(layers)]) or "" not in ways:
            raise ValueError(
                f"`state_dict` holds directions {sorted(ways)} of layer {index}; all layers have the same."
            )
        for way, weights in ways.items():
            missing = {"weight_ih", "weight_hh"} - set(weights)
            if missing or len(weights) == 3:
                present = ", ".join(sorted(weights))
                raise ValueError(
                    f"layer {index}{way} of `state_dict` holds {present}; both weights, both biases or none."
                )
    return layers


def _from_one(weights: dict[str, np.ndarray], where: str, activation: Activation) -> tuple[Cell, PyTree]:
    rows, size = weights["weight_hh"].shape
    if weights["weight_ih"].shape[0] != rows or rows % size or rows // size not in (1, 3, 4):
        raise ValueError(
            f"{where} has weight_ih {list(weights['weight_ih'].shape)} and weight_hh {[rows, size]}; expected "
            "[nH, D] and [nH, H] with n = 4 (LSTM), 3 (GRU) or 1 (RNN)."
        )
    w_x, w_h = (_transposed(weights[name]) for name in ("weight_ih", "weight_hh"))
    zero = np.zeros(rows, w_h.dtype)
    b_ih: Any = weights.get("bias_ih", zero)
    b_hh: Any = weights.get("bias_hh", zero)
    if rows == 4 * size:
        return LSTM(size), LSTMParams(w_x, w_h, b_ih + b_hh)
    if rows == 3 * size:
        b: Any = np.concatenate([b_ih[: 2 * size] + b_hh[: 2 * size], b_ih[2 * size :]])
        return GRU(size), GRUParams(w_x, w_h, b, b_hn=b_hh[2 * size :].copy())
    return Elman(size, activation), ElmanParams(w_x, w_h, b_ih + b_hh)


def _to_one(params: PyTree) -> dict[str, np.ndarray]:
    if not isinstance(params, LSTMParams | GRUParams | ElmanParams):
        raise TypeError(
            f"`params` holds a {type(params).__name__}; PyTorch has places for LSTMParams, GRUParams and ElmanParams."
        )
    b = np.asarray(params.b)
    b_hh = np.zeros_like(b)
    if isinstance(params, GRUParams):
        b_hh[2 * params.b_hn.shape[0] :] = params.b_hn
    return {
        "weight_ih": _transposed(params.w_x),
        "weight_hh": _transposed(params.w_h),
        "bias_ih": b.copy(),
        "bias_hh": b_hh,
    }


def _transposed(matrix: Any) -> Any:
    return np.ascontiguousarray(np.asarray(matrix).T)


def _array(value: Any) -> np.ndarray:
    """A tensor or an array as NumPy has it; a bfloat16 tensor, which NumPy cannot be given, goes through float32."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    if str(tensor.dtype).endswith("bfloat16"):
        return tensor.float().numpy().astype("bfloat16")
    return tensor.numpy()

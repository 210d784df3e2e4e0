"""How each library stores one layer in one direction, in one table, and the conversion that follows from its rows.

    library  its layer                 gates       weights     biases
    Haiku    LSTM                      i, g, f, o  x and h in one matrix; adds 1 to f in its step
             GRU                       z, r, a     from right  one; z and 1 - z exchanged; reset before the product
             VanillaRNN                            from right  one or two, added; ReLU
    Equinox  LSTMCell, GRUCell         as here     from left   one and the candidate's, or none
    Keras    LSTM                      i, f, g, o  from right  one or none
             GRU                       z, r, n     from right  two rows or none; one if reset before the product
             SimpleRNN                             from right  one or none
    PyTorch  LSTM, GRU, RNN            as here     from left   two, added, or none

Ours are i, f, g, o and r, z, n, multiply from the right, and have one bias, with a GRU's `b_hn`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from rnnjax.cell import PyTree
from rnnjax.cells import (
    GRU,
    LSTM,
    Elman,
    ElmanParams,
    GRUParams,
    LSTMParams,
    LSTMProjected,
    LSTMProjectedParams,
    ResetBeforeGRU,
)
from rnnjax.textbook import Activation, Gated
from rnnjax.wrappers import WithoutBias

Role = Literal["x", "h", "xh", "b", "b_h", "bb", "b_n", "p"]
"""Weights of the input and the carry, or both in one; the bias, one beside the carry, both in two rows, one inside the
reset; projection.

`b_h` is added to `b`, except where a reset gate multiplies it: the candidate of a GRU.
"""
OURS = {4: "ifgo", 3: "rzn", 1: "h"}


class Layout(NamedTuple):
    """One row of the table.

    Attributes:
      library, name: its own words.
      cell: our cell of a size; of an activation too, if `activation` is None.
      record: the type of our parameters.
      leaves: what each of its arrays is.
      gates: the order in which it stacks them.
      transposed: whether weights multiply from the left.
      negated: gates g that it has for 1 - g of ours.
      plus_one: gates to which its step adds one.
      activation: of an RNN, if it is fixed; "" for other cells.
      bias: whether biases may be left out, all together.
    """

    library: str
    name: str
    cell: Callable[..., Any]
    record: type
    leaves: Mapping[str, Role]
    gates: str
    transposed: bool = False
    negated: str = ""
    plus_one: str = ""
    activation: Activation | None = ""  # type: ignore[assignment]
    bias: Literal["always", "optional"] = "optional"

    @property
    def biases(self) -> set[str]:
        return {name for name, role in self.leaves.items() if role[0] == "b"}

    @property
    def weights(self) -> set[str]:
        return set(self.leaves) - self.biases

    def fits(self, names: set[str]) -> bool:
        return names == set(self.leaves) or (self.bias == "optional" and names == self.weights)

    def misfit(self, leaves: Mapping[str, Any]) -> str:
        """Describes the first array whose shape does not fit the others; empty if all do."""
        shapes = {role: np.shape(leaves[name]) for name, role in self.leaves.items() if name in leaves}
        for name, role in self.leaves.items():
            if role in ("x", "h", "xh", "p") and len(shapes[role]) != 2:
                return f"{name!r} is {list(shapes[role])}; expected a matrix"
        n = len(self.gates)
        turned = slice(None, None, -1) if self.transposed else slice(None)
        rows, columns = shapes["xh" if "xh" in shapes else "h"][turned]
        size = columns // n
        inputs = rows - size if "xh" in shapes else shapes["x"][turned][0]
        out = shapes["p"][0] if "p" in shapes else size
        wanted = {"x": (inputs, n * size)[turned], "h": (out, n * size)[turned], "xh": (inputs + size, n * size)}
        wanted |= {"b": (n * size,), "b_h": (n * size,), "bb": (2, n * size), "b_n": (size,), "p": (out, size)}
        for name, role in self.leaves.items():
            if role in shapes and shapes[role] != wanted[role]:
                return f"{name!r} is {list(shapes[role])}, but {size} units need {list(wanted[role])}"
        return "" if size > 0 and inputs > 0 else f"{shapes} leave no units or no inputs"


def _lstm(library: str, name: str, leaves: Mapping[str, Role], gates: str = "ifgo", **rest: Any) -> Layout:
    return Layout(library, name, LSTM, LSTMParams, leaves, gates, **rest)


def _gru(library: str, name: str, leaves: Mapping[str, Role], gates: str = "rzn", **rest: Any) -> Layout:
    return Layout(library, name, GRU, GRUParams, leaves, gates, **rest)


def _before(library: str, name: str, leaves: Mapping[str, Role], gates: str, **rest: Any) -> Layout:
    return Layout(library, name, ResetBeforeGRU, Gated, leaves, gates, **rest)


def _rnn(library: str, name: str, leaves: Mapping[str, Role], **rest: Any) -> Layout:
    rest.setdefault("activation", None)
    return Layout(library, name, Elman, ElmanParams, leaves, "h", **rest)


_KERAS: dict[str, Role] = {"kernel": "x", "recurrent_kernel": "h", "bias": "b"}
_EQUINOX: dict[str, Role] = {"weight_ih": "x", "weight_hh": "h", "bias": "b"}
_TORCH: dict[str, Role] = {"weight_ih": "x", "weight_hh": "h", "bias_ih": "b", "bias_hh": "b_h"}
_HAIKU_RNN: dict[str, Role] = {"linear/w": "x", "linear_1/w": "h", "linear/b": "b"}
_RELU: dict[str, Any] = {"activation": "relu", "bias": "always"}

HAIKU = {
    "LSTM": _lstm("Haiku", "LSTM", {"linear/w": "xh", "linear/b": "b"}, "igfo", plus_one="f", bias="always"),
    "GRU": _before("Haiku", "GRU", {"w_i": "x", "w_h": "h", "b": "b"}, "zrn", negated="z", bias="always"),
    "VanillaRNN": _rnn("Haiku", "VanillaRNN", {**_HAIKU_RNN, "linear_1/b": "b_h"}, **_RELU),
    "VanillaRNN(double_bias=False)": _rnn("Haiku", "VanillaRNN", _HAIKU_RNN, **_RELU),
}
EQUINOX = {
    "LSTMCell": _lstm("Equinox", "LSTMCell", _EQUINOX, transposed=True),
    "GRUCell": _gru("Equinox", "GRUCell", {**_EQUINOX, "bias_n": "b_n"}, transposed=True),
}
KERAS = {
    "LSTM": _lstm("Keras", "LSTM", _KERAS),
    "GRU": _gru("Keras", "GRU", {**_KERAS, "bias": "bb"}, "zrn"),
    "GRU(reset_after=False)": _before("Keras", "GRU", _KERAS, "zrn", bias="always"),
    "SimpleRNN": _rnn("Keras", "SimpleRNN", _KERAS),
}
TORCH = {
    "LSTM": _lstm("PyTorch", "LSTM", _TORCH, transposed=True),
    "GRU": _gru("PyTorch", "GRU", _TORCH, transposed=True),
    "RNN": _rnn("PyTorch", "RNN", _TORCH, transposed=True),
    "projected": Layout(
        "PyTorch",
        "LSTM",
        LSTMProjected,
        LSTMProjectedParams,
        {**_TORCH, "weight_hr": "p"},
        "ifgo",
        transposed=True,
    ),
}


def from_layout(layout: Layout, leaves: Mapping[str, Any], activation: Activation | None = None) -> tuple[Any, PyTree]:
    """Our cell and parameters from a library's arrays by name, all NumPy's or all JAX's; shapes must fit.

    Example:

      >>> weights = {"w_i": np.zeros((3, 12)), "w_h": np.zeros((4, 12)), "b": np.arange(12.0)}
      >>> cell, params = from_layout(HAIKU["GRU"], weights)
      >>> cell.hidden_size, params.b[4:8].tolist()
      (4, [-0.0, -1.0, -2.0, -3.0])
    """
    of: dict[str, Any] = {role: leaves[name] for name, role in layout.leaves.items() if name in leaves}
    if "xh" in of:
        size = of["xh"].shape[1] // len(layout.gates)
        w_x, w_h = of["xh"][:-size], of["xh"][-size:]
    else:
        w_x, w_h = ((of[role].T if layout.transposed else of[role]) for role in ("x", "h"))
        size = w_h.shape[1] // len(layout.gates)
    fields = {"w_x": _ours(layout, w_x), "w_h": _ours(layout, w_h), "b": None}
    if layout.record is GRUParams:
        fields["b_hn"] = None
    if "p" in of:
        fields["w_p"] = _turned(of["p"])
    if "bb" in of:
        of["b"], of["b_h"] = of["bb"]
    if "b" in of:
        b, b_h = _ours(layout, of["b"]), (_ours(layout, of["b_h"]) if "b_h" in of else None)
        if layout.record is GRUParams:
            fields["b_hn"] = of["b_n"] if b_h is None else b_h[-size:]
            b_h = None if b_h is None else _xp(b).concatenate([b_h[:-size], _xp(b).zeros_like(fields["b_hn"])])
        b = b if b_h is None else b + b_h
        fields["b"] = _shifted(layout, b, 1)
    sizes = (size, of["p"].shape[0]) if "p" in of else (size,)
    activations = () if layout.activation == "" else (layout.activation or activation,)
    cell = layout.cell(*sizes, *activations)
    return (cell if "b" in of else WithoutBias(cell)), layout.record(**fields)


def to_layout(layout: Layout, params: Any) -> dict[str, Any]:
    """A library's arrays by name from our parameters: the inverse of `from_layout`, the whole bias in its first.

    Raises:
      ValueError: a shape does not fit the others.
    """
    size, wide = params.w_h.shape[1] // len(layout.gates), params.w_h.shape[1]
    shapes = {"w_x": (params.w_x.shape[0], wide), "w_h": (size, wide), "b": (wide,), "b_hn": (size,)}
    if hasattr(params, "w_p"):
        shapes |= {"w_h": (params.w_p.shape[1], wide), "w_p": (size, params.w_p.shape[1])}
    for name, leaf in params._asdict().items():
        if leaf is not None and leaf.shape != shapes[name]:
            raise ValueError(f"`{name}` is {list(leaf.shape)}, but {size} units need {list(shapes[name])}.")
    of: dict[str, Any] = {"x": _theirs(layout, params.w_x), "h": _theirs(layout, params.w_h)}
    of["xh"] = _xp(of["x"]).concatenate([of["x"], of["h"]])
    if layout.transposed:
        of |= {role: _turned(of[role]) for role in ("x", "h")}
    if hasattr(params, "w_p"):
        of["p"] = _turned(params.w_p)
    if params.b is not None:
        of["b"] = _theirs(layout, _shifted(layout, params.b, -1))
        of["b_h"] = _xp(of["b"]).zeros_like(of["b"])
        if isinstance(params, GRUParams):
            of["b_n"] = params.b_hn
            zeros = of["b_h"][: -params.b_hn.shape[0]]
            of["b_h"] = _theirs(layout, _xp(zeros).concatenate([zeros, params.b_hn]))
        of["bb"] = _xp(of["b"]).stack([of["b"], of["b_h"]])
    return {name: of[role] for name, role in layout.leaves.items() if role in of}


def _ours(layout: Layout, stacked: Any) -> Any:
    return _reordered(stacked, layout.gates, OURS[len(layout.gates)], layout.negated)


def _theirs(layout: Layout, stacked: Any) -> Any:
    return _reordered(stacked, OURS[len(layout.gates)], layout.gates, layout.negated)


def _reordered(stacked: Any, given: str, wanted: str, negated: str) -> Any:
    """The blocks of the last axis in another order, some with the other sign: σ(-a) = 1 - σ(a)."""
    blocks = dict(zip(given, _xp(stacked).split(stacked, len(given), axis=-1), strict=True))
    return _xp(stacked).concatenate([-blocks[gate] if gate in negated else blocks[gate] for gate in wanted], axis=-1)


def _shifted(layout: Layout, b: Any, sign: int) -> Any:
    """Our bias with what their step adds, or without."""
    if not layout.plus_one:
        return b
    ones = np.array([sign * float(gate in layout.plus_one) for gate in OURS[len(layout.gates)]])
    return b + _xp(b).asarray(np.repeat(ones, b.shape[0] // len(ones)), b.dtype)


def _turned(matrix: Any) -> Any:
    return np.ascontiguousarray(matrix.T) if isinstance(matrix, np.ndarray) else matrix.T


def _xp(array: Any) -> Any:
    """NumPy or `jax.numpy`, whichever an array belongs to."""
    return np if isinstance(array, np.ndarray) else jnp

"""Converts parameters of Flax linen cells to rnnjax's layout and back, by stacking or splitting the gates.

    linen                                                         rnnjax
    LSTMCell    ii if ig io: kernel, hi hf hg ho: kernel, bias    LSTMParams: the four concatenated
    GRUCell     ir iz in: kernel, bias, hr hz hn: kernel          GRUParams: the three concatenated
                hn: bias                                          b_hn
    SimpleCell  i: kernel, bias, h: kernel                        ElmanParams

`OptimizedLSTMCell` has the tree of `LSTMCell`. Nothing is rounded or added, so a round trip gives the same bits.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax.core import meta
from jax import Array

from rnnjax.cell import PyTree
from rnnjax.cells import ElmanParams, GRUParams, LSTMParams
from rnnjax.compose import BothWays
from rnnjax.flax.layouts import Layout, check_record, recognised, wraps

_KERNEL_X, _KERNEL_H, _BIAS = ("D", 1), (1, 1), (1,)
LAYOUTS = (
    Layout(
        "LSTMCell",
        {f"i{gate}.kernel": _KERNEL_X for gate in "ifgo"}
        | {f"h{gate}.kernel": _KERNEL_H for gate in "ifgo"}
        | {f"h{gate}.bias": _BIAS for gate in "ifgo"},
    ),
    Layout(
        "GRUCell",
        {f"i{gate}.kernel": _KERNEL_X for gate in "rzn"}
        | {f"i{gate}.bias": _BIAS for gate in "rzn"}
        | {f"h{gate}.kernel": _KERNEL_H for gate in "rzn"}
        | {"hn.bias": _BIAS},
    ),
    Layout("SimpleCell", {"i.kernel": _KERNEL_X, "i.bias": _BIAS, "h.kernel": _KERNEL_H}),
)
_EXPECTED = (
    "the tree of a linen LSTMCell or OptimizedLSTMCell (hf, hg, hi, ho, if, ig, ii, io), GRUCell (hn, hr, hz, in, ir, "
    "iz) or SimpleCell (h, i), or of an RNN or Bidirectional around one; pass only the part of your model's parameters "
    "that belongs to the cell"
)


def from_linen(params: Mapping[str, Any]) -> PyTree:
    """Converts parameters of a linen cell, `RNN` or `Bidirectional`; the names identify the kind of cell.

    Args:
      params: a cell's tree, `{"ii": {"kernel": ...}, ...}`; or a tree that contains it under `"cell"` (`RNN`),
        `"forward_rnn"` and `"backward_rnn"` (`Bidirectional`), or `"params"` (the result of `init`). Boxes with
        partitioning metadata are unboxed.
    Returns:
      `LSTMParams`, `GRUParams` or `ElmanParams`, or a `BothWays` of two of them.
    Raises:
      ValueError: a name is unknown or missing (the message suggests the closest one), or the shapes do not fit each
        other.

    Example:

      >>> import jax, flax.linen as nn
      >>> cell = nn.GRUCell(features=4)
      >>> variables = cell.init(jax.random.key(0), jnp.zeros(4, "float32"), jnp.zeros(3, "float32"))
      >>> from_linen(variables).w_x.shape
      (3, 12)
    """
    tree = meta.unbox(params)
    for wrapper in ("params", "cell"):
        if wraps("params", tree, wrapper):
            return from_linen(tree[wrapper])
    if wraps("params", tree, "forward_rnn", "backward_rnn"):
        return BothWays(from_linen(tree["forward_rnn"]), from_linen(tree["backward_rnn"]))
    layout, leaves = recognised("params", tree, LAYOUTS, _EXPECTED)
    if layout.cell == "LSTMCell":
        return LSTMParams(
            w_x=_joined(leaves, ("ii", "if", "ig", "io"), "kernel"),
            w_h=_joined(leaves, ("hi", "hf", "hg", "ho"), "kernel"),
            b=_joined(leaves, ("hi", "hf", "hg", "ho"), "bias"),
        )
    if layout.cell == "GRUCell":
        return GRUParams(
            w_x=_joined(leaves, ("ir", "iz", "in"), "kernel"),
            w_h=_joined(leaves, ("hr", "hz", "hn"), "kernel"),
            b=_joined(leaves, ("ir", "iz", "in"), "bias"),
            b_hn=jnp.asarray(leaves["hn.bias"]),
        )
    return ElmanParams(*(jnp.asarray(leaves[name]) for name in ("i.kernel", "h.kernel", "i.bias")))


def to_linen(params: PyTree) -> dict[str, Any]:
    """Converts parameters to the tree of a linen cell: the inverse of `from_linen`.

    Args:
      params: `LSTMParams`, `GRUParams` or `ElmanParams`, or a `BothWays` of them.
    Returns:
      The cell's tree, which goes where the model has its cell (`{"params": {"cell": ...}}` for a bare `RNN`). For a
      `BothWays`, the tree of a `Bidirectional` with two `RNN`s.
    Raises:
      TypeError: linen has no such cell.
      ValueError: the arrays do not fit each other, or there is no bias (`WithoutBias`), which linen's cells require.

    Example:

      >>> import jax, rnnjax
      >>> params = rnnjax.LSTM(4).init(jax.random.key(0), input_size=3)
      >>> tree = to_linen(params)
      >>> sorted(tree), tree["hf"]["bias"].tolist()
      (['hf', 'hg', 'hi', 'ho', 'if', 'ig', 'ii', 'io'], [1.0, 1.0, 1.0, 1.0])
    """
    if isinstance(params, BothWays):
        return {
            "forward_rnn": {"cell": to_linen(params.forward)},
            "backward_rnn": {"cell": to_linen(params.backward)},
        }
    check_record(params)
    if isinstance(params, LSTMParams):
        kernels = {f"i{gate}": {"kernel": w} for gate, w in _gates("ifgo", params.w_x)}
        biases = dict(_gates("ifgo", params.b))
        return kernels | {f"h{gate}": {"kernel": w, "bias": biases[gate]} for gate, w in _gates("ifgo", params.w_h)}
    if isinstance(params, GRUParams):
        biases = dict(_gates("rzn", params.b))
        kernels = {f"i{gate}": {"kernel": w, "bias": biases[gate]} for gate, w in _gates("rzn", params.w_x)}
        kernels |= {f"h{gate}": {"kernel": w} for gate, w in _gates("rzn", params.w_h)}
        kernels["hn"]["bias"] = params.b_hn
        return kernels
    return {"i": {"kernel": params.w_x, "bias": params.b}, "h": {"kernel": params.w_h}}


def _joined(leaves: Mapping[str, Any], names: tuple[str, ...], leaf: str) -> Array:
    return jnp.concatenate([leaves[f"{name}.{leaf}"] for name in names], axis=-1)


def _gates(gates: str, packed: Array) -> list[tuple[str, Array]]:
    return list(zip(gates, jnp.split(packed, len(gates), axis=-1), strict=True))

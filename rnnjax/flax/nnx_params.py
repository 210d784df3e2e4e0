"""Converts parameters of Flax nnx cells to rnnjax's layout and back.

    nnx                                                           rnnjax
    OptimizedLSTMCell  dense_i: kernel, dense_h: kernel, bias     LSTMParams, unchanged
    LSTMCell           ii if_ ig io: kernel, hi hf hg ho: both    LSTMParams: the four concatenated
    GRUCell            dense_i: kernel, bias, dense_h: kernel     GRUParams with b_hn = 0: nnx has no such bias
    SimpleCell         dense_i: kernel, bias, dense_h: kernel     ElmanParams

Nothing is rounded or added, so a round trip gives the same bits.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.core import Tracer

from rnnjax.cell import PyTree
from rnnjax.cells import ElmanParams, GRUParams, LSTMParams
from rnnjax.compose import BothWays
from rnnjax.flax.layouts import Layout, check_record, recognised, wraps

_INPUT = ("ii", "if_", "ig", "io")
_HIDDEN = ("hi", "hf", "hg", "ho")
LAYOUTS = (
    Layout("OptimizedLSTMCell", {"dense_i.kernel": ("D", 4), "dense_h.kernel": (1, 4), "dense_h.bias": (4,)}),
    Layout(
        "LSTMCell",
        {f"{name}.kernel": ("D", 1) for name in _INPUT}
        | {f"{name}.kernel": (1, 1) for name in _HIDDEN}
        | {f"{name}.bias": (1,) for name in _HIDDEN},
    ),
    Layout("GRUCell", {"dense_i.kernel": ("D", 3), "dense_i.bias": (3,), "dense_h.kernel": (1, 3)}),
    Layout("SimpleCell", {"dense_i.kernel": ("D", 1), "dense_i.bias": (1,), "dense_h.kernel": (1, 1)}),
)
_EXPECTED = (
    "the state of an nnx OptimizedLSTMCell, LSTMCell, GRUCell or SimpleCell, or of an RNN or Bidirectional around one; "
    "pass only the part of your model's state that belongs to the cell, such as `nnx.state(model.rnn.cell)`"
)


def from_nnx(state: Mapping[Any, Any]) -> PyTree:
    """Converts the state of an nnx cell, `RNN` or `Bidirectional`.

    Args:
      state: `nnx.state(module)`, or its pure dict (`nnx.to_pure_dict`), as in checkpoints. The random streams under
        `rngs` are ignored.
    Returns:
      `LSTMParams`, `GRUParams` (with `b_hn` zero) or `ElmanParams`, or a `BothWays` of two of them.
    Raises:
      ValueError: a name is unknown or missing (the message suggests the closest one), or the shapes do not fit each
        other.

    Example:

      >>> cell = nnx.GRUCell(in_features=3, hidden_features=4, rngs=nnx.Rngs(0))
      >>> from_nnx(nnx.state(cell)).w_x.shape
      (3, 12)
    """
    tree = _without_streams(_pure(state))
    if wraps("state", tree, "cell"):
        return from_nnx(tree["cell"])
    if wraps("state", tree, "forward_rnn", "backward_rnn"):
        return BothWays(from_nnx(tree["forward_rnn"]), from_nnx(tree["backward_rnn"]))
    layout, leaves = recognised("state", tree, LAYOUTS, _EXPECTED)
    leaves = {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
    if layout.cell == "LSTMCell":
        return LSTMParams(
            w_x=_joined(leaves, _INPUT, "kernel"),
            w_h=_joined(leaves, _HIDDEN, "kernel"),
            b=_joined(leaves, _HIDDEN, "bias"),
        )
    w_x, w_h = leaves["dense_i.kernel"], leaves["dense_h.kernel"]
    if layout.cell == "OptimizedLSTMCell":
        return LSTMParams(w_x, w_h, leaves["dense_h.bias"])
    b = leaves["dense_i.bias"]
    if layout.cell == "GRUCell":
        return GRUParams(w_x, w_h, b, b_hn=jnp.zeros(w_h.shape[0], b.dtype))
    return ElmanParams(w_x, w_h, b)


def to_nnx(params: PyTree, *, per_gate: bool = False) -> dict[str, Any]:
    """Converts parameters to the pure dict of an nnx cell's state: the inverse of `from_nnx`.

    Args:
      params: `LSTMParams`, `GRUParams` or `ElmanParams`, or a `BothWays` of them.
      per_gate: convert LSTMs for `nnx.LSTMCell`, which has one matrix per gate, instead of `nnx.OptimizedLSTMCell`.
    Returns:
      A dict for `nnx.update(cell, ...)`; for a `BothWays`, one for a `Bidirectional` with two `RNN`s.
    Raises:
      ValueError: `b_hn` is not known to be zero (nnx's GRU lacks this bias), the arrays do not fit each other, or there
        is no bias (`WithoutBias`), which nnx's cells require.
      TypeError: nnx has no such cell.

    Example:

      >>> import rnnjax
      >>> params = rnnjax.LSTM(4).init(jax.random.key(0), input_size=3)
      >>> cell = nnx.OptimizedLSTMCell(in_features=3, hidden_features=4, rngs=nnx.Rngs(0))
      >>> nnx.update(cell, to_nnx(params))
      >>> bool((cell.dense_h.bias[...] == params.b).all())
      True
    """
    if isinstance(params, BothWays):
        return {
            "forward_rnn": {"cell": to_nnx(params.forward, per_gate=per_gate)},
            "backward_rnn": {"cell": to_nnx(params.backward, per_gate=per_gate)},
        }
    check_record(params)
    if isinstance(params, LSTMParams):
        if not per_gate:
            return {"dense_i": {"kernel": params.w_x}, "dense_h": {"kernel": params.w_h, "bias": params.b}}
        w_x, w_h, b = (jnp.split(packed, 4, axis=-1) for packed in params)
        tree: dict[str, Any] = {name: {"kernel": w} for name, w in zip(_INPUT, w_x, strict=True)}
        return tree | {name: {"kernel": w, "bias": v} for name, w, v in zip(_HIDDEN, w_h, b, strict=True)}
    if isinstance(params, GRUParams):
        _check_no_b_hn(params.b_hn)
    return {"dense_i": {"kernel": params.w_x, "bias": params.b}, "dense_h": {"kernel": params.w_h}}


def _without_streams(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without the keys and counts of `nnx.Rngs` and `nnx.RngStream`."""

    def is_stream(part: Any) -> bool:
        return isinstance(part, Mapping) and (
            set(part) == {"count", "key"} or (bool(part) and all(map(is_stream, part.values())))
        )

    return {name: part for name, part in tree.items() if not (name == "rngs" and is_stream(part))}


def _pure(state: Mapping[Any, Any]) -> dict[str, Any]:
    tree = nnx.to_pure_dict(state) if isinstance(state, nnx.State) else dict(state)
    return jax.tree.map(
        lambda leaf: leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
    )


def _joined(leaves: Mapping[str, Any], names: tuple[str, ...], leaf: str) -> Array:
    return jnp.concatenate([leaves[f"{name}.{leaf}"] for name in names], axis=-1)


def _check_no_b_hn(b_hn: Array) -> None:
    fix = "keep the parameters in rnnjax, or use linen's GRUCell (`to_linen`), which has that bias"
    if isinstance(b_hn, Tracer):
        raise ValueError(f"`b_hn` is traced, but nnx's GRU lacks this bias, so it must be known to be zero; {fix}.")
    if np.any(np.asarray(b_hn) != 0):
        raise ValueError(f"`b_hn` is not zero (up to {np.abs(b_hn).max()}), and nnx's GRU has no such bias; {fix}.")

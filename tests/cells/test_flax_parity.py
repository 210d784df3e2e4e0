"""Parity with Flax linen, with our weights converted by hand.

Flax's LSTM and GRU have one kernel per gate (`ii`, `hf`, ...), so this also checks the order of our gates. Gradients
are compared in `tests/parity`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.registry import CELLS, B, T, assert_close, sample

LENGTHS = np.array([5, 3, 1])


def per_gate(array, gates: str) -> dict:
    return dict(zip(gates, jnp.split(array, len(gates), axis=-1), strict=True))


def lstm_weights(params):
    w_x, w_h, b = (per_gate(leaf, "ifgo") for leaf in params)
    kernels = {f"i{gate}": {"kernel": w_x[gate]} for gate in "ifgo"}
    return kernels | {f"h{gate}": {"kernel": w_h[gate], "bias": b[gate]} for gate in "ifgo"}


def gru_weights(params):
    w_x, w_h, b = (per_gate(leaf, "rzn") for leaf in params[:3])
    weights = {f"i{gate}": {"kernel": w_x[gate], "bias": b[gate]} for gate in "rzn"}
    weights |= {f"h{gate}": {"kernel": w_h[gate]} for gate in "rz"}
    return weights | {"hn": {"kernel": w_h["n"], "bias": params.b_hn}}


def simple_weights(params):
    return {"i": {"kernel": params.w_x, "bias": params.b}, "h": {"kernel": params.w_h}}


def swapped(carry):
    """Flax's LSTM carries (c, h)."""
    return (carry.c, carry.h)


def same(carry):
    return carry


PEERS = {
    "OptimizedLSTMCell": ("lstm", nn.OptimizedLSTMCell, lstm_weights, swapped),
    "LSTMCell": ("lstm", nn.LSTMCell, lstm_weights, swapped),
    "GRUCell": ("gru", nn.GRUCell, gru_weights, same),
    "SimpleCell": ("elman_tanh", nn.SimpleCell, simple_weights, same),
}


def in_flax(peer: str, drawn, *, lengths=None, reverse=False):
    """`(carry, ys)` of `nn.RNN` over Flax's cell, its carry in Flax's order."""
    _, make, weights, to_flax = PEERS[peer]
    dtype = drawn.xs.dtype
    layer = nn.RNN(
        make(3, dtype=dtype, param_dtype=dtype), time_major=True, return_carry=True, reverse=reverse, keep_order=True
    )
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(lambda p, c, xs: layer.apply({"params": {"cell": p}}, xs, initial_carry=c, seq_lengths=lengths))(
            weights(drawn.params), to_flax(drawn.carry), drawn.xs
        )


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_flax_agrees(peer, dtype, tolerance):
    """Outputs and the last carry, from a random initial carry: 1e-6 in float32, 1e-12 in x64."""
    name, _, _, to_flax = PEERS[peer]
    drawn = sample(name, dtype)
    carry, ys = jax.jit(lambda drawn: rnnjax.unroll(CELLS[name], **drawn._asdict()))(drawn)
    assert_close((to_flax(carry), ys), in_flax(peer, drawn), tolerance)


@pytest.mark.parametrize("peer", ["OptimizedLSTMCell", "GRUCell"])
def test_flax_agrees_on_lengths(peer):
    """Rows of different lengths: outputs within each row, and the carry after its last step."""
    name, _, _, to_flax = PEERS[peer]
    drawn = sample(name)
    carry, ys = jax.jit(lambda drawn: rnnjax.unroll(CELLS[name], **drawn._asdict(), lengths=LENGTHS))(drawn)
    flax_carry, flax_ys = in_flax(peer, drawn, lengths=LENGTHS)
    inside = np.arange(T)[:, None] < LENGTHS
    assert_close((to_flax(carry), ys), (flax_carry, jnp.where(inside[..., None], flax_ys, 0.0)))


def test_flax_agrees_on_reverse_with_lengths():
    """Each row runs from its own end and outputs stay in input order: Flax's `reverse` with `keep_order`."""
    drawn = sample("gru")
    carry, ys = jax.jit(lambda drawn: rnnjax.unroll(CELLS["gru"], **drawn._asdict(), lengths=LENGTHS, reverse=True))(
        drawn
    )
    flax_carry, flax_ys = in_flax("GRUCell", drawn, lengths=LENGTHS, reverse=True)
    inside = np.arange(T)[:, None] < LENGTHS
    assert_close((carry, ys), (flax_carry, jnp.where(inside[..., None], flax_ys, 0.0)))
    assert ys.shape == (T, B, 3)

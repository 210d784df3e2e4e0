"""The network of the training experiments: one recurrent layer and a linear readout of every step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import rnnjax
from rnnjax import tasks

CELLS: dict[str, Callable[[int], rnnjax.Cell]] = {"elman": rnnjax.Elman, "lstm": rnnjax.LSTM, "gru": rnnjax.GRU}
"""By the name of `--cells`: orthogonal W2 (gate by gate), W1 of variance 1/D, the LSTM's forget bias 1."""


class Network(NamedTuple):
    rnn: Any  # the cell's parameters
    w_out: Array  # [H, K]
    b_out: Array  # [K]


def init(cell: rnnjax.Cell, inputs: int, outputs: int, key: Array) -> Network:
    """The cell as it draws itself; `w_out` ~ N(0, 1/H), `b_out` = 0. QR inside: not for a program with a time loop."""
    key_rnn, key_out = jax.random.split(key)
    size: int = cell.hidden_size  # pyright: ignore[reportAttributeAccessIssue]
    w_out = jax.random.normal(key_out, (size, outputs)) / jnp.sqrt(size)
    return Network(cell.init(key_rnn, inputs), w_out, jnp.zeros(outputs, w_out.dtype))


def apply(cell: rnnjax.Cell, network: Network, batch: tasks.Batch, *, ragged: bool) -> Array:
    """y_t = h_t W_out + b_out, `[T, *batch, K]`; with `ragged`, rows end where `batch.lengths` says."""
    lengths = batch.lengths if ragged else None
    _, hs = rnnjax.unroll(cell, network.rnn, None, batch.xs, lengths=lengths)
    return hs @ network.w_out + network.b_out

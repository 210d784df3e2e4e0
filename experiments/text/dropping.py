"""DropConnect: at every update each entry of W2 and of the readout is absent with probability p.

    W ← W ⊙ M / (1 - p)        M_ij ~ Bernoulli(1 - p), one M for all steps and rows of the update

The masks are drawn outside of the loop over time, so the cell is the one that it was, and runs as fast.

Reference: Wan, Zeiler, Zhang, LeCun and Fergus, Regularization of neural networks using DropConnect, ICML 2013; on the
recurrent matrix: Merity, Keskar and Socher, Regularizing and optimizing LSTM language models, ICLR 2018, section 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import ReadoutParams


def dropped(params: ReadoutParams, key: Array, rate: float) -> ReadoutParams:
    """The parameters with `w_h` of the cell and `w_out` thinned out; 0 <= rate < 1."""
    key_rnn, key_out = jax.random.split(key)

    def thin(weights: Array, key: Array) -> Array:
        kept = jax.random.bernoulli(key, 1 - rate, weights.shape)
        return jnp.where(kept, weights / jnp.asarray(1 - rate, weights.dtype), 0)

    rnn = params.rnn._replace(w_h=thin(params.rnn.w_h, key_rnn))
    return params._replace(rnn=rnn, w_out=thin(params.w_out, key_out))


def with_dropped(loss: Callable[..., Any], rate: float) -> Callable[..., Any]:
    """`loss(params, batch, carry)` with weights dropped, as a function of a key too; for `fit`, which gives one."""

    def thinned(params: ReadoutParams, batch: Any, carry: Any, key: Array) -> Any:
        return loss(dropped(params, key, rate) if rate else params, batch, carry)

    return thinned

"""Flax support: drop-in RNN modules that run on rnnjax, and conversion of parameters in both directions.

`rnnjax.flax.linen` and `rnnjax.flax.nnx` have an `RNN` and a `Bidirectional` that replace Flax's by changing one line,
and `ScannedRNN` is the core of RL agents in linen.
Only this package imports Flax, and `import rnnjax` does not import it.

Example: run the LSTM of a linen model as pure functions.

  >>> import jax, jax.numpy as jnp, flax.linen as nn, rnnjax
  >>> from rnnjax.flax import from_linen
  >>> xs = jnp.ones((2, 5, 3), "float32")
  >>> variables = nn.RNN(nn.OptimizedLSTMCell(features=4)).init(jax.random.key(0), xs)
  >>> carry, ys = rnnjax.unroll(rnnjax.LSTM(4), from_linen(variables), xs.swapaxes(0, 1))
  >>> ys.shape
  (5, 2, 4)
"""

from rnnjax.flax import linen, nnx
from rnnjax.flax.linen_params import from_linen, to_linen
from rnnjax.flax.nnx_params import from_nnx, to_nnx
from rnnjax.flax.scanned import ScannedRNN

__all__ = ["ScannedRNN", "from_linen", "from_nnx", "linen", "nnx", "to_linen", "to_nnx"]

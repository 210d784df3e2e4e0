"""The recurrent core of RL agents in linen, `ScannedRNN`, which resets its state where an episode is done."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll import Checkpoint, Engine
from rnnjax.cell import PyTree
from rnnjax.flax.linen import RNN


class ScannedRNN(nn.Module):
    """Runs a cell over time, and starts it anew before each step at which `dones` is true.

    It replaces the class of this name that agents carry with them, `nn.scan` over a step with
    `jnp.where(resets, initial, carry)`: same call, same carry, same parameters, on the engines of rnnjax.

    Attributes:
      cell: makes the cell: `nn.GRUCell`, `nn.OptimizedLSTMCell`, or a `functools.partial` of one.
      features: the width; by default that of the carry.
      cell_name: the name of the cell's parameters. By default it ends with 1, "GRUCell_1": in the class that is copied,
        number 0 is the cell that makes the initial carry for resets. Where that is made otherwise, pass "GRUCell_0".
      engine, checkpoint, chunk: as in `rnnjax.unroll`.

    Example:

      >>> core = ScannedRNN()
      >>> carry = ScannedRNN.initialize_carry(2, 4)
      >>> observations, dones = jnp.ones((5, 2, 3), "float32"), jnp.zeros((5, 2), bool)
      >>> variables = core.init(jax.random.key(0), carry, (observations, dones))
      >>> carry, ys = core.apply(variables, carry, (observations, dones.at[3, 0].set(True)))
      >>> ys.shape, bool((ys[3, 0] == ys[0, 0]).all()), list(variables["params"])
      ((5, 2, 4), True, ['GRUCell_1'])

    Reference: Lu et al., Discovered policy optimisation, NeurIPS 2022 (arXiv:2210.05639), whose code, PureJaxRL, has
    the class.
    """

    cell: Callable[..., Any] = nn.GRUCell
    features: int | None = None
    cell_name: str | None = None
    engine: Engine = "auto"
    checkpoint: Checkpoint = None
    chunk: int | None = None

    @nn.compact
    def __call__(self, carry: PyTree, x: tuple[ArrayLike, ArrayLike]) -> tuple[PyTree, Array]:
        """Runs over all steps; for one step of acting, give arrays with T = 1.

        Args:
          carry: the cell's, `[B, features]`, from `initialize_carry` or the call before.
          x: inputs `[T, B, D]`, and dones `[T, B]`, booleans, or numbers of which any but 0 is true.
        Returns:
          The carry after the last step, and the outputs `[T, B, features]`.
        Raises:
          TypeError: `x` is no pair.
          ValueError: the shapes do not fit.
        """
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise TypeError(f"`x` is a {type(x).__name__}; expected a pair (inputs [T, B, D], dones [T, B]).")
        inputs, dones = jnp.asarray(x[0]), jnp.asarray(x[1])
        features = jax.tree.leaves(carry)[0].shape[-1] if self.features is None else self.features
        kind = type(self.cell(features=features, parent=None)).__name__
        rnn = RNN(
            self.cell(features=features, name=self.cell_name or f"{kind}_1"),
            time_major=True,
            return_carry=True,
            engine=self.engine,
            checkpoint=self.checkpoint,
            chunk=self.chunk,
        )
        return rnn(inputs, initial_carry=carry, resets=dones.astype(bool))

    @staticmethod
    def initialize_carry(batch_size: int, hidden_size: int, cell: Callable[..., Any] = nn.GRUCell) -> PyTree:
        """The carry before the first step, zeros for Flax's cells: `[batch_size, hidden_size]` for a GRU."""
        return cell(features=hidden_size).initialize_carry(jax.random.key(0), (batch_size, hidden_size))

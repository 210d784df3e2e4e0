"""A module of Equinox that runs its cells over time on the engines of rnnjax, with the cells' own parameters.

    h = jax.lax.scan(lambda h, x: (cell(x, h),) * 2, h, xs)          before, under `jax.vmap` over rows
    h, ys = rnnjax.equinox.RNN(cell)(xs, h)                          after, with or without a batch

Cells are `eqx.nn.LSTMCell` and `eqx.nn.GRUCell`, with or without bias; Equinox is needed: pip install equinox.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll import Checkpoint, Engine, unroll
from rnnjax.cell import PyTree
from rnnjax.cells import LSTMCarry
from rnnjax.converters.layouts import EQUINOX, from_layout

try:
    import equinox as eqx
except ImportError as error:
    raise ImportError("rnnjax.equinox needs Equinox: pip install equinox") from error

__all__ = ["RNN"]


class RNN(eqx.Module):
    """Runs a cell of Equinox over time.

    Attributes:
      cell: an `eqx.nn.LSTMCell` or `eqx.nn.GRUCell`, whose arrays are the only ones of this module.
      reverse: whether to run each row from its own end; outputs are in the order of the input.
      engine, checkpoint, chunk: as in `rnnjax.unroll`.

    Example:

      >>> import jax
      >>> rnn = RNN(eqx.nn.LSTMCell(3, 4, key=jax.random.key(0), dtype=jnp.float32))
      >>> (h, c), ys = rnn(jnp.ones((5, 2, 3), "float32"), lengths=jnp.array([5, 3]))
      >>> ys.shape, h.shape, float(abs(ys[3:, 1]).max())
      ((5, 2, 4), (2, 4), 0.0)
    """

    cell: Any
    reverse: bool = eqx.field(static=True, default=False)
    engine: Engine = eqx.field(static=True, default="auto")
    checkpoint: Checkpoint = eqx.field(static=True, default=None)
    chunk: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if type(self.cell) not in (eqx.nn.LSTMCell, eqx.nn.GRUCell):
            raise TypeError(
                f"`cell` is a {type(self.cell).__name__}; expected an eqx.nn.LSTMCell or eqx.nn.GRUCell. For another, "
                "write its step as a `rnnjax.StepCell`."
            )

    def __call__(
        self,
        xs: ArrayLike,
        carry: PyTree | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        key: Any = None,
    ) -> tuple[PyTree, Array]:
        """Runs the cell over all steps.

        Args:
          xs: `[T, *batch, D]`.
          carry: `(h, c)` of an LSTM, h of a GRU, `[*batch, H]`; zeros by default.
          lengths: `[*batch]` integers; at steps t >= lengths[b] the carry does not change, and the output is zero.
          mask: `[T, *batch]` booleans; False masks a step in the same way.
          resets: `[T, *batch]` booleans; the carry is zero before that step.
          key: ignored, as by Equinox's cells.
        Returns:
          The carry after the last step, and the outputs h_t `[T, *batch, H]`.
        Raises:
          ValueError, TypeError: a shape or dtype does not fit.
        """
        layout = EQUINOX[type(self.cell).__name__]
        arrays = {name: getattr(self.cell, name) for name in layout.leaves}
        cell, params = from_layout(layout, {name: leaf for name, leaf in arrays.items() if leaf is not None})
        lstm = isinstance(self.cell, eqx.nn.LSTMCell)
        if carry is not None and lstm:
            carry = LSTMCarry(c=carry[1], h=carry[0])
        last, ys = unroll(
            cell,
            params,
            jnp.asarray(xs),
            carry=carry,
            lengths=lengths,
            mask=mask,
            resets=resets,
            reverse=self.reverse,
            engine=self.engine,
            checkpoint=self.checkpoint,
            chunk=self.chunk,
        )
        return ((last.h, last.c) if lstm else last), ys

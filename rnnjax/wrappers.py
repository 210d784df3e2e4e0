"""Cells that hold a cell and change one thing about it."""

import dataclasses
from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll import is_causal
from rnnjax.cell import C, Cell, P, PyTree


class LearnedCarryParams(NamedTuple, Generic[P]):
    """Parameters of a `LearnedCarry`.

    Attributes:
      cell: the cell's.
      carry: the carry before the first step, with no batch axes; `None` in place of a leaf that is not floating, such
        as a counter, which starts as the cell has it.
    """

    cell: P
    carry: PyTree


@dataclasses.dataclass(frozen=True)
class LearnedCarry(Generic[P, C]):
    """A cell whose initial carry is a parameter, one for all rows.

    It starts at the cell's own initial carry, and receives gradients wherever the initial carry is used: at the first
    step of an `unroll` with no `carry`, and at every reset.

    Attributes:
      cell: anything with a single step. In a `Stack` wrap each layer, so that each keeps a loop of its own.

    Example:

      >>> import rnnjax
      >>> cell = LearnedCarry(rnnjax.LSTM(4))
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> def loss(params):
      ...     return rnnjax.unroll(cell, params, jnp.ones((5, 2, 3)))[1].sum()
      >>> gradient = jax.grad(loss)(params)
      >>> gradient.carry.c.shape, bool(jnp.all(gradient.carry.c != 0))
      ((4,), True)
    """

    cell: Cell[P, C]

    def __post_init__(self) -> None:
        if not is_causal(self.cell) or not hasattr(self.cell, "step"):
            raise TypeError(
                f"`cell` is {self.cell!r}, which has no single step; wrap its parts instead, as in "
                "Bidirectional(LearnedCarry(GRU(8)), LearnedCarry(GRU(8)))."
            )

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> LearnedCarryParams[P]:
        """The cell's parameters as it draws them, and its initial carry."""
        params = self.cell.init(key, input_size, dtype)
        carry = self.cell.initial_carry(params)
        return LearnedCarryParams(params, jax.tree.map(_if_learned, carry))

    def initial_carry(self, params: LearnedCarryParams[P], batch_shape: tuple[int, ...] = ()) -> C:
        """The learned carry, the same for every row."""

        def start(own: Array, learned: Array | None) -> Array:
            return own if learned is None else jnp.broadcast_to(learned, own.shape)

        return jax.tree.map(start, self.cell.initial_carry(params.cell, batch_shape), params.carry)

    def step(self, params: LearnedCarryParams[P], carry: C, x: Array) -> tuple[C, PyTree]:
        return self.cell.step(params.cell, carry, x)


def _if_learned(leaf: Array) -> Array | None:
    return leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None

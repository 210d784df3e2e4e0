"""A learned initial carry, and cells without biases."""

# pyright: reportUnknownMemberType=false

import dataclasses
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import C, Cell, P, PyTree
from rnnjax.cells import GRU, LSTM, Elman, LSTMProjected
from rnnjax.wrappers.base import Wrapper


class LearnedCarryParams(NamedTuple, Generic[P]):
    """Parameters of a `LearnedCarry`.

    Attributes:
      cell: the cell's parameters.
      carry: the initial carry, without batch axes. A leaf that is not floating point, such as a counter, is `None` and
        starts at the cell's own value.
    """

    cell: P
    carry: PyTree


@dataclasses.dataclass(frozen=True)
class LearnedCarry(Wrapper, Generic[P, C]):
    """A cell whose initial carry is a parameter, shared by all rows.

    The parameter is initialised to the cell's own initial carry. It receives gradients wherever it is used: at the
    first step of an `unroll` without `carry`, and at every reset.

    Attributes:
      cell: a cell with a single step. In a `Stack`, wrap each layer, so that each layer keeps its own loop.

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

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> LearnedCarryParams[P]:
        """The cell's parameters and its initial carry."""
        params = self.cell.init(key, input_size, dtype)
        carry = self.cell.initial_carry(params)
        return LearnedCarryParams(params, jax.tree.map(_if_learned, carry))

    def initial_carry(self, params: LearnedCarryParams[P], batch_shape: tuple[int, ...] = ()) -> C:
        """The learned carry, repeated for every row."""

        def start(own: Array, learned: Array | None) -> Array:
            return own if learned is None else jnp.broadcast_to(learned, own.shape)

        return jax.tree.map(start, self.cell.initial_carry(params.cell, batch_shape), params.carry)

    def inner(self, params: LearnedCarryParams[P]) -> P:
        return params.cell

    def replaced(self, params: LearnedCarryParams[P], inner: P) -> LearnedCarryParams[P]:
        return params._replace(cell=inner)


@dataclasses.dataclass(frozen=True)
class WithoutBias:
    """A built-in cell without biases, like PyTorch's with `bias=False`.

    Its parameters are the cell's record with `None` for each bias, so optimizers do not see any.

    Attributes:
      cell: an `Elman`, `LSTM`, `GRU` or `LSTMProjected`. (An LSTM's forget bias is removed too.)

    Example:

      >>> import rnnjax
      >>> cell = WithoutBias(rnnjax.LSTM(4))
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> params.b, len(jax.tree.leaves(params))
      (None, 2)
      >>> rnnjax.unroll(cell, params, jnp.ones((5, 2, 3)))[1].shape
      (5, 2, 4)
    """

    cell: Elman | LSTM | GRU | LSTMProjected

    def __post_init__(self) -> None:
        cell: Any = self.cell  # may have any type
        if not isinstance(cell, Elman | LSTM | GRU | LSTMProjected):
            raise TypeError(f"`cell` is {cell!r}; expected an Elman, LSTM, GRU or LSTMProjected.")

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> Any:
        """The cell's parameters, with `None` for each bias."""
        params: Any = self.cell.init(key, input_size, dtype)
        return params._replace(**dict.fromkeys(_biases(params)))

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        cell: Any = self.cell
        return cell.initial_carry(self._with_zeros(params), batch_shape)

    def step(self, params: Any, carry: Any, x: Array) -> tuple[Any, PyTree]:
        cell: Any = self.cell
        return cell.step(self._with_zeros(params), carry, x)

    def _with_zeros(self, params: Any) -> Any:
        """The cell's parameters with zero biases."""
        if not hasattr(params, "_replace") or getattr(params, "w_h", None) is None:
            return params  # the cell raises the error
        given = [name for name in _biases(params) if getattr(params, name) is not None]
        if given:
            raise ValueError(
                f"`params` holds {', '.join(given)}, but {self!r} has no bias; put None in its place, or "
                f"use {self.cell!r}."
            )
        shapes = {"b": params.w_h.shape[1:], "b_hn": params.w_h.shape[:1]}
        zeros = {name: jnp.zeros(shapes[name], params.w_h.dtype) for name in _biases(params)}
        return params._replace(**zeros)


def _biases(params: Any) -> list[str]:
    return [name for name in ("b", "b_hn") if name in params._fields]


def _if_learned(leaf: Array) -> Array | None:
    return leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None

"""A recurrent network with a linear readout of every step: the smallest whole model.

carry_t, h_t = cell(θ, carry_{t-1}, x_t)          y_t = h_t W_out + b_out
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from rnnjax._arguments import over_time
from rnnjax._unroll import Composite, unroll
from rnnjax.cell import Cell, PyTree, check_size, float_dtype


class ReadoutParams(NamedTuple):
    """Parameters of a `Readout`.

    Attributes:
      rnn: the cell's.
      w_out: `[H, K]`.
      b_out: `[K]`.
    """

    rnn: PyTree
    w_out: Array
    b_out: Array


@dataclasses.dataclass(frozen=True)
class Readout:
    """A cell and a linear readout, as a value: it prints as itself, compares by value and can be saved.

    Attributes:
      cell: a cell, or cells put together.
      input_size: D.
      output_size: K.

    Example:

      >>> from rnnjax import LSTM
      >>> model = Readout(LSTM(8), input_size=3, output_size=2)
      >>> params = model.init(jax.random.key(0))
      >>> carry, outputs = model.apply(params, jnp.ones((5, 4, 3)))
      >>> outputs.shape, carry.c.shape
      ((5, 4, 2), (4, 8))
    """

    cell: Cell | Composite
    input_size: int
    output_size: int

    def __post_init__(self) -> None:
        check_size("input_size", self.input_size)
        check_size("output_size", self.output_size)

    def init(self, key: Array, dtype: DTypeLike | None = None) -> ReadoutParams:
        """The cell's parameters as it draws them, `w_out` ~ N(0, 1/H), `b_out` = 0."""
        dtype = float_dtype(dtype)
        key_rnn, key_out = jax.random.split(key)
        rnn = self.cell.init(key_rnn, self.input_size, dtype)
        one = jnp.zeros((1, self.input_size), dtype)
        size = jax.eval_shape(lambda params: unroll(self.cell, params, one)[1], rnn).shape[-1]
        w_out = jax.random.normal(key_out, (size, self.output_size), dtype) / jnp.sqrt(jnp.asarray(size, dtype))
        return ReadoutParams(rnn, w_out, jnp.zeros(self.output_size, dtype))

    def initial_carry(self, params: ReadoutParams, batch_shape: tuple[int, ...] = ()) -> PyTree:
        """The cell's carry before the first step."""
        return self.cell.initial_carry(params.rnn, batch_shape)

    @over_time
    def apply(
        self, params: ReadoutParams, xs: ArrayLike, *, carry: PyTree | None = None, **time: Any
    ) -> tuple[PyTree, Array]:
        """Runs over time and reads every step.

        Args:
          params: from `init`.
          xs: `[T, *batch, D]`.
          carry: before the first step; the initial one if None.
          **time: lengths, mask, resets, engine, ...: as `rnnjax.unroll`.
        Returns:
          `(carry, outputs)`, outputs `[T, *batch, K]`. Where a step does not count, h is zero and the output `b_out`.
        """
        carry, hs = unroll(self.cell, params.rnn, xs, carry=carry, **time)
        return carry, hs @ params.w_out + params.b_out

    def step(self, params: ReadoutParams, carry: PyTree, x: Array) -> tuple[PyTree, Array]:
        """One step: `(carry_{t-1}, x_t [*batch, D])` to `(carry_t, y_t [*batch, K])`.

        Raises:
          TypeError: the cell needs the whole sequence (`Bidirectional`).
        """
        step = getattr(self.cell, "step", None)
        if step is None:
            raise TypeError(f"{self.cell!r} needs the whole sequence and has no single step; use `apply`.")
        carry, h = step(params.rnn, carry, x)
        return carry, h @ params.w_out + params.b_out

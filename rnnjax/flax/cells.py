"""What Flax's cells can do and the built-in ones cannot, as cells: own functions, mixed dtypes, a drawn start."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import Cell, PyTree
from rnnjax.cells import GRUParams, LSTMCarry

Function = Callable[[Array], Array]


class LSTMGate(NamedTuple):
    """c_t = s(f) c_{t-1} + s(i) a(g), h_t = s(o) a(c_t), with functions s and a of one's own."""

    gate_fn: Function
    activation_fn: Function

    def __call__(self, params: PyTree, carry: LSTMCarry, u: Array, r: Array) -> tuple[LSTMCarry, Array]:
        i, f, g, o = jnp.split(u + r, 4, axis=-1)
        c = self.gate_fn(f) * carry.c + self.gate_fn(i) * self.activation_fn(g)
        h = self.gate_fn(o) * self.activation_fn(c)
        return LSTMCarry(h=h, c=c), h


class GRUGate(NamedTuple):
    """h_t = (1 - z) n + z h_{t-1}, with functions of one's own."""

    gate_fn: Function
    activation_fn: Function

    def __call__(self, params: GRUParams, h: Array, u: Array, r: Array) -> tuple[Array, Array]:
        u_r, u_z, u_n = jnp.split(u, 3, axis=-1)
        r_r, r_z, r_n = jnp.split(r, 3, axis=-1)
        z = self.gate_fn(u_z + r_z)
        n = self.activation_fn(u_n + self.gate_fn(u_r + r_r) * r_n)
        h = (1 - z) * n + z * h
        return h, h


class ElmanGate(NamedTuple):
    """h_t = a(u + r), or with `residual` a(u + r + h_{t-1})."""

    activation_fn: Function
    residual: bool

    def __call__(self, params: PyTree, h: Array, u: Array, r: Array) -> tuple[Array, Array]:
        z = u + r
        h = self.activation_fn(z + h if self.residual else z)
        return h, h


@dataclasses.dataclass(frozen=True)
class FlaxCell:
    """The matmuls of a built-in cell, a gate of one's own, and dtypes as Flax has them: it rounds where Flax does.

    Attributes:
      matmuls: whose `project` and `mix` are used.
      gate_function: `(params, carry, u, r) -> (carry, y)`.
      carry_dtype: what the carry is kept in.
      mix_dtype: what the hidden state is rounded to for its matmul.

    Example:

      >>> import rnnjax
      >>> single = jnp.dtype("float32")
      >>> cell = FlaxCell(rnnjax.LSTM(4), LSTMGate(jax.nn.hard_sigmoid, jnp.tanh), single, single)
      >>> params = cell.init(jax.random.key(0), 3, single)
      >>> carry, y = cell.step(params, cell.initial_carry(params), jnp.ones(3, single))
      >>> y.shape
      (4,)
    """

    matmuls: Cell
    gate_function: Callable[..., tuple[PyTree, PyTree]]
    carry_dtype: jnp.dtype
    mix_dtype: jnp.dtype

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree:
        return self.matmuls.init(key, input_size, dtype)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return cast(self.matmuls.initial_carry(params, batch_shape), self.carry_dtype)

    def project(self, params: PyTree, xs: Array) -> PyTree:
        return self.matmuls.project(params, xs)

    def mix(self, params: PyTree, carry: PyTree) -> PyTree:
        return self.matmuls.mix(params, cast(carry, self.mix_dtype))

    def gate(self, params: PyTree, carry: PyTree, u: PyTree, r: PyTree) -> tuple[PyTree, PyTree]:
        return self.gate_function(params, carry, u, r)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.gate(params, carry, self.project(params, x), self.mix(params, carry))


class Started(NamedTuple):
    """Parameters and the carry that a reset goes back to."""

    params: PyTree
    start: PyTree  # leaves [*batch, H]


@dataclasses.dataclass(frozen=True)
class StartingFrom:
    """A cell whose initial carry is an array that it is given, row by row: Flax's `carry_init` may draw it at random.

    The hoisted engine looks at a cell one row at a time, so it cannot serve this one.
    """

    cell: Cell

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> Started:
        params = self.cell.init(key, input_size, dtype)
        return Started(params, self.cell.initial_carry(params))

    def initial_carry(self, params: Started, batch_shape: tuple[int, ...] = ()) -> PyTree:
        def shaped(leaf: Array) -> Array:
            if math.prod(batch_shape) * leaf.shape[-1] != leaf.size:
                raise ValueError(f"resets go back to a carry that is given for {list(leaf.shape[:-1])} rows, no others")
            return leaf.reshape(*batch_shape, leaf.shape[-1])

        return jax.tree.map(shaped, params.start)

    def project(self, params: Started, xs: Array) -> PyTree:
        return self.cell.project(params.params, xs)

    def mix(self, params: Started, carry: PyTree) -> PyTree:
        return self.cell.mix(params.params, carry)

    def gate(self, params: Started, carry: PyTree, u: PyTree, r: PyTree) -> tuple[PyTree, PyTree]:
        return self.cell.gate(params.params, carry, u, r)

    def step(self, params: Started, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.cell.step(params.params, carry, x)


def cast(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    """Every leaf in `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

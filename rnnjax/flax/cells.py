"""Cells for features of Flax that the built-in cells lack: other activations, mixed dtypes, random initial carries."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import Cell, PyTree, check_input, per_row
from rnnjax.cells import GRUParams, LSTMCarry

Function = Callable[[Array], Array]


class Rounded(NamedTuple):
    """The two products of a step, rounded as in Flax."""

    x: Array  # x W_x + b
    h: Array  # h W_h, with h rounded first


class LSTMStep(NamedTuple):
    """c_t = s(f) c_{t-1} + s(i) a(g), h_t = s(o) a(c_t), with arbitrary functions s and a."""

    gate_fn: Function
    activation_fn: Function

    def __call__(self, params: PyTree, carry: LSTMCarry, products: Rounded) -> tuple[LSTMCarry, Array]:
        i, f, g, o = jnp.split(products.x + products.h, 4, axis=-1)
        c = self.gate_fn(f) * carry.c + self.gate_fn(i) * self.activation_fn(g)
        h = self.gate_fn(o) * self.activation_fn(c)
        return LSTMCarry(h=h, c=c), h


class GRUStep(NamedTuple):
    """h_t = (1 - z) n + z h_{t-1}, with arbitrary gate and activation functions."""

    gate_fn: Function
    activation_fn: Function

    def __call__(self, params: GRUParams, h: Array, products: Rounded) -> tuple[Array, Array]:
        x_r, x_z, x_n = jnp.split(products.x, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(products.h, 3, axis=-1)
        z = self.gate_fn(x_z + h_z)
        n = self.activation_fn(x_n + self.gate_fn(x_r + h_r) * (h_n + per_row(params.b_hn, h)))
        h = (1 - z) * n + z * h
        return h, h


class ElmanStep(NamedTuple):
    """h_t = a(x W_x + b + h W_h), or a(... + h_{t-1}) with `residual`."""

    activation_fn: Function
    residual: bool

    def __call__(self, params: PyTree, h: Array, products: Rounded) -> tuple[Array, Array]:
        z = products.x + products.h
        h = self.activation_fn(z + h if self.residual else z)
        return h, h


@dataclasses.dataclass(frozen=True)
class FlaxCell:
    """A built-in cell with arbitrary activations and mixed dtypes, which rounds where Flax does.

    Attributes:
      like: the built-in cell with the same parameters and carry.
      around_products: `(params, carry, products) -> (carry, y)`.
      carry_dtype: the dtype of the carry.
      mix_dtype: the dtype to which the hidden state is rounded for its matmul.

    Example:

      >>> import rnnjax
      >>> single = jnp.dtype("float32")
      >>> cell = FlaxCell(rnnjax.LSTM(4), LSTMStep(jax.nn.hard_sigmoid, jnp.tanh), single, single)
      >>> params = cell.init(jax.random.key(0), 3, single)
      >>> carry, y = cell.step(params, cell.initial_carry(params), jnp.ones(3, single))
      >>> y.shape
      (4,)
    """

    like: Cell
    around_products: Callable[..., tuple[PyTree, PyTree]]
    carry_dtype: jnp.dtype
    mix_dtype: jnp.dtype

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree:
        return self.like.init(key, input_size, dtype)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return cast(self.like.initial_carry(params, batch_shape), self.carry_dtype)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        check_input("x", x, params.w_x)
        rounded = cast(carry, self.mix_dtype)
        h = rounded.h if isinstance(rounded, LSTMCarry) else rounded
        return self.around_products(params, carry, Rounded(x @ params.w_x + per_row(params.b, x), h @ params.w_h))


class Started(NamedTuple):
    """Parameters, and the carry to which resets return."""

    params: PyTree
    start: PyTree  # leaves [*batch, ...]


@dataclasses.dataclass(frozen=True)
class StartingFrom:
    """A cell whose initial carry is given as arrays for each row, since Flax's `carry_init` may be random.

    Attributes:
      batch_ndim: the number of batch axes of these arrays.
    """

    cell: Cell
    batch_ndim: int

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> Started:
        params = self.cell.init(key, input_size, dtype)
        return Started(params, self.cell.initial_carry(params))

    def initial_carry(self, params: Started, batch_shape: tuple[int, ...] = ()) -> PyTree:
        def shaped(leaf: Array) -> Array:
            rows = leaf.shape[: self.batch_ndim]
            if math.prod(batch_shape) != math.prod(rows):
                raise ValueError(f"the initial carry for resets is given for {list(rows)} rows, and cannot be reshaped")
            return leaf.reshape(*batch_shape, *leaf.shape[self.batch_ndim :])

        return jax.tree.map(shaped, params.start)

    def step(self, params: Started, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.cell.step(params.params, carry, x)


def cast(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    """Casts every leaf to `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

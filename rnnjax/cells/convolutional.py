"""Convolutional cells: the products of an LSTM or a GRU become convolutions, in one, two or three dimensions.

Inputs are `[*batch, *space, D]`, states `[*batch, *space, H]`. Kernels are `[*kernel, in, out]`, as in Flax; padding
keeps the space's size.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import sigmoid
from jax.typing import DTypeLike

from rnnjax.cell import C, Cell, check_size, float_dtype
from rnnjax.initializers import Chrono, gate_biases


class ConvParams(NamedTuple):
    w_x: Array  # [*kernel, D, blocks * H]
    w_h: Array  # [*kernel, H, blocks * H]
    b: Array  # [blocks * H]


class ConvLSTMCarry(NamedTuple):
    h: Array  # [*batch, *space, H] hidden state
    c: Array  # [*batch, *space, H] cell state


@dataclasses.dataclass(frozen=True)
class _Convolutional(Cell[ConvParams, C]):
    hidden_size: int
    shape: tuple[int, ...]
    kernel: int = 3

    def __post_init__(self) -> None:
        check_size("hidden_size", self.hidden_size)
        check_size("kernel", self.kernel)
        shape: tuple[Any, ...] = self.shape
        if not isinstance(shape, tuple) or not 1 <= len(shape) <= 3:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"shape is {shape!r}; pass the sizes of one to three axes, such as (28, 28).")
        for size in shape:
            check_size("every entry of shape", size)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> ConvParams:
        """Draws kernels for inputs `[..., *space, input_size]`, of variance 1 / fan-in."""
        check_size("input_size", input_size)
        dtype, width = float_dtype(dtype), self._blocks * self.hidden_size
        around = (self.kernel,) * len(self.shape)

        def kernel(key: Array, features: int) -> Array:
            scale = 1 / math.sqrt(features * self.kernel ** len(self.shape))
            return (jax.random.normal(key, (*around, features, width), dtype) * scale).astype(dtype)

        key_x, key_h = jax.random.split(key)
        return ConvParams(kernel(key_x, input_size), kernel(key_h, self.hidden_size), jnp.zeros(width, dtype))

    @property
    def space(self) -> tuple[int, ...]:
        """The axes of inputs between batch and features."""
        return self.shape

    @property
    def _blocks(self) -> int:
        raise NotImplementedError

    def _zeros(self, params: ConvParams, batch_shape: tuple[int, ...]) -> Array:
        return jnp.zeros((*batch_shape, *self.shape, self.hidden_size), params.b.dtype)

    def _check(self, params: ConvParams, state: Array, x: Array) -> None:
        space, axes = self.shape, len(self.shape)
        if x.shape[-axes - 1 : -1] != space or x.shape[-1] != params.w_x.shape[-2]:
            raise ValueError(
                f"`x` is {list(x.shape)}, but this cell expects [*batch, {', '.join(map(str, space))}, "
                f"{params.w_x.shape[-2]}]; pass `shape` of your data to {type(self).__name__}, and draw parameters "
                "with `init(key, input_size=channels)`."
            )
        if state.shape != (*x.shape[:-1], self.hidden_size):
            raise ValueError(
                f"the carry is {list(state.shape)}, but `x` is {list(x.shape)} and the cell has {self.hidden_size} "
                f"units; `cell.initial_carry(params, {x.shape[: -axes - 1]})` makes one that fits."
            )

    def _convolved(self, x: Array, kernel: Array) -> Array:
        """x * kernel over the space, with zeros around it."""
        axes = len(self.shape)
        letters = "DHW"[3 - axes :]
        rows = x.reshape(-1, *x.shape[-axes - 1 :])
        y = lax.conv_general_dilated(
            rows, kernel, (1,) * axes, "SAME", dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C")
        )
        return y.reshape(*x.shape[:-1], kernel.shape[-1])

    def _bias(self, params: ConvParams, x: Array) -> Array:
        return jnp.broadcast_to(params.b, (*x.shape[:-1], *params.b.shape))


@dataclasses.dataclass(frozen=True)
class ConvLSTM(_Convolutional[ConvLSTMCarry]):
    """The convolutional LSTM.

        i, f, g, o = split(x_t * W_x + h_{t-1} * W_h + b)            * is a convolution over the space
        c_t = σ(f) c_{t-1} + σ(i) tanh(g)
        h_t = σ(o) tanh(c_t)            y_t = h_t

    Attributes:
      hidden_size: H, channels of the state.
      shape: sizes of the one to three axes of the space.
      kernel: size of the kernel on each axis.
      forget_bias: the initial bias of the forget gate: a number, or `initializers.Chrono`.

    Reference: Shi et al., Convolutional LSTM network, NeurIPS 2015 (arXiv:1506.04214), eq. 3, without its peepholes.

    Example:

      >>> import rnnjax
      >>> cell = ConvLSTM(4, shape=(8, 8))
      >>> params = cell.init(jax.random.key(0), input_size=1)
      >>> carry, ys = rnnjax.unroll(cell, params, jnp.ones((5, 2, 8, 8, 1)), lengths=jnp.array([5, 3]))
      >>> ys.shape
      (5, 2, 8, 8, 4)
    """

    forget_bias: float | Chrono = 1.0

    @property
    def _blocks(self) -> int:
        return 4

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> ConvParams:
        params = super().init(key, input_size, dtype)
        return params._replace(b=gate_biases(self.forget_bias, "ifgo", key, params.b.shape, params.b.dtype))

    def initial_carry(self, params: ConvParams, batch_shape: tuple[int, ...] = ()) -> ConvLSTMCarry:
        return ConvLSTMCarry(self._zeros(params, batch_shape), self._zeros(params, batch_shape))

    def step(self, params: ConvParams, carry: ConvLSTMCarry, x: Array) -> tuple[ConvLSTMCarry, Array]:
        self._check(params, carry.h, x)
        a = self._convolved(x, params.w_x) + self._convolved(carry.h, params.w_h) + self._bias(params, x)
        i, f, g, o = jnp.split(a, 4, axis=-1)
        c = sigmoid(f) * carry.c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return ConvLSTMCarry(h, c), h


@dataclasses.dataclass(frozen=True)
class ConvGRU(_Convolutional[Array]):
    """The convolutional GRU, with its reset before the product.

        r, z = σ(split(x_t * W_x^{r,z} + h_{t-1} * W_h^{r,z} + b^{r,z}))            * is a convolution over the space
        n = tanh(x_t * W_x^n + (r h_{t-1}) * W_h^n + b^n)
        h_t = (1 - z) n + z h_{t-1}            y_t = h_t

    Attributes: as for `ConvLSTM`.

    Reference: Ballas, Yao, Pal and Courville, Delving deeper into convolutional networks for learning video
    representations, ICLR 2016 (arXiv:1511.06432), eqs. 8-11, with z for their 1 - z.
    """

    @property
    def _blocks(self) -> int:
        return 3

    def initial_carry(self, params: ConvParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return self._zeros(params, batch_shape)

    def step(self, params: ConvParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self._check(params, carry, x)
        size = self.hidden_size
        x_r, x_z, x_n = jnp.split(self._convolved(x, params.w_x) + self._bias(params, x), 3, axis=-1)
        h_r, h_z = jnp.split(self._convolved(carry, params.w_h[..., : 2 * size]), 2, axis=-1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + self._convolved(r * carry, params.w_h[..., 2 * size :]))
        h = (1 - z) * n + z * carry
        return h, h

"""The GRU cell, reset-after: the reset gate acts on the product with the carry, as in PyTorch, cuDNN and Flax.

    r = σ(x_t W_x^r + h_{t-1} W_h^r + b^r)                          reset gate
    z = σ(x_t W_x^z + h_{t-1} W_h^z + b^z)                          update gate
    n = tanh(x_t W_x^n + b^n + r (h_{t-1} W_h^n + b_hn))            candidate
    h_t = (1 - z) n + z h_{t-1}            y_t = h_t

Gates are stacked on the last axis in the order r, z, n. The candidate has a second bias, `b_hn`, which the reset gate
multiplies; for r and z a second bias would merely add to the first, so there is none.

References: Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014; reset-after:
Appleyard, Kocisky and Blunsom, Optimizing performance of recurrent neural networks on GPUs, 2016.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import Cell, check_input, check_params, check_size, check_state, float_dtype, per_row
from rnnjax.initializers import Chrono, Initializer, LeCunNormal, Orthogonal, check_bias, gate_biases, per_gate


class GRUParams(NamedTuple):
    w_x: Array  # [D, 3H], gates r, z, n
    w_h: Array  # [H, 3H]
    b: Array  # [3H]
    b_hn: Array  # [H], the candidate's recurrent bias


def gru_init(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    w_x: Initializer = LeCunNormal(),  # noqa: B008 (frozen, holds no state)
    w_h: Initializer = Orthogonal(),  # noqa: B008
    update_bias: float | Chrono = 0.0,
    dtype: DTypeLike | None = None,
) -> GRUParams:
    """Draws `w_x` [D, 3H] and `w_h` [H, 3H] gate by gate; biases are zero except for the `update_bias`."""
    check_size("input_size", input_size)
    dtype = float_dtype(dtype)
    key_x, key_h = jax.random.split(key)
    return GRUParams(
        w_x=per_gate(w_x, key_x, (input_size, hidden_size), 3, dtype),
        w_h=per_gate(w_h, key_h, (hidden_size, hidden_size), 3, dtype),
        b=gate_biases(update_bias, "rfn", key, (3 * hidden_size,), dtype),  # f, which keeps the state, is z
        b_hn=jnp.zeros(hidden_size, dtype),
    )


def gru_initial_carry(params: GRUParams, batch_shape: tuple[int, ...] = ()) -> Array:
    """h_0 = 0, `[*batch, H]` in the parameters' dtype."""
    return jnp.zeros((*batch_shape, params.w_h.shape[0]), params.w_h.dtype)


def gru_step(params: GRUParams, h: Array, x: Array) -> tuple[Array, Array]:
    """One step with the signature of `jax.lax.scan`: `(h_{t-1}, x_t)` to `(h_t, y_t)`, with y_t = h_t.

    Args:
      h: hidden state `[*batch, H]`.
      x: input `[*batch, D]`.
    Raises:
      ValueError: the last axis of `x` is not D, or the carry does not fit the rows of `x`.
      TypeError: `x` is not floating point, or differs in dtype from the parameters.

    Example: with the update gate at 1, the state does not change.

      >>> params = GRUParams(jnp.zeros((1, 3)), jnp.zeros((1, 3)), b=jnp.array([0.0, 50.0, 0.0]), b_hn=jnp.zeros(1))
      >>> h, y = gru_step(params, jnp.array([0.7]), jnp.ones(1))
      >>> round(float(h[0]), 6)
      0.7
    """
    check_input("x", x, params.w_x)
    check_state("h", h, x, params.w_h.shape[0])
    x_r, x_z, x_n = jnp.split(x @ params.w_x + per_row(params.b, x), 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ params.w_h, 3, axis=-1)
    reset = jax.nn.sigmoid(x_r + h_r)
    update = jax.nn.sigmoid(x_z + h_z)
    candidate = jnp.tanh(x_n + reset * (h_n + per_row(params.b_hn, x)))
    h = (1 - update) * candidate + update * h
    return h, h


@dataclasses.dataclass(frozen=True)
class GRU(Cell[GRUParams, Array]):
    """A GRU cell.

    Attributes:
      hidden_size: H.
      w_x, w_h: initializers of each gate's matrices.
      update_bias: the initial bias of the update gate z: a number, or `initializers.Chrono`. Without input and
        recurrent weights, the state keeps a share σ(update_bias) per step.

    Example:

      >>> cell = GRU(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, y = cell.step(params, cell.initial_carry(params, (2,)), jnp.ones((2, 3)))
      >>> y.shape
      (2, 4)
    """

    hidden_size: int
    w_x: Initializer = LeCunNormal()
    w_h: Initializer = Orthogonal()
    update_bias: float | Chrono = 0.0

    def __post_init__(self) -> None:
        check_size("hidden_size", self.hidden_size)
        check_bias("update_bias", self.update_bias)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> GRUParams:
        w_x, w_h, update_bias = self.w_x, self.w_h, self.update_bias
        return gru_init(key, input_size, self.hidden_size, w_x=w_x, w_h=w_h, update_bias=update_bias, dtype=dtype)

    def initial_carry(self, params: GRUParams, batch_shape: tuple[int, ...] = ()) -> Array:
        check_params(self, params, GRUParams, w_h=(self.hidden_size, "3H"))
        return gru_initial_carry(params, batch_shape)

    def step(self, params: GRUParams, carry: Array, x: Array) -> tuple[Array, Array]:
        size, wide = self.hidden_size, 3 * self.hidden_size
        check_params(self, params, GRUParams, w_x=("D", wide), w_h=(size, wide), b=(wide,), b_hn=(size,))
        return gru_step(params, carry, x)

"""The LSTM cell with forget gates, whose cell state c is multiplied by a gate instead of a matrix.

    i, f, g, o = split(x_t W_x + h_{t-1} W_h + b)          each [*batch, H]
    c_t = σ(f) c_{t-1} + σ(i) tanh(g)                      cell state, the lecture's long-term memory
    h_t = σ(o) tanh(c_t)            y_t = h_t              hidden state, its short-term memory

Gates are stacked on the last axis in the order of PyTorch and cuDNN: input, forget, candidate, output. The forget bias
is part of `b`, so the step has no hidden constant.

References: Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9 (1997); the forget gate: Gers,
Schmidhuber and Cummins, Learning to forget, Neural Computation 12 (2000); forget_bias = 1: Jozefowicz, Zaremba and
Sutskever, An empirical exploration of recurrent network architectures, ICML 2015.
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


class LSTMParams(NamedTuple):
    w_x: Array  # [D, 4H], gates i, f, g, o
    w_h: Array  # [H, 4H]
    b: Array  # [4H]


class LSTMCarry(NamedTuple):
    h: Array  # [*batch, H] hidden state
    c: Array  # [*batch, H] cell state


def lstm_init(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float | Chrono = 1.0,
    w_x: Initializer = LeCunNormal(),  # noqa: B008 (frozen, holds no state)
    w_h: Initializer = Orthogonal(),  # noqa: B008
    dtype: DTypeLike | None = None,
) -> LSTMParams:
    """Draws `w_x` [D, 4H] and `w_h` [H, 4H] gate by gate; `b` [4H] is zero except for the `forget_bias`.

    A `Chrono` forget bias also sets the biases of the input gate.
    """
    check_size("input_size", input_size)
    dtype = float_dtype(dtype)
    key_x, key_h = jax.random.split(key)
    return LSTMParams(
        w_x=per_gate(w_x, key_x, (input_size, hidden_size), 4, dtype),
        w_h=per_gate(w_h, key_h, (hidden_size, hidden_size), 4, dtype),
        b=gate_biases(forget_bias, "ifgo", key, (4 * hidden_size,), dtype),
    )


def lstm_initial_carry(params: LSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
    """h_0 = c_0 = 0, each `[*batch, H]` in the parameters' dtype."""
    shape, dtype = (*batch_shape, params.w_h.shape[0]), params.w_h.dtype
    return LSTMCarry(h=jnp.zeros(shape, dtype), c=jnp.zeros(shape, dtype))  # separate buffers, so either can be donated


def lstm_step(params: LSTMParams, carry: LSTMCarry, x: Array) -> tuple[LSTMCarry, Array]:
    """One step with the signature of `jax.lax.scan`: `((h, c)_{t-1}, x_t)` to `((h, c)_t, y_t)`, with y_t = h_t.

    Args:
      carry: `LSTMCarry`, each `[*batch, H]`.
      x: input `[*batch, D]`.
    Raises:
      ValueError: the last axis of `x` is not D, or the carry does not fit the rows of `x`.
      TypeError: `x` is not floating point, or differs in dtype from the parameters.

    Example: with the forget gate at 1 and the input gate at 0, the cell state does not change.

      >>> params = LSTMParams(w_x=jnp.zeros((1, 4)), w_h=jnp.zeros((1, 4)), b=jnp.array([-50.0, 50.0, 0.0, 50.0]))
      >>> carry, y = lstm_step(params, LSTMCarry(h=jnp.zeros(1), c=jnp.array([0.7])), jnp.ones(1))
      >>> round(float(carry.c[0]), 6)
      0.7
    """
    check_input("x", x, params.w_x)
    check_state("carry.h", carry.h, x, params.w_h.shape[0])
    check_state("carry.c", carry.c, x, params.w_h.shape[0])
    i, f, g, o = jnp.split(x @ params.w_x + per_row(params.b, x) + carry.h @ params.w_h, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMCarry(h=h, c=c), h


@dataclasses.dataclass(frozen=True)
class LSTM(Cell[LSTMParams, LSTMCarry]):
    """An LSTM cell.

    Attributes:
      hidden_size: H.
      forget_bias: the initial bias of the forget gate: a number, or `initializers.Chrono`. Without input and recurrent
        weights, the gradient of the cell state shrinks by a factor σ(forget_bias) per step.
      w_x, w_h: initializers of each gate's matrices.

    Example:

      >>> cell = LSTM(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, y = cell.step(params, cell.initial_carry(params, (2,)), jnp.ones((2, 3)))
      >>> y.shape, carry.c.shape
      ((2, 4), (2, 4))
    """

    hidden_size: int
    forget_bias: float | Chrono = 1.0
    w_x: Initializer = LeCunNormal()
    w_h: Initializer = Orthogonal()

    def __post_init__(self) -> None:
        check_size("hidden_size", self.hidden_size)
        check_bias("forget_bias", self.forget_bias)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> LSTMParams:
        forget_bias, w_x, w_h = self.forget_bias, self.w_x, self.w_h
        return lstm_init(key, input_size, self.hidden_size, forget_bias=forget_bias, w_x=w_x, w_h=w_h, dtype=dtype)

    def initial_carry(self, params: LSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
        check_params(self, params, LSTMParams, w_h=(self.hidden_size, "4H"))
        return lstm_initial_carry(params, batch_shape)

    def step(self, params: LSTMParams, carry: LSTMCarry, x: Array) -> tuple[LSTMCarry, Array]:
        size, wide = self.hidden_size, 4 * self.hidden_size
        check_params(self, params, LSTMParams, w_x=("D", wide), w_h=(size, wide), b=(wide,))
        return lstm_step(params, carry, x)

"""The LSTM with a projected hidden state: fewer units are fed back and output than hold memory.

    i, f, g, o = split(x_t W_x + h_{t-1} W_h + b)          each [*batch, H]
    c_t = σ(f) c_{t-1} + σ(i) tanh(g)                      cell state, H units
    h_t = (σ(o) tanh(c_t)) W_p            y_t = h_t        hidden state, P units

Gates are stacked as in `LSTM`: input, forget, candidate, output. PyTorch calls P `proj_size`.

Reference: Sak, Senior and Beaufays, Long short-term memory recurrent neural network architectures for large scale
acoustic modeling, Interspeech 2014.
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


class LSTMProjectedParams(NamedTuple):
    w_x: Array  # [D, 4H], gates i, f, g, o
    w_h: Array  # [P, 4H]
    b: Array  # [4H]
    w_p: Array  # [H, P], the projection


class LSTMProjectedCarry(NamedTuple):
    h: Array  # [*batch, P] hidden state
    c: Array  # [*batch, H] cell state


def lstm_projected_init(
    key: Array,
    input_size: int,
    hidden_size: int,
    projection_size: int,
    *,
    forget_bias: float | Chrono = 1.0,
    w_x: Initializer = LeCunNormal(),  # noqa: B008 (frozen, holds no state)
    w_h: Initializer = Orthogonal(),  # noqa: B008
    w_p: Initializer = LeCunNormal(),  # noqa: B008
    dtype: DTypeLike | None = None,
) -> LSTMProjectedParams:
    """Draws `w_x` [D, 4H] and `w_h` [P, 4H] gate by gate, and `w_p` [H, P]; `b` [4H] is as in `lstm_init`."""
    check_size("input_size", input_size)
    dtype = float_dtype(dtype)
    key_x, key_h, key_p = jax.random.split(key, 3)
    return LSTMProjectedParams(
        w_x=per_gate(w_x, key_x, (input_size, hidden_size), 4, dtype),
        w_h=per_gate(w_h, key_h, (projection_size, hidden_size), 4, dtype),
        b=gate_biases(forget_bias, "ifgo", key, (4 * hidden_size,), dtype),
        w_p=w_p(key_p, (hidden_size, projection_size), dtype),
    )


def lstm_projected_initial_carry(params: LSTMProjectedParams, batch_shape: tuple[int, ...] = ()) -> LSTMProjectedCarry:
    """h_0 = 0, `[*batch, P]`, and c_0 = 0, `[*batch, H]`, in the parameters' dtype."""
    size, projection_size = params.w_p.shape
    dtype = params.w_h.dtype
    return LSTMProjectedCarry(
        h=jnp.zeros((*batch_shape, projection_size), dtype), c=jnp.zeros((*batch_shape, size), dtype)
    )


def lstm_projected_step(
    params: LSTMProjectedParams, carry: LSTMProjectedCarry, x: Array
) -> tuple[LSTMProjectedCarry, Array]:
    """One step with the signature of `jax.lax.scan`: `((h, c)_{t-1}, x_t)` to `((h, c)_t, y_t)`, with y_t = h_t.

    Args:
      carry: `LSTMProjectedCarry`, h `[*batch, P]` and c `[*batch, H]`.
      x: input `[*batch, D]`.
    Raises:
      ValueError: the last axis of `x` is not D. (A width of 1 would otherwise broadcast silently.)
      TypeError: `x` is not floating point, or differs in dtype from the parameters.

    Example: two memory units, projected to their difference.

      >>> params = LSTMProjectedParams(
      ...     w_x=jnp.zeros((1, 8)),
      ...     w_h=jnp.zeros((1, 8)),
      ...     b=jnp.array([-50.0, -50.0, 50.0, 50.0, 0.0, 0.0, 50.0, 50.0]),
      ...     w_p=jnp.array([[1.0], [-1.0]]),
      ... )
      >>> carry, y = lstm_projected_step(params, LSTMProjectedCarry(jnp.zeros(1), jnp.array([0.7, 0.2])), jnp.ones(1))
      >>> round(float(y[0]), 4), round(float(jnp.tanh(0.7) - jnp.tanh(0.2)), 4)
      (0.407, 0.407)
    """
    check_input("x", x, params.w_x)
    check_state("carry.h", carry.h, x, params.w_p.shape[1])
    check_state("carry.c", carry.c, x, params.w_p.shape[0])
    i, f, g, o = jnp.split(x @ params.w_x + per_row(params.b, x) + carry.h @ params.w_h, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = (jax.nn.sigmoid(o) * jnp.tanh(c)) @ params.w_p
    return LSTMProjectedCarry(h=h, c=c), h


@dataclasses.dataclass(frozen=True)
class LSTMProjected(Cell[LSTMProjectedParams, LSTMProjectedCarry]):
    """An LSTM cell with a projected hidden state.

    Attributes:
      hidden_size: H, units of the cell state.
      projection_size: P, units of the hidden state and the output.
      forget_bias: the initial bias of the forget gate: a number, or `initializers.Chrono`.
      w_x, w_h, w_p: initializers of each gate's matrices, and of the projection.

    Example:

      >>> cell = LSTMProjected(hidden_size=4, projection_size=2)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, y = cell.step(params, cell.initial_carry(params, (5,)), jnp.ones((5, 3)))
      >>> y.shape, carry.c.shape
      ((5, 2), (5, 4))
    """

    hidden_size: int
    projection_size: int
    forget_bias: float | Chrono = 1.0
    w_x: Initializer = LeCunNormal()
    w_h: Initializer = Orthogonal()
    w_p: Initializer = LeCunNormal()

    def __post_init__(self) -> None:
        check_size("hidden_size", self.hidden_size)
        check_size("projection_size", self.projection_size)
        check_bias("forget_bias", self.forget_bias)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> LSTMProjectedParams:
        return lstm_projected_init(
            key,
            input_size,
            self.hidden_size,
            self.projection_size,
            forget_bias=self.forget_bias,
            w_x=self.w_x,
            w_h=self.w_h,
            w_p=self.w_p,
            dtype=dtype,
        )

    def initial_carry(self, params: LSTMProjectedParams, batch_shape: tuple[int, ...] = ()) -> LSTMProjectedCarry:
        check_params(self, params, LSTMProjectedParams, w_p=(self.hidden_size, self.projection_size))
        return lstm_projected_initial_carry(params, batch_shape)

    def step(
        self, params: LSTMProjectedParams, carry: LSTMProjectedCarry, x: Array
    ) -> tuple[LSTMProjectedCarry, Array]:
        size, projection_size, wide = self.hidden_size, self.projection_size, 4 * self.hidden_size
        check_params(
            self,
            params,
            LSTMProjectedParams,
            w_x=("D", wide),
            w_h=(projection_size, wide),
            b=(wide,),
            w_p=(size, projection_size),
        )
        return lstm_projected_step(params, carry, x)

"""The Elman cell: one hidden state, fed back through one matrix.

    h_t = φ(x_t W1 + h_{t-1} W2 + b1)        y_t = h_t

W1 is `w_x`, W2 is `w_h` and b1 is `b`, shared by all time steps; φ is the activation.

Reference: Elman, Finding structure in time, Cognitive Science 14 (1990), 179-211.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import Cell, check_input, check_params, check_size, check_state, float_dtype, per_row
from rnnjax.initializers import Initializer, LeCunNormal, Orthogonal
from rnnjax.textbook import Activation, activate, check_activation


class ElmanParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    b: Array  # [H]


def elman_init(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    w_x: Initializer = LeCunNormal(),  # noqa: B008 (frozen, holds no state)
    w_h: Initializer = Orthogonal(),  # noqa: B008
    dtype: DTypeLike | None = None,
) -> ElmanParams:
    """Draws `w_x` [D, H] and `w_h` [H, H]; `b` [H] is zero."""
    check_size("input_size", input_size)
    dtype = float_dtype(dtype)
    key_x, key_h = jax.random.split(key)
    return ElmanParams(
        w_x=w_x(key_x, (input_size, hidden_size), dtype),
        w_h=w_h(key_h, (hidden_size, hidden_size), dtype),
        b=jnp.zeros(hidden_size, dtype),
    )


def elman_initial_carry(params: ElmanParams, batch_shape: tuple[int, ...] = ()) -> Array:
    """h_0 = 0, `[*batch, H]` in the parameters' dtype."""
    return jnp.zeros((*batch_shape, params.w_h.shape[0]), params.w_h.dtype)


def elman_step(params: ElmanParams, h: Array, x: Array, activation: Activation = "tanh") -> tuple[Array, Array]:
    """One step with the signature of `jax.lax.scan`: `(h_{t-1}, x_t)` to `(h_t, y_t)`, with y_t = h_t.

    Args:
      h: hidden state `[*batch, H]`.
      x: input `[*batch, D]`.
    Raises:
      ValueError: the last axis of `x` is not D, or the carry does not fit the rows of `x`.
      TypeError: `x` is not floating point, or differs in dtype from the parameters.

    Example: after a low and a medium day, the lecture's network predicts a high price (1.1 h = 0.99).

      >>> params = ElmanParams(w_x=jnp.array([[1.8]]), w_h=jnp.array([[-0.5]]), b=jnp.array([0.0]))
      >>> days = jnp.array([[0.0], [0.5]])
      >>> _, hs = jax.lax.scan(lambda h, x: elman_step(params, h, x, "relu"), jnp.zeros(1), days)
      >>> [round(float(h), 6) for h in hs[:, 0]]
      [0.0, 0.9]
    """
    check_input("x", x, params.w_x)
    check_state("h", h, x, params.w_h.shape[0])
    h = activate(activation, x @ params.w_x + per_row(params.b, x) + h @ params.w_h)
    return h, h


@dataclasses.dataclass(frozen=True)
class Elman(Cell[ElmanParams, Array]):
    """An Elman cell.

    Attributes:
      hidden_size: H.
      activation: φ; "tanh", "relu" (as in the lecture), "linear" (which has closed-form gradients), or any elementwise
        function of an array, such as `jax.nn.gelu`.
      w_x, w_h: initializers of the two matrices.

    Example:

      >>> cell = Elman(hidden_size=4, w_h=Orthogonal(scale=0.9))
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, y = cell.step(params, cell.initial_carry(params, (2,)), jnp.ones((2, 3)))
      >>> y.shape
      (2, 4)
    """

    hidden_size: int
    activation: Activation = "tanh"
    w_x: Initializer = LeCunNormal()
    w_h: Initializer = Orthogonal()

    def __post_init__(self) -> None:
        check_size("hidden_size", self.hidden_size)
        check_activation(self.activation)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> ElmanParams:
        return elman_init(key, input_size, self.hidden_size, w_x=self.w_x, w_h=self.w_h, dtype=dtype)

    def initial_carry(self, params: ElmanParams, batch_shape: tuple[int, ...] = ()) -> Array:
        check_params(self, params, ElmanParams, w_h=(self.hidden_size, "H"))
        return elman_initial_carry(params, batch_shape)

    def step(self, params: ElmanParams, carry: Array, x: Array) -> tuple[Array, Array]:
        size = self.hidden_size
        check_params(self, params, ElmanParams, w_x=("D", size), w_h=(size, size), b=(size,))
        return elman_step(params, carry, x, self.activation)

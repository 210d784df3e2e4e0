"""The mLSTM, whose state is a matrix, linear in time given the input: `unroll(engine="associative")` uses this."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from rnnjax.cell import check_size
from rnnjax.textbook import KEEPING, TextbookCell, affine, state, weight


class MatrixLSTMParams(NamedTuple):
    w_x: Array  # [D, 4H + 2 heads], q, k, v, o, and the gates i, f of each head
    b: Array  # [4H + 2 heads]


class MatrixLSTMCarry(NamedTuple):
    c: Array  # [*batch, heads, H/heads, H/heads] memory, key by value
    n: Array  # [*batch, heads, H/heads] normaliser
    m: Array  # [*batch, heads] stabiliser, the logarithm of the scale of c and n


@dataclasses.dataclass(frozen=True)
class MatrixLSTM(TextbookCell[MatrixLSTMParams, MatrixLSTMCarry]):
    """The mLSTM of xLSTM: a matrix memory that stores values under keys, with exponential gates.

        q, k, v, o, i, f = split(x_t W_x + b)            k divided by sqrt(d), d = H / heads
        m_t = max(log σ(f) + m_{t-1}, i)
        C_t = exp(log σ(f) + m_{t-1} - m_t) C_{t-1} + exp(i - m_t) k vᵀ
        n_t = exp(log σ(f) + m_{t-1} - m_t) n_{t-1} + exp(i - m_t) k
        y_t = σ(o) (C_tᵀ q) / max(|n_tᵀ q|, exp(-m_t))

    i and f are one number for each head; m cancels in y: C and n are the true states divided by exp(m).

    Attributes:
      heads: memories side by side; H must be a multiple.
      forget_bias: the initial bias of f.

    Reference: Beck et al., xLSTM: extended long short-term memory, NeurIPS 2024 (arXiv:2405.04517), eqs. 19-27.
    """

    heads: int = 1
    forget_bias: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("heads", self.heads)
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size is {self.hidden_size} and heads {self.heads}; it must be a multiple.")

    def weights(self, input_size: int) -> MatrixLSTMParams:
        size, width = self.hidden_size, 4 * self.hidden_size + 2 * self.heads

        def biases(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return jnp.zeros(shape, dtype).at[4 * size + self.heads :].set(jnp.asarray(self.forget_bias, dtype))

        return MatrixLSTMParams(weight((input_size, width), self.w_x), weight((width,), biases))

    def states(self, input_size: int) -> MatrixLSTMCarry:
        heads, d = self.heads, self.hidden_size // self.heads
        return MatrixLSTMCarry(c=state(heads, d, d), n=state(heads, d), m=state(heads))

    @property
    def knob(self) -> str:
        return KEEPING

    def with_knob(self, params: MatrixLSTMParams, scale: Array) -> MatrixLSTMParams:
        return params._replace(b=params.b.at[-self.heads :].add(jnp.log(scale).astype(params.b.dtype)))

    def step(self, params: MatrixLSTMParams, carry: MatrixLSTMCarry, x: Array) -> tuple[MatrixLSTMCarry, Array]:
        self.check(params, carry, x)
        size, heads = self.hidden_size, self.heads
        d = size // heads
        *vectors, i, f = jnp.split(
            affine(x, params.w_x, params.b), [size, 2 * size, 3 * size, 4 * size, 4 * size + heads], axis=-1
        )
        q, k, v, o = (a.reshape(*a.shape[:-1], heads, d) for a in vectors)
        k = k / math.sqrt(d)
        log_f = jax.nn.log_sigmoid(f) + carry.m
        m = jnp.maximum(log_f, i)
        kept, taken = jnp.exp(log_f - m), jnp.exp(i - m)
        c = kept[..., None, None] * carry.c + (taken[..., None] * k)[..., None] * v[..., None, :]
        n = kept[..., None] * carry.n + taken[..., None] * k
        read = (c * q[..., None]).sum(-2)
        norm = jnp.maximum(jnp.abs((n * q).sum(-1)), jnp.exp(-m))
        y = sigmoid(o) * read / norm[..., None]
        return MatrixLSTMCarry(c, n, m), y.reshape(*x.shape[:-1], size)

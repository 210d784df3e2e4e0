"""Gated cells that are linear in their state: their gates see the input alone.

Products of states are elementwise, weights multiply from the right. `unroll(engine="associative")` uses the linearity.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from rnnjax.textbook import KEEPING, TextbookCell, affine, blocks, state, with_odds


class TRNNParams(NamedTuple):
    w_x: Array  # [D, 2H], blocks z, f
    b: Array  # [2H]


@dataclasses.dataclass(frozen=True)
class TRNN(TextbookCell[TRNNParams, Array]):
    """The strongly typed RNN: an average of projected inputs, weighted by gates of the input alone.

        z, f = split(x_t W_x + b)
        h_t = σ(f) h_{t-1} + (1 - σ(f)) z            y_t = h_t

    Reference: Balduzzi and Ghifary, Strongly-typed recurrent neural networks, ICML 2016 (arXiv:1602.02218), section
    3.2.
    """

    def weights(self, input_size: int) -> TRNNParams:
        w_x, _, b = self.gated(input_size, 2)
        return TRNNParams(w_x, b)

    @property
    def knob(self) -> str:
        return KEEPING

    def with_knob(self, params: TRNNParams, scale: Array) -> TRNNParams:
        return params._replace(b=with_odds(params.b, scale, 1, 2))

    def step(self, params: TRNNParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        z, f = blocks(affine(x, params.w_x, params.b), 2)
        h = sigmoid(f) * carry + (1 - sigmoid(f)) * z
        return h, h


class PreviousParams(NamedTuple):
    w_x: Array  # [D, 3H], blocks z, f, o
    w_v: Array  # [D, 3H], of the previous input
    b: Array  # [3H]


class PreviousCarry(NamedTuple):
    h: Array  # [*batch, H]
    x: Array  # [*batch, D], the previous input


@dataclasses.dataclass(frozen=True)
class _OfTwoInputs(TextbookCell[PreviousParams, PreviousCarry]):
    def weights(self, input_size: int) -> PreviousParams:
        w_x, _, b = self.gated(input_size, 3)
        return PreviousParams(w_x, w_x, b)

    def states(self, input_size: int) -> PreviousCarry:
        return PreviousCarry(h=state(self.hidden_size), x=state(input_size))

    @property
    def knob(self) -> str:
        return KEEPING

    def with_knob(self, params: PreviousParams, scale: Array) -> PreviousParams:
        return params._replace(b=with_odds(params.b, scale, 1, 3))

    def _gates(self, params: PreviousParams, carry: PreviousCarry, x: Array) -> list[Array]:
        return blocks(affine(x, params.w_x, params.b) + carry.x @ params.w_v, 3)


@dataclasses.dataclass(frozen=True)
class TGRU(_OfTwoInputs):
    """The strongly typed GRU: gates of the present and the previous input, and a sum.

        z, f, o = split(x_t W_x + x_{t-1} W_v + b)
        h_t = σ(f) h_{t-1} + z tanh(o)            y_t = h_t

    Reference: Balduzzi and Ghifary, as for `TRNN`.
    """

    def step(self, params: PreviousParams, carry: PreviousCarry, x: Array) -> tuple[PreviousCarry, Array]:
        self.check(params, carry, x)
        z, f, o = self._gates(params, carry, x)
        h = sigmoid(f) * carry.h + z * jnp.tanh(o)
        return PreviousCarry(h, x), h


@dataclasses.dataclass(frozen=True)
class TLSTM(_OfTwoInputs):
    """The strongly typed LSTM: a gated average of projected inputs, multiplied by an output gate.

        z, f, o = split(x_t W_x + x_{t-1} W_v + b)
        c_t = σ(f) c_{t-1} + (1 - σ(f)) z            y_t = c_t tanh(o)

    The carry's `h` is c.

    Reference: Balduzzi and Ghifary, as for `TRNN`.
    """

    def step(self, params: PreviousParams, carry: PreviousCarry, x: Array) -> tuple[PreviousCarry, Array]:
        self.check(params, carry, x)
        z, f, o = self._gates(params, carry, x)
        c = sigmoid(f) * carry.h + (1 - sigmoid(f)) * z
        return PreviousCarry(c, x), c * jnp.tanh(o)


@dataclasses.dataclass(frozen=True)
class MinGRU(TextbookCell[TRNNParams, Array]):
    """The minimal GRU: a GRU whose gate and candidate do not see the state.

        z, n = split(x_t W_x + b)
        h_t = (1 - σ(z)) h_{t-1} + σ(z) g(n)            y_t = h_t

    Attributes:
      positive: whether g(n) = n + 1/2 for n >= 0 and σ(n) for n < 0, as in the paper's version in log space; otherwise
        g(n) = n.

    Reference: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, Were RNNs all we needed?, 2024 (arXiv:2410.01201), section
    3.1 and appendix B.
    """

    positive: bool = False

    def weights(self, input_size: int) -> TRNNParams:
        w_x, _, b = self.gated(input_size, 2)
        return TRNNParams(w_x, b)

    @property
    def knob(self) -> str:
        return KEEPING

    def with_knob(self, params: TRNNParams, scale: Array) -> TRNNParams:
        return params._replace(b=with_odds(params.b, 1 / scale, 0, 2))

    def step(self, params: TRNNParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        z, n = blocks(affine(x, params.w_x, params.b), 2)
        h = (1 - sigmoid(z)) * carry + sigmoid(z) * (_positive(n) if self.positive else n)
        return h, h


@dataclasses.dataclass(frozen=True)
class MinLSTM(TextbookCell[TRNNParams, Array]):
    """The minimal LSTM: input and forget gates of the input alone, which add up to 1.

        f, i, n = split(x_t W_x + b)
        h_t = (σ(f) h_{t-1} + σ(i) g(n)) / (σ(f) + σ(i))            y_t = h_t

    Attributes:
      positive: as for `MinGRU`.

    Reference: Feng et al., as for `MinGRU`, section 3.2.
    """

    positive: bool = False

    def weights(self, input_size: int) -> TRNNParams:
        w_x, _, b = self.gated(input_size, 3)
        return TRNNParams(w_x, b)

    @property
    def knob(self) -> str:
        return KEEPING

    def with_knob(self, params: TRNNParams, scale: Array) -> TRNNParams:
        return params._replace(b=with_odds(params.b, scale, 0, 3))

    def step(self, params: TRNNParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        f, i, n = blocks(affine(x, params.w_x, params.b), 3)
        kept = sigmoid(f) / (sigmoid(f) + sigmoid(i))
        h = kept * carry + (1 - kept) * (_positive(n) if self.positive else n)
        return h, h


def _positive(n: Array) -> Array:
    return jnp.where(n >= 0, n + 0.5, sigmoid(n))

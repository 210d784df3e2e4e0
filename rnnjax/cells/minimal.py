"""Minimal cells: few gates and products, or constants in their place, each cell as its paper has it.

σ is the logistic sigmoid, products of states are elementwise, weights multiply from the right. Blocks are stacked on
the last axis in the order that each docstring gives.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from rnnjax.textbook import Gated, TextbookCell, affine, blocks, weight

_GatedCell = TextbookCell[Gated, Array]


@dataclasses.dataclass(frozen=True)
class MGU(_GatedCell):
    """The minimal gated unit: one gate that both resets and updates.

        f = σ(x_t W_x^f + h_{t-1} W_h^f + b^f)
        n = tanh(x_t W_x^n + (f h_{t-1}) W_h^n + b^n)
        h_t = (1 - f) h_{t-1} + f n            y_t = h_t

    Reference: Zhou, Wu, Zhang and Zhou, Minimal gated unit for recurrent neural networks, IJAC 13 (2016), eqs. 10-12.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_f, x_n), (w_f, w_n) = blocks(affine(x, params.w_x, params.b), 2), blocks(params.w_h, 2)
        f = sigmoid(x_f + carry @ w_f)
        n = jnp.tanh(x_n + (f * carry) @ w_n)
        h = (1 - f) * carry + f * n
        return h, h


@dataclasses.dataclass(frozen=True)
class LiGRU(_GatedCell):
    """The light GRU: no reset gate, and a candidate without a bound.

        z, a = split(x_t W_x + h_{t-1} W_h + b)
        h_t = σ(z) h_{t-1} + (1 - σ(z)) relu(a)            y_t = h_t

    The paper normalises x_t W_x over the batch, which keeps the state bounded; rows of a batch do not meet here.

    Reference: Ravanelli, Brakel, Omologo and Bengio, Light gated recurrent units for speech recognition, IEEE TETCI 2
    (2018), 92-102 (arXiv:1803.10225).
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        z, a = blocks(affine(x, params.w_x, params.b) + carry @ params.w_h, 2)
        h = sigmoid(z) * carry + (1 - sigmoid(z)) * jax.nn.relu(a)
        return h, h


@dataclasses.dataclass(frozen=True)
class LightRU(_GatedCell):
    """The light recurrent unit: a candidate of the input alone, and one gate.

        f = σ(x_t W_x^f + h_{t-1} W_h + b^f)
        n = tanh(x_t W_x^n + b^n)
        h_t = (1 - f) h_{t-1} + f n            y_t = h_t

    Blocks of `w_x` and `b`: f, n.

    Reference: Ye et al., Light recurrent unit: towards an interpretable recurrent neural network for modeling
    long-range dependency, Electronics 13 (2024), 3204.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2, carried=1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        x_f, x_n = blocks(affine(x, params.w_x, params.b), 2)
        f = sigmoid(x_f + carry @ params.w_h)
        h = (1 - f) * carry + f * jnp.tanh(x_n)
        return h, h


class MinimalRNNParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    w_z: Array  # [H, H]
    b: Array  # [2H], of the embedding, of the gate


@dataclasses.dataclass(frozen=True)
class MinimalRNN(TextbookCell[MinimalRNNParams, Array]):
    """MinimalRNN: the input is embedded, and a gate mixes it with the state.

        z = tanh(x_t W_x + b^z)
        u = σ(h_{t-1} W_h + z W_z + b^u)
        h_t = u h_{t-1} + (1 - u) z            y_t = h_t

    Reference: Chen, MinimalRNN: toward more interpretable and trainable recurrent neural networks, 2017
    (arXiv:1711.06788), eqs. 1-3.
    """

    def weights(self, input_size: int) -> MinimalRNNParams:
        w_x, w_h, _ = self.gated(input_size, 1)
        return MinimalRNNParams(w_x, w_h, w_h, weight((2 * self.hidden_size,)))

    def step(self, params: MinimalRNNParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        b_z, b_u = blocks(params.b, 2)
        z = jnp.tanh(affine(x, params.w_x, b_z))
        u = sigmoid(carry @ params.w_h + affine(z, params.w_z, b_u))
        h = u * carry + (1 - u) * z
        return h, h


@dataclasses.dataclass(frozen=True)
class UGRNN(_GatedCell):
    """The update-gate RNN: the least that is gated.

        n, g = split(x_t W_x + h_{t-1} W_h + b)
        h_t = σ(g) h_{t-1} + (1 - σ(g)) tanh(n)            y_t = h_t

    Attributes:
      update_bias: the initial bias of the gate; the paper adds a positive one.

    Reference: Collins, Sohl-Dickstein and Sussillo, Capacity and trainability in recurrent neural networks, ICLR 2017
    (arXiv:1611.09913), section 1.1.
    """

    update_bias: float = 0.0

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2, biases=(0.0, self.update_bias))

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        n, g = blocks(affine(x, params.w_x, params.b) + carry @ params.w_h, 2)
        h = sigmoid(g) * carry + (1 - sigmoid(g)) * jnp.tanh(n)
        return h, h


@dataclasses.dataclass(frozen=True)
class SGRN(_GatedCell):
    """The simple gated recurrent network: one product for both gate and candidate.

        f = σ(x_t W_x + h_{t-1} W_h + b)
        h_t = tanh((1 - f) (x_t W_x + b) + f h_{t-1})            y_t = h_t

    Reference: Abdulwahab et al., Simple gated recurrent network for wind power prediction, IET Generation,
    Transmission and Distribution (2021), doi:10.1049/gtd2.12056.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        u = affine(x, params.w_x, params.b)
        f = sigmoid(u + carry @ params.w_h)
        h = jnp.tanh((1 - f) * u + f * carry)
        return h, h


@dataclasses.dataclass(frozen=True)
class STAR(_GatedCell):
    """The stackable recurrent cell, made so that gradients keep their size through depth too.

        k = σ(x_t W_x^k + h_{t-1} W_h + b^k)
        z = tanh(x_t W_x^z + b^z)
        h_t = tanh((1 - k) h_{t-1} + k z)            y_t = h_t

    Blocks of `w_x` and `b`: z, k.

    Reference: Turkoglu, D'Aronco, Wegner and Schindler, Gating revisited: deep multi-layer RNNs that can be trained,
    IEEE TPAMI 44 (2022), 4081-4092 (arXiv:1911.11033).
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2, carried=1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        x_z, x_k = blocks(affine(x, params.w_x, params.b), 2)
        k = sigmoid(x_k + carry @ params.w_h)
        h = jnp.tanh((1 - k) * carry + k * jnp.tanh(x_z))
        return h, h


@dataclasses.dataclass(frozen=True)
class ATR(_GatedCell):
    """The addition-subtraction twin-gated recurrent network: both gates from one sum and one difference.

        p = x_t W_x + b,  q = h_{t-1} W_h
        h_t = σ(p + q) p + σ(p - q) h_{t-1}            y_t = h_t

    Reference: Zhang, Xiong, Su, Lin and Zhang, Simplifying neural machine translation with addition-subtraction
    twin-gated recurrent networks, EMNLP 2018 (arXiv:1810.12546).
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        p, q = affine(x, params.w_x, params.b), carry @ params.w_h
        h = sigmoid(p + q) * p + sigmoid(p - q) * carry
        return h, h


@dataclasses.dataclass(frozen=True)
class MiRU1(_GatedCell):
    """The first minion recurrent unit: a reset gate, and a constant in the place of the update gate.

        r = σ(x_t W_x^r + h_{t-1} W_h^r + b^r)
        n = tanh(x_t W_x^n + (r h_{t-1}) W_h^n + b^n)
        h_t = λ h_{t-1} + (1 - λ) n            y_t = h_t

    Blocks: r, n.

    Attributes:
      update: λ.

    Reference: Minion gated recurrent unit, Neurocomputing (2026), doi:10.1016/j.neucom.2026.132847.
    """

    update: float = 0.5

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_r, x_n), (w_r, w_n) = blocks(affine(x, params.w_x, params.b), 2), blocks(params.w_h, 2)
        n = jnp.tanh(x_n + (sigmoid(x_r + carry @ w_r) * carry) @ w_n)
        h = self.update * carry + (1 - self.update) * n
        return h, h


@dataclasses.dataclass(frozen=True)
class MiRU2(_GatedCell):
    """The second minion recurrent unit: constants in the place of both gates.

        n = tanh(x_t W_x + (β h_{t-1}) W_h + b)
        h_t = λ h_{t-1} + (1 - λ) n            y_t = h_t

    Attributes:
      update, reset: λ and β.

    Reference: as for `MiRU1`.
    """

    update: float = 0.5
    reset: float = 0.5

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        n = jnp.tanh(affine(x, params.w_x, params.b) + (self.reset * carry) @ params.w_h)
        h = self.update * carry + (1 - self.update) * n
        return h, h

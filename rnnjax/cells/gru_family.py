"""Relatives of the GRU: one hidden state that gates keep, replace or mix, each cell as its paper has it.

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

from rnnjax.cell import check_size, per_row
from rnnjax.textbook import Gated, HiddenAndCell, TextbookCell, affine, blocks, state, weight

_GatedCell = TextbookCell[Gated, Array]


@dataclasses.dataclass(frozen=True)
class ResetBeforeGRU(_GatedCell):
    """The GRU as first published: the reset gate acts on the state before the product.

        r = σ(x_t W_x^r + h_{t-1} W_h^r + b^r)                    reset gate
        z = σ(x_t W_x^z + h_{t-1} W_h^z + b^z)                    update gate
        n = tanh(x_t W_x^n + (r h_{t-1}) W_h^n + b^n)             candidate
        h_t = (1 - z) n + z h_{t-1}            y_t = h_t

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014, eqs. 5-8.

    Example:

      >>> cell = ResetBeforeGRU(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> h, y = cell.step(params, cell.initial_carry(params, (2,)), jnp.ones((2, 3)))
      >>> y.shape
      (2, 4)
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_r, x_z, x_n), (w_r, w_z, w_n) = blocks(affine(x, params.w_x, params.b), 3), blocks(params.w_h, 3)
        r, z = sigmoid(x_r + carry @ w_r), sigmoid(x_z + carry @ w_z)
        n = jnp.tanh(x_n + (r * carry) @ w_n)
        h = (1 - z) * n + z * carry
        return h, h


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
class MUT1(_GatedCell):
    """The first of three cells found by mutation of the GRU: the update gate sees the input alone.

        z = σ(x_t W_x^z + b^z)
        r = σ(x_t W_x^r + h_{t-1} W_h^r + b^r)
        h_t = tanh((r h_{t-1}) W_h^n + tanh(x_t W_x^n) + b^n) z + h_{t-1} (1 - z)            y_t = h_t

    Blocks of `w_x` and `b`: z, r, n; of `w_h`: r, n. (In the paper tanh(x_t) stands for an input that has been
    projected to the size of the state.)

    Reference: Jozefowicz, Zaremba and Sutskever, An empirical exploration of recurrent network architectures, ICML
    2015, section 3.2.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3, carried=2)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_z, x_r, x_n), (w_r, w_n) = blocks(x @ params.w_x, 3), blocks(params.w_h, 2)
        b_z, b_r, b_n = (per_row(b, x) for b in blocks(params.b, 3))
        z, r = sigmoid(x_z + b_z), sigmoid(x_r + carry @ w_r + b_r)
        h = jnp.tanh((r * carry) @ w_n + jnp.tanh(x_n) + b_n) * z + carry * (1 - z)
        return h, h


@dataclasses.dataclass(frozen=True)
class MUT2(_GatedCell):
    """The second of three cells found by mutation of the GRU.

        z = σ(x_t W_x^z + h_{t-1} W_h^z + b^z)
        r = σ(x_t W_x^r + h_{t-1} W_h^r + b^r)
        h_t = tanh((r h_{t-1}) W_h^n + x_t W_x^n + b^n) z + h_{t-1} (1 - z)            y_t = h_t

    Blocks: z, r, n. In the paper W_x^r is the identity, which needs D = H; with it free, the cell is the reset-before
    GRU with 1 - z for z.

    Reference: as for `MUT1`.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_z, x_r, x_n), (w_z, w_r, w_n) = blocks(affine(x, params.w_x, params.b), 3), blocks(params.w_h, 3)
        z, r = sigmoid(x_z + carry @ w_z), sigmoid(x_r + carry @ w_r)
        h = jnp.tanh((r * carry) @ w_n + x_n) * z + carry * (1 - z)
        return h, h


@dataclasses.dataclass(frozen=True)
class MUT3(_GatedCell):
    """The third of three cells found by mutation of the GRU: the update gate sees tanh of the state.

        z = σ(x_t W_x^z + tanh(h_{t-1}) W_h^z + b^z)
        r = σ(x_t W_x^r + h_{t-1} W_h^r + b^r)
        h_t = tanh((r h_{t-1}) W_h^n + x_t W_x^n + b^n) z + h_{t-1} (1 - z)            y_t = h_t

    Blocks: z, r, n.

    Reference: as for `MUT1`.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_z, x_r, x_n), (w_z, w_r, w_n) = blocks(affine(x, params.w_x, params.b), 3), blocks(params.w_h, 3)
        z, r = sigmoid(x_z + jnp.tanh(carry) @ w_z), sigmoid(x_r + carry @ w_r)
        h = jnp.tanh((r * carry) @ w_n + x_n) * z + carry * (1 - z)
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
class IntersectionRNN(_GatedCell):
    """The intersection RNN (+RNN): gates for the passage through time, and others for that through depth.

        y', h', g^y, g^h = split(x_t W_x + h_{t-1} W_h + b)
        y_t = σ(g^y) x_t + (1 - σ(g^y)) relu(y')               [D], as wide as the input
        h_t = σ(g^h) h_{t-1} + (1 - σ(g^h)) tanh(h')

    The blocks y' and g^y have D columns, h' and g^h have H; in the paper D = H.

    Reference: Collins, Sohl-Dickstein and Sussillo, as for `UGRNN`.
    """

    def weights(self, input_size: int) -> Gated:
        size, width = self.hidden_size, 2 * (input_size + self.hidden_size)
        w_x, w_h = weight((input_size, width), self.w_x), weight((size, width), self.w_h)
        return Gated(w_x, w_h, weight((width,)))

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        size, features = self.hidden_size, x.shape[-1]
        a = affine(x, params.w_x, params.b) + carry @ params.w_h
        y, n, g_y, g_h = jnp.split(a, [features, features + size, 2 * features + size], axis=-1)
        out = sigmoid(g_y) * x + (1 - sigmoid(g_y)) * jax.nn.relu(y)
        h = sigmoid(g_h) * carry + (1 - sigmoid(g_h)) * jnp.tanh(n)
        return h, out


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
class SGU(_GatedCell):
    """The simple gated unit: the input multiplies the state.

        g = tanh(((x_t W_x^g + b^g) h_{t-1}) W_h^g)
        z = hard_sigmoid(x_t W_x^z + h_{t-1} W_h^z + b^z)
        h_t = (1 - z) h_{t-1} + z softplus(g h_{t-1})            y_t = h_t

    Blocks: g, z.

    Reference: Gao and Glowacka, Deep gate recurrent neural network, ACML 2016 (arXiv:1604.02910).
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_g, x_z), (w_g, w_z) = blocks(affine(x, params.w_x, params.b), 2), blocks(params.w_h, 2)
        g = jnp.tanh((x_g * carry) @ w_g)
        z = jax.nn.hard_sigmoid(x_z + carry @ w_z)
        h = (1 - z) * carry + z * jax.nn.softplus(g * carry)
        return h, h


class DSGUParams(NamedTuple):
    w_x: Array  # [D, 2H], blocks g, z
    w_h: Array  # [H, 2H], blocks g, z
    w_o: Array  # [H, H]
    b: Array  # [2H]


@dataclasses.dataclass(frozen=True)
class DSGU(TextbookCell[DSGUParams, Array]):
    """The deep simple gated unit: the simple gated unit with one more product.

        g = tanh(((x_t W_x^g + b^g) h_{t-1}) W_h^g)
        z = hard_sigmoid(x_t W_x^z + h_{t-1} W_h^z + b^z)
        h_t = (1 - z) h_{t-1} + z σ((g h_{t-1}) W_o)            y_t = h_t

    Reference: Gao and Glowacka, as for `SGU`.
    """

    def weights(self, input_size: int) -> DSGUParams:
        w_x, w_h, b = self.gated(input_size, 2)
        return DSGUParams(w_x, w_h, weight((self.hidden_size, self.hidden_size), self.w_h), b)

    def step(self, params: DSGUParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_g, x_z), (w_g, w_z) = blocks(affine(x, params.w_x, params.b), 2), blocks(params.w_h, 2)
        g = jnp.tanh((x_g * carry) @ w_g)
        z = jax.nn.hard_sigmoid(x_z + carry @ w_z)
        h = (1 - z) * carry + z * sigmoid((g * carry) @ params.w_o)
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


class BRCParams(NamedTuple):
    w_x: Array  # [D, 3H], blocks a, c, n
    w_h: Array  # [2H], blocks a, c
    b: Array  # [3H]


@dataclasses.dataclass(frozen=True)
class BRC(TextbookCell[BRCParams, Array]):
    """The bistable recurrent cell: each unit feeds back on itself alone, and may have two stable states.

        a = 1 + tanh(x_t W_x^a + w_h^a h_{t-1} + b^a)             bistable where a > 1
        c = σ(x_t W_x^c + w_h^c h_{t-1} + b^c)
        h_t = c h_{t-1} + (1 - c) tanh(x_t W_x^n + a h_{t-1} + b^n)            y_t = h_t

    `w_h` is a vector, zero at first.

    Reference: Vecoven, Ernst and Drion, A bio-inspired bistable recurrent cell allows for long-lasting memory, PLOS
    ONE 16 (2021), e0252676.
    """

    def weights(self, input_size: int) -> BRCParams:
        w_x, _, b = self.gated(input_size, 3)
        return BRCParams(w_x, weight((2 * self.hidden_size,)), b)

    def step(self, params: BRCParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        x_a, x_c, x_n = blocks(affine(x, params.w_x, params.b), 3)
        w_a, w_c = (per_row(w, x) for w in blocks(params.w_h, 2))
        a, c = 1 + jnp.tanh(x_a + w_a * carry), sigmoid(x_c + w_c * carry)
        h = c * carry + (1 - c) * jnp.tanh(x_n + a * carry)
        return h, h


@dataclasses.dataclass(frozen=True)
class NBRC(_GatedCell):
    """The neuromodulated bistable recurrent cell: as `BRC`, but other units set a unit's feedback and its gate.

        a = 1 + tanh(x_t W_x^a + h_{t-1} W_h^a + b^a)
        c = σ(x_t W_x^c + h_{t-1} W_h^c + b^c)
        h_t = c h_{t-1} + (1 - c) tanh(x_t W_x^n + a h_{t-1} + b^n)            y_t = h_t

    Blocks of `w_x` and `b`: a, c, n; of `w_h`: a, c.

    Reference: as for `BRC`.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3, carried=2)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        (x_a, x_c, x_n), (w_a, w_c) = blocks(affine(x, params.w_x, params.b), 3), blocks(params.w_h, 2)
        a, c = 1 + jnp.tanh(x_a + carry @ w_a), sigmoid(x_c + carry @ w_c)
        h = c * carry + (1 - c) * jnp.tanh(x_n + a * carry)
        return h, h


@dataclasses.dataclass(frozen=True)
class CFN(_GatedCell):
    """The chaos-free network: without input every state decays to zero.

        θ = σ(x_t W_x^θ + h_{t-1} W_h^θ + b^θ)
        η = σ(x_t W_x^η + h_{t-1} W_h^η + b^η)
        h_t = θ tanh(h_{t-1}) + η tanh(x_t W_x^n)            y_t = h_t

    Blocks of `w_x`: θ, η, n; of `w_h` and `b`: θ, η.

    Reference: Laurent and von Brecht, A recurrent neural network without chaos, ICLR 2017 (arXiv:1612.06212), eqs.
    1-3.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3, carried=2, biases=(0.0, 0.0))

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        x_t, x_e, x_n = blocks(x @ params.w_x, 3)
        h_t, h_e = blocks(affine(carry, params.w_h, params.b), 2)
        h = sigmoid(x_t + h_t) * jnp.tanh(carry) + sigmoid(x_e + h_e) * jnp.tanh(x_n)
        return h, h


@dataclasses.dataclass(frozen=True)
class RAN(TextbookCell[Gated, HiddenAndCell]):
    """The recurrent additive network: the cell state is a weighted sum of inputs, and nothing else.

        i, f = split(x_t W_x + h_{t-1} W_h + b)
        c_t = σ(i) (x_t W_x^n) + σ(f) c_{t-1}
        h_t = tanh(c_t)            y_t = h_t

    Blocks of `w_x`: n, i, f; of `w_h` and `b`: i, f.

    Reference: Lee, Levy and Zettlemoyer, Recurrent additive networks, 2017 (arXiv:1705.07393), eq. 1.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3, carried=2, biases=(0.0, 0.0))

    def states(self, input_size: int) -> HiddenAndCell:
        return HiddenAndCell(h=state(self.hidden_size), c=state(self.hidden_size))

    def step(self, params: Gated, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        x_n, x_i, x_f = blocks(x @ params.w_x, 3)
        h_i, h_f = blocks(affine(carry.h, params.w_h, params.b), 2)
        c = sigmoid(x_i + h_i) * x_n + sigmoid(x_f + h_f) * carry.c
        h = jnp.tanh(c)
        return HiddenAndCell(h, c), h


class SCRNParams(NamedTuple):
    w_x: Array  # [D, context_size + H], of the context, of the hidden state
    w_h: Array  # [H, H]
    w_s: Array  # [context_size, H]


class SCRNCarry(NamedTuple):
    h: Array  # [*batch, H] hidden state
    s: Array  # [*batch, context_size] context, which changes slowly


@dataclasses.dataclass(frozen=True)
class SCRN(TextbookCell[SCRNParams, SCRNCarry]):
    """The structurally constrained recurrent network: some units are fixed leaky integrators of the input.

        s_t = (1 - α) x_t W_x^s + α s_{t-1}
        h_t = σ(s_t W_s + x_t W_x^h + h_{t-1} W_h)
        y_t = (h_t, s_t)            so that a linear readout is the paper's U h_t + V s_t

    Attributes:
      context: units of s; as many as H if None.
      alpha: α.

    Reference: Mikolov, Joulin, Chopra, Mathieu and Ranzato, Learning longer memory in recurrent neural networks, 2014
    (arXiv:1412.7753), eqs. 5-7.
    """

    context: int | None = None
    alpha: float = 0.95

    @property
    def context_size(self) -> int:
        return self.hidden_size if self.context is None else self.context

    def weights(self, input_size: int) -> SCRNParams:
        size, slow = self.hidden_size, self.context_size
        return SCRNParams(
            weight((input_size, slow + size), self.w_x),
            weight((size, size), self.w_h),
            weight((slow, size), self.w_x),
        )

    def states(self, input_size: int) -> SCRNCarry:
        return SCRNCarry(h=state(self.hidden_size), s=state(self.context_size))

    def step(self, params: SCRNParams, carry: SCRNCarry, x: Array) -> tuple[SCRNCarry, Array]:
        self.check(params, carry, x)
        x_s, x_h = jnp.split(x @ params.w_x, [self.context_size], axis=-1)
        s = (1 - self.alpha) * x_s + self.alpha * carry.s
        h = sigmoid(s @ params.w_s + x_h + carry.h @ params.w_h)
        return SCRNCarry(h, s), jnp.concatenate([h, s], axis=-1)


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


class RecurrentHighwayParams(NamedTuple):
    w_x: Array  # [D, 2H] or [D, 3H], blocks n, t and, if they are not coupled, c
    w_h: Array  # [depth, H, 2H] or [depth, H, 3H]
    b: Array  # [depth, 2H] or [depth, 3H]


@dataclasses.dataclass(frozen=True)
class RecurrentHighway(TextbookCell[RecurrentHighwayParams, Array]):
    """The recurrent highway network: several highway layers in each step.

        s_0 = h_{t-1}
        n, t, c = split(s_{l-1} W_h^l + b^l + [l = 1] x_t W_x)            l = 1, ..., depth
        s_l = tanh(n) σ(t) + s_{l-1} σ(c)
        h_t = s_depth            y_t = h_t

    Attributes:
      depth: L.
      coupled: whether σ(c) is 1 - σ(t), as in the paper's experiments.
      transform_bias: the initial bias of t; a negative one favours keeping.

    Reference: Zilly, Srivastava, Koutník and Schmidhuber, Recurrent highway networks, ICML 2017 (arXiv:1607.03474),
    eqs. 6-9.
    """

    depth: int = 3
    coupled: bool = True
    transform_bias: float = -2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("depth", self.depth)

    def weights(self, input_size: int) -> RecurrentHighwayParams:
        size, gates = self.hidden_size, 2 if self.coupled else 3
        biases = (0.0, self.transform_bias, 0.0)[:gates]

        def deep(key: Array, shape: tuple[int, int, int], dtype: jnp.dtype) -> Array:
            return jnp.stack([self.w_h(key, shape[1:], dtype) for key in jax.random.split(key, shape[0])])

        return RecurrentHighwayParams(
            weight((input_size, gates * size), self.w_x, gates),
            weight((self.depth, size, gates * size), deep, gates),
            weight((self.depth, gates * size), biases),
        )

    def step(self, params: RecurrentHighwayParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        s = carry
        for layer in range(self.depth):
            a = affine(s, params.w_h[layer], params.b[layer])
            n, t, *c = blocks(a + x @ params.w_x if layer == 0 else a, 2 if self.coupled else 3)
            s = jnp.tanh(n) * sigmoid(t) + s * (1 - sigmoid(t) if self.coupled else sigmoid(c[0]))
        return s, s


class TauGRUCarry(NamedTuple):
    h: Array  # [*batch, H]
    past: Array  # [*batch, delay, H], h_{t-1-delay} to h_{t-2}


@dataclasses.dataclass(frozen=True)
class TauGRU(TextbookCell[Gated, TauGRUCarry]):
    """The τ-GRU: a weighted feedback of a state some steps back, from a delay differential equation.

        u, g, a = split(x_t W_x + h_{t-1} W_h + b),  z = x_t W_x^z + h_{t-1-delay} W_h^z + b^z
        h_t = (1 - σ(g)) h_{t-1} + σ(g) (tanh(u) + σ(a) tanh(z))            y_t = h_t

    Blocks: u, z, g, a. States before the first are zero.

    Attributes:
      delay: how many steps older than h_{t-1} the second state is.

    Reference: Erichson, Lim, Xu, Utrera, Cao and Mahoney, Gated recurrent neural networks with weighted time-delay
    feedback, 2022 (arXiv:2212.00228).
    """

    delay: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("delay", self.delay)

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 4)

    def states(self, input_size: int) -> TauGRUCarry:
        return TauGRUCarry(h=state(self.hidden_size), past=state(self.delay, self.hidden_size))

    def step(self, params: Gated, carry: TauGRUCarry, x: Array) -> tuple[TauGRUCarry, Array]:
        self.check(params, carry, x)
        h, late = carry.h, carry.past[..., 0, :]
        (x_u, x_z, x_g, x_a), (w_u, w_z, w_g, w_a) = blocks(affine(x, params.w_x, params.b), 4), blocks(params.w_h, 4)
        u, z = jnp.tanh(x_u + h @ w_u), jnp.tanh(x_z + late @ w_z)
        g, a = sigmoid(x_g + h @ w_g), sigmoid(x_a + h @ w_a)
        new = (1 - g) * h + g * (u + a * z)
        past = jnp.concatenate([carry.past[..., 1:, :], h[..., None, :]], axis=-2)
        return TauGRUCarry(new, past), new

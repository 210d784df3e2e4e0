"""Relatives of the GRU: one hidden state that two gates keep, replace or mix, each cell as its paper has it.

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

from rnnjax.cell import per_row
from rnnjax.textbook import Gated, TextbookCell, affine, blocks, weight

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

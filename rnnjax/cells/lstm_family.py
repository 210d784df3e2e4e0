"""Relatives of the LSTM: a cell state that gates multiply, each cell as its paper has it.

σ is the logistic sigmoid, products of states are elementwise, weights multiply from the right. Blocks of gates are
stacked on the last axis in the order that each docstring gives, usually input i, forget f, candidate g, output o.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from rnnjax.cell import P, per_row
from rnnjax.initializers import Chrono, Initializer, LeCunNormal, gate_biases
from rnnjax.textbook import Gated, HiddenAndCell, TextbookCell, affine, blocks, state, weight


@dataclasses.dataclass(frozen=True)
class _WithForgetBias(TextbookCell[P, Any]):
    """Attributes: forget_bias: the initial bias of the forget gate: a number, or `initializers.Chrono`."""

    forget_bias: float | Chrono = 1.0

    def states(self, input_size: int) -> Any:
        return HiddenAndCell(h=state(self.hidden_size), c=state(self.hidden_size))

    def _biases(self, gates: str = "ifgo") -> Callable[..., Array]:
        """Draws the biases of these blocks."""
        return functools.partial(gate_biases, self.forget_bias, gates)


@dataclasses.dataclass(frozen=True)
class OriginalLSTM(TextbookCell[Gated, HiddenAndCell]):
    """The LSTM of 1997, without a forget gate: the cell state only adds up, so its own gradient never decays.

        i, g, o = split(x_t W_x + h_{t-1} W_h + b)
        c_t = c_{t-1} + σ(i) tanh(g)
        h_t = σ(o) tanh(c_t)            y_t = h_t

    The paper squashes with 4σ - 2 and 2σ - 1; tanh is what later work uses.

    Reference: Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9 (1997), 1735-1780.

    Example:

      >>> cell = OriginalLSTM(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, y = cell.step(params, cell.initial_carry(params, (2,)), jnp.ones((2, 3)))
      >>> y.shape
      (2, 4)
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3)

    def states(self, input_size: int) -> HiddenAndCell:
        return HiddenAndCell(h=state(self.hidden_size), c=state(self.hidden_size))

    def step(self, params: Gated, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        i, g, o = blocks(affine(x, params.w_x, params.b) + carry.h @ params.w_h, 3)
        c = carry.c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return HiddenAndCell(h, c), h


@dataclasses.dataclass(frozen=True)
class CoupledLSTM(_WithForgetBias[Gated]):
    """The LSTM with coupled input and forget gates (CIFG): what is forgotten is replaced.

        f, g, o = split(x_t W_x + h_{t-1} W_h + b)
        c_t = σ(f) c_{t-1} + (1 - σ(f)) tanh(g)
        h_t = σ(o) tanh(c_t)            y_t = h_t

    Reference: Greff, Srivastava, Koutník, Steunebrink and Schmidhuber, LSTM: a search space odyssey, IEEE TNNLS 28
    (2017), section III, variant CIFG.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 3, biases=self._biases("fgo"))

    def step(self, params: Gated, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        f, g, o = blocks(affine(x, params.w_x, params.b) + carry.h @ params.w_h, 3)
        c = sigmoid(f) * carry.c + (1 - sigmoid(f)) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return HiddenAndCell(h, c), h


class PeepholeLSTMParams(NamedTuple):
    w_x: Array  # [D, 4H], blocks i, f, g, o
    w_h: Array  # [H, 4H]
    w_c: Array  # [3H], the peepholes of i, f, o
    b: Array  # [4H]


@dataclasses.dataclass(frozen=True)
class PeepholeLSTM(_WithForgetBias[PeepholeLSTMParams]):
    """The LSTM with peephole connections: the gates see the cell state.

        i = σ(x_t W_x^i + h_{t-1} W_h^i + w_c^i c_{t-1} + b^i)            f likewise
        c_t = f c_{t-1} + i tanh(x_t W_x^g + h_{t-1} W_h^g + b^g)
        o = σ(x_t W_x^o + h_{t-1} W_h^o + w_c^o c_t + b^o)
        h_t = o tanh(c_t)            y_t = h_t

    Reference: Gers, Schraudolph and Schmidhuber, Learning precise timing with LSTM recurrent networks, JMLR 3 (2002),
    115-143.
    """

    def weights(self, input_size: int) -> PeepholeLSTMParams:
        w_x, w_h, b = self.gated(input_size, 4, biases=self._biases())
        return PeepholeLSTMParams(w_x, w_h, weight((3 * self.hidden_size,)), b)

    def step(self, params: PeepholeLSTMParams, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        i, f, g, o = blocks(affine(x, params.w_x, params.b) + carry.h @ params.w_h, 4)
        w_i, w_f, w_o = (per_row(w, x) for w in blocks(params.w_c, 3))
        c = sigmoid(f + w_f * carry.c) * carry.c + sigmoid(i + w_i * carry.c) * jnp.tanh(g)
        h = sigmoid(o + w_o * c) * jnp.tanh(c)
        return HiddenAndCell(h, c), h


class LayerNormLSTMParams(NamedTuple):
    w_x: Array  # [D, 4H], blocks i, f, g, o
    w_h: Array  # [H, 4H]
    b: Array  # [4H]
    gain_x: Array  # [4H]
    gain_h: Array  # [4H]
    gain_c: Array  # [H]
    b_c: Array  # [H]


@dataclasses.dataclass(frozen=True)
class LayerNormLSTM(_WithForgetBias[LayerNormLSTMParams]):
    """The LSTM with layer normalisation of both products and of the cell state.

        i, f, g, o = split(gain_x norm(x_t W_x) + gain_h norm(h_{t-1} W_h) + b)
        c_t = σ(f) c_{t-1} + σ(i) tanh(g)
        h_t = σ(o) tanh(gain_c norm(c_t) + b_c)            y_t = h_t
        norm(a) = (a - mean(a)) / sqrt(var(a) + epsilon), over the last axis

    The two biases of the products' normalisations add up to b.

    Reference: Ba, Kiros and Hinton, Layer normalization, 2016 (arXiv:1607.06450), eqs. 20-22 of its supplement.
    """

    epsilon: float = 1e-5

    def weights(self, input_size: int) -> LayerNormLSTMParams:
        size = self.hidden_size
        w_x, w_h, b = self.gated(input_size, 4, biases=self._biases())
        gain = weight((4 * size,), (1.0,))
        return LayerNormLSTMParams(w_x, w_h, b, gain, gain, weight((size,), (1.0,)), weight((size,)))

    def step(self, params: LayerNormLSTMParams, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        by_x = per_row(params.gain_x, x) * self._norm(x @ params.w_x)
        by_h = per_row(params.gain_h, x) * self._norm(carry.h @ params.w_h)
        i, f, g, o = blocks(by_x + by_h + per_row(params.b, x), 4)
        c = sigmoid(f) * carry.c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(per_row(params.gain_c, x) * self._norm(c) + per_row(params.b_c, x))
        return HiddenAndCell(h, c), h

    def _norm(self, a: Array) -> Array:
        a = a - a.mean(-1, keepdims=True)
        return a * jax.lax.rsqrt((a * a).mean(-1, keepdims=True) + self.epsilon)


@dataclasses.dataclass(frozen=True)
class JANET(TextbookCell[Gated, Array]):
    """Just another network: an LSTM with the forget gate alone.

        f, g = split(x_t W_x + h_{t-1} W_h + b)
        h_t = σ(f) h_{t-1} + (1 - σ(f - β)) tanh(g)            y_t = h_t

    Attributes:
      beta: β; more than zero lets more in than is forgotten.
      forget_bias: the initial bias of the forget gate: a number, or `initializers.Chrono`.

    Reference: van der Westhuizen and Lasenby, The unreasonable effectiveness of the forget gate, 2018
    (arXiv:1804.04849), section 3.
    """

    beta: float = 1.0
    forget_bias: float | Chrono = 1.0

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2, biases=functools.partial(gate_biases, self.forget_bias, "fg"))

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        f, g = blocks(affine(x, params.w_x, params.b) + carry @ params.w_h, 2)
        h = sigmoid(f) * carry + (1 - sigmoid(f - self.beta)) * jnp.tanh(g)
        return h, h


class MultiplicativeLSTMParams(NamedTuple):
    w_x: Array  # [D, 5H], blocks m, i, f, g, o
    w_h: Array  # [H, H]
    w_m: Array  # [H, 4H], blocks i, f, g, o
    b: Array  # [4H]


@dataclasses.dataclass(frozen=True)
class MultiplicativeLSTM(_WithForgetBias[MultiplicativeLSTMParams]):
    """The multiplicative LSTM: each input has a recurrent matrix of its own, in factored form.

        m = (x_t W_x^m) (h_{t-1} W_h)
        i, f, g, o = split(x_t W_x + m W_m + b)
        c_t = σ(f) c_{t-1} + σ(i) tanh(g)
        h_t = σ(o) tanh(c_t)            y_t = h_t

    Reference: Krause, Lu, Murray and Renals, Multiplicative LSTM for sequence modelling, 2016 (arXiv:1609.07959).
    """

    def weights(self, input_size: int) -> MultiplicativeLSTMParams:
        size = self.hidden_size
        w_x, w_h, _ = self.gated(input_size, 5, carried=1)
        w_m, b = weight((size, 4 * size), self.w_h, 4), weight((4 * size,), self._biases())
        return MultiplicativeLSTMParams(w_x, w_h, w_m, b)

    def step(self, params: MultiplicativeLSTMParams, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        x_m, *x_gates = blocks(x @ params.w_x, 5)
        m = x_m * (carry.h @ params.w_h)
        i, f, g, o = (a + b for a, b in zip(x_gates, blocks(affine(m, params.w_m, params.b), 4), strict=True))
        c = sigmoid(f) * carry.c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return HiddenAndCell(h, c), h


@dataclasses.dataclass(frozen=True)
class NASCell(_WithForgetBias[Gated]):
    """The cell that a search over cells by reinforcement learning found.

        a_1, ..., a_8 = split(x_t W_x + h_{t-1} W_h + b)
        l = tanh(σ(a_1) relu(a_2)),      m = tanh(σ(a_3) + relu(a_4))
        n = tanh(tanh(a_5) σ(a_6)),      p = σ(tanh(a_7) + σ(a_8))
        c_t = tanh(l + c_{t-1}) m
        h_t = tanh(c_t tanh(n + p))            y_t = h_t

    Reference: Zoph and Le, Neural architecture search with reinforcement learning, ICLR 2017, figure 8 of its appendix.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 8)

    def step(self, params: Gated, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        a = blocks(affine(x, params.w_x, params.b) + carry.h @ params.w_h, 8)
        to_cell = jnp.tanh(sigmoid(a[0]) * jax.nn.relu(a[1]))
        gate = jnp.tanh(sigmoid(a[2]) + jax.nn.relu(a[3]))
        out = jnp.tanh(jnp.tanh(a[4]) * sigmoid(a[5])) + sigmoid(jnp.tanh(a[6]) + sigmoid(a[7]))
        c = jnp.tanh(to_cell + carry.c) * gate
        h = jnp.tanh(c * jnp.tanh(out))
        return HiddenAndCell(h, c), h


class WorkingMemoryLSTMParams(NamedTuple):
    w_x: Array  # [D, 4H], blocks i, f, g, o
    w_h: Array  # [H, 4H]
    w_c: Array  # [H, 3H], blocks i, f, o
    b: Array  # [4H]
    b_c: Array  # [3H]


@dataclasses.dataclass(frozen=True)
class WorkingMemoryLSTM(_WithForgetBias[WorkingMemoryLSTMParams]):
    """The LSTM with working memory connections: the gates see a bounded image of the cell state.

        i = σ(x_t W_x^i + h_{t-1} W_h^i + b^i + tanh(c_{t-1} W_c^i + b_c^i))            f likewise
        c_t = f c_{t-1} + i tanh(x_t W_x^g + h_{t-1} W_h^g + b^g)
        o = σ(x_t W_x^o + h_{t-1} W_h^o + b^o + tanh(c_t W_c^o + b_c^o))
        h_t = o tanh(c_t)            y_t = h_t

    Reference: Landi, Baraldi, Cornia and Cucchiara, Working memory connections for LSTM, Neural Networks 144 (2021),
    334-341 (arXiv:2109.00020).
    """

    def weights(self, input_size: int) -> WorkingMemoryLSTMParams:
        size = self.hidden_size
        w_x, w_h, b = self.gated(input_size, 4, biases=self._biases())
        w_c, b_c = weight((size, 3 * size), self.w_h, 3), weight((3 * size,))
        return WorkingMemoryLSTMParams(w_x, w_h, w_c, b, b_c)

    def step(self, params: WorkingMemoryLSTMParams, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        i, f, g, o = blocks(affine(x, params.w_x, params.b) + carry.h @ params.w_h, 4)
        (w_i, w_f, w_o), (b_i, b_f, b_o) = blocks(params.w_c, 3), blocks(params.b_c, 3)
        f = sigmoid(f + jnp.tanh(affine(carry.c, w_f, b_f)))
        i = sigmoid(i + jnp.tanh(affine(carry.c, w_i, b_i)))
        c = f * carry.c + i * jnp.tanh(g)
        h = sigmoid(o + jnp.tanh(affine(c, w_o, b_o))) * jnp.tanh(c)
        return HiddenAndCell(h, c), h


class ResidualLSTMParams(NamedTuple):
    w_x: Array  # [D, 4H], blocks i, f, g, o
    w_h: Array  # [H, 4H]
    w_c: Array  # [3H], the peepholes of i, f, o
    w_p: Array  # [H, H], the projection of the cell state
    w_r: Array  # [D, H], the shortcut of the input
    b: Array  # [4H]


@dataclasses.dataclass(frozen=True)
class ResidualLSTM(_WithForgetBias[ResidualLSTMParams]):
    """The residual LSTM: the input is added to the output before the output gate, which scales both.

        i, f, g, o and c_t as in `PeepholeLSTM`
        h_t = o (tanh(c_t) W_p + x_t W_r)            y_t = h_t

    Attributes:
      w_p: initializer of the projection and of the shortcut.

    Reference: Kim, El-Khamy and Lee, Residual LSTM: design of a deep recurrent architecture for distant speech
    recognition, Interspeech 2017 (arXiv:1701.03360), where W_r is the identity if D = H.
    """

    w_p: Initializer = LeCunNormal()

    def weights(self, input_size: int) -> ResidualLSTMParams:
        size = self.hidden_size
        w_x, w_h, b = self.gated(input_size, 4, biases=self._biases())
        w_p, w_r = weight((size, size), self.w_p), weight((input_size, size), self.w_p)
        return ResidualLSTMParams(w_x, w_h, weight((3 * size,)), w_p, w_r, b)

    def step(self, params: ResidualLSTMParams, carry: HiddenAndCell, x: Array) -> tuple[HiddenAndCell, Array]:
        self.check(params, carry, x)
        i, f, g, o = blocks(affine(x, params.w_x, params.b) + carry.h @ params.w_h, 4)
        w_i, w_f, w_o = (per_row(w, x) for w in blocks(params.w_c, 3))
        c = sigmoid(f + w_f * carry.c) * carry.c + sigmoid(i + w_i * carry.c) * jnp.tanh(g)
        h = sigmoid(o + w_o * c) * (jnp.tanh(c) @ params.w_p + x @ params.w_r)
        return HiddenAndCell(h, c), h


class MassConservingLSTMParams(NamedTuple):
    w_x: Array  # [D - mass_size, (mass_size + 1 + H) H], of the auxiliary input; i (mass_size blocks), o, R (H blocks)
    w_h: Array  # [H, (mass_size + 1 + H) H], of the normalised state
    b: Array  # [(mass_size + 1 + H) H]


@dataclasses.dataclass(frozen=True)
class MassConservingLSTM(TextbookCell[MassConservingLSTMParams, Array]):
    """The mass-conserving LSTM: what comes in leaves through the output gate or stays, to the last unit.

        x_t = (m_t, a_t)                                       the mass and the auxiliary input
        s = c_{t-1} / |c_{t-1}|_1                              0 where the state is empty
        i = softmax over units of (a_t W_x^i + s W_h^i + b^i)  [mass_size, H], where each mass goes
        o = σ(a_t W_x^o + s W_h^o + b^o)
        R = softmax over units of (a_t W_x^r + s W_h^r + b^r)  [H, H], how the state is redistributed
        n = c_{t-1} R + m_t i
        c_t = (1 - o) n            y_t = o n

    So sum(c_t) + sum(y_t) = sum(c_{t-1}) + sum(m_t).

    Attributes:
      mass_size: how many of the first features are mass; the others are the auxiliary input.

    Reference: Hoedt et al., MC-LSTM: mass-conserving LSTM, ICML 2021 (arXiv:2101.05186), eqs. 1-8.
    """

    mass_size: int = 1

    def weights(self, input_size: int) -> MassConservingLSTMParams:
        size, features = self.hidden_size, input_size - self.mass_size
        if features < 1:
            raise ValueError(
                f"input_size is {input_size} and mass_size {self.mass_size}; the gates need at least one more feature "
                "as auxiliary input, such as a constant."
            )
        width = (self.mass_size + 1 + size) * size
        count = self.mass_size + 1 + size
        return MassConservingLSTMParams(
            weight((features, width), self.w_x, count),
            weight((size, width), self.w_h, count),
            weight((width,)),
        )

    def input_size_of(self, params: MassConservingLSTMParams) -> int:
        return params.w_x.shape[0] + self.mass_size

    def step(self, params: MassConservingLSTMParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        size, mass = self.hidden_size, self.mass_size
        m, a = x[..., :mass], x[..., mass:]
        total = jnp.abs(carry).sum(-1, keepdims=True)
        s = jnp.where(total > 0, carry / jnp.where(total > 0, total, jnp.ones_like(total)), jnp.zeros_like(carry))
        i, o, r = jnp.split(affine(a, params.w_x, params.b) + s @ params.w_h, [mass * size, (mass + 1) * size], axis=-1)
        spread = jax.nn.softmax(i.reshape(*i.shape[:-1], mass, size))
        moved = jax.nn.softmax(r.reshape(*r.shape[:-1], size, size))
        n = (carry[..., None] * moved).sum(-2) + (m[..., None] * spread).sum(-2)
        y = sigmoid(o) * n
        return n - y, y


class ScalarLSTMCarry(NamedTuple):
    h: Array  # [*batch, H] hidden state
    c: Array  # [*batch, H] cell state
    n: Array  # [*batch, H] normaliser
    m: Array  # [*batch, H] stabiliser, the logarithm of the scale of c and n


@dataclasses.dataclass(frozen=True)
class ScalarLSTM(_WithForgetBias[Gated]):
    """The sLSTM of xLSTM: exponential input gates, with a normaliser, computed without overflow.

        i, f, g, o = split(x_t W_x + h_{t-1} W_h + b)
        m_t = max(log σ(f) + m_{t-1}, i)
        c_t = exp(log σ(f) + m_{t-1} - m_t) c_{t-1} + exp(i - m_t) tanh(g)
        n_t = exp(log σ(f) + m_{t-1} - m_t) n_{t-1} + exp(i - m_t)
        h_t = σ(o) c_t / n_t            y_t = h_t

    m cancels in h: c and n are the true states divided by exp(m). The forget gate is the sigmoid, one of the two that
    the paper allows.

    Reference: Beck et al., xLSTM: extended long short-term memory, NeurIPS 2024 (arXiv:2405.04517), eqs. 8-17.
    """

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 4, biases=self._biases())

    def states(self, input_size: int) -> ScalarLSTMCarry:
        return ScalarLSTMCarry(*[state(self.hidden_size)] * 4)

    def step(self, params: Gated, carry: ScalarLSTMCarry, x: Array) -> tuple[ScalarLSTMCarry, Array]:
        self.check(params, carry, x)
        i, f, g, o = blocks(affine(x, params.w_x, params.b) + carry.h @ params.w_h, 4)
        log_f = jax.nn.log_sigmoid(f) + carry.m
        m = jnp.maximum(log_f, i)
        kept, taken = jnp.exp(log_f - m), jnp.exp(i - m)
        c = kept * carry.c + taken * jnp.tanh(g)
        n = kept * carry.n + taken
        h = sigmoid(o) * c / n
        return ScalarLSTMCarry(h, c, n, m), h

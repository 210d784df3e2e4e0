"""Cells whose state has more than one path: through depth, or through slow or additive memory beside h.

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

from rnnjax.cell import check_size
from rnnjax.textbook import Gated, HiddenAndCell, TextbookCell, affine, blocks, state, weight

_GatedCell = TextbookCell[Gated, Array]


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

"""Echo state networks: a fixed random recurrent network, of which only a linear readout is trained."""

# pyright: reportUnknownMemberType=false

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from rnnjax.initializers import Initializer, SpectralRadius
from rnnjax.textbook import Gated, TextbookCell, affine


@dataclasses.dataclass(frozen=True)
class EchoState(TextbookCell[Gated, Array]):
    """The leaky echo state network, whose parameters get no gradient.

        h_t = (1 - leak) h_{t-1} + leak tanh(x_t W_x + h_{t-1} W_h + b)            y_t = h_t

    `rnnjax.ridge` fits a readout to its states.

    Attributes:
      w_h: initializer of the reservoir's matrix, with a spectral radius below 1 unless said otherwise.
      leak: how much of the state is replaced in a step.

    References: Jaeger, The echo state approach to analysing and training recurrent neural networks, GMD report 148
    (2001); with leak: Jaeger, Lukoševičius, Popovici and Siewert, Optimization and applications of echo state networks
    with leaky-integrator neurons, Neural Networks 20 (2007), 335-352, eq. 3.
    """

    w_h: Initializer = SpectralRadius(0.9)
    leak: float = 1.0

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        params = Gated(*map(lax.stop_gradient, params))
        h = (1 - self.leak) * carry + self.leak * jnp.tanh(affine(x, params.w_x, params.b) + carry @ params.w_h)
        return h, h

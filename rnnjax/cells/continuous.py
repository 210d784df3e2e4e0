"""Cells from differential equations: oscillators, antisymmetric flows, rate networks, liquid time constants.

Each is a discretised ordinary differential equation with a time step `dt`, whose stability can be read from the
equation. Products of states are elementwise, weights multiply from the right.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from rnnjax.cell import check_size, per_row
from rnnjax.initializers import Initializer, Normal
from rnnjax.textbook import Activation, Gated, TextbookCell, activate, affine, blocks, check_activation, state, weight


class Oscillator(NamedTuple):
    """The carry of a network of oscillators."""

    y: Array  # [*batch, H] position
    z: Array  # [*batch, H] velocity


class CoRNNParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [2H, H], of the position, of the velocity
    b: Array  # [H]


@dataclasses.dataclass(frozen=True)
class CoRNN(TextbookCell[CoRNNParams, Oscillator]):
    """The coupled oscillatory RNN: damped, driven nonlinear oscillators, whose gradients are bounded both ways.

        z_t = z_{t-1} + dt (tanh(x_t W_x + (y_{t-1}, z_{t-1}) W_h + b) - γ y_{t-1} - ε z_{t-1})
        y_t = y_{t-1} + dt z_t            output y_t

    Attributes:
      dt, gamma, epsilon: the time step, the frequencies γ and the damping ε.

    Reference: Rusch and Mishra, Coupled oscillatory recurrent neural network, ICLR 2021 (arXiv:2010.00951), eq. 3
    with the explicit damping term.

    Example: a single undamped oscillator without input keeps turning.

      >>> cell = CoRNN(1, dt=0.1, gamma=1.0, epsilon=0.0)
      >>> params = CoRNNParams(jnp.zeros((1, 1)), jnp.zeros((2, 1)), jnp.zeros(1))
      >>> carry = Oscillator(y=jnp.ones(1), z=jnp.zeros(1))
      >>> for _ in range(31):  # half a period, π / dt
      ...     carry, y = cell.step(params, carry, jnp.zeros(1))
      >>> -1.1 < float(y[0]) < -0.9
      True
    """

    dt: float = 0.05
    gamma: float = 1.0
    epsilon: float = 1.0

    def weights(self, input_size: int) -> CoRNNParams:
        size = self.hidden_size
        w_x, _, b = self.gated(input_size, 1)
        return CoRNNParams(w_x, weight((2 * size, size), self.w_h), b)

    def states(self, input_size: int) -> Oscillator:
        return Oscillator(y=state(self.hidden_size), z=state(self.hidden_size))

    def step(self, params: CoRNNParams, carry: Oscillator, x: Array) -> tuple[Oscillator, Array]:
        self.check(params, carry, x)
        w_y, w_z = jnp.split(params.w_h, 2)
        force = jnp.tanh(affine(x, params.w_x, params.b) + carry.y @ w_y + carry.z @ w_z)
        z = carry.z + self.dt * (force - self.gamma * carry.y - self.epsilon * carry.z)
        y = carry.y + self.dt * z
        return Oscillator(y, z), y


class UnICORNNParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [H]
    b: Array  # [H]
    c: Array  # [H], the time step of each unit before the sigmoid


@dataclasses.dataclass(frozen=True)
class UnICORNN(TextbookCell[UnICORNNParams, Oscillator]):
    """The undamped independent controlled oscillatory RNN: a Hamiltonian system, which keeps volume and gradients.

        z_t = z_{t-1} - dt σ(c) (tanh(x_t W_x + w_h y_{t-1} + b) + α y_{t-1})
        y_t = y_{t-1} + dt σ(c) z_t            output y_t

    The paper's W_h is a diagonal matrix, drawn from U(0, 1), and c from U(-0.1, 0.1).

    Attributes:
      dt, alpha: the largest time step, and the frequencies α.

    Reference: Rusch and Mishra, UnICORNN: a recurrent model for learning very long time dependencies, ICML 2021
    (arXiv:2103.05487), eq. 3.
    """

    dt: float = 0.1
    alpha: float = 1.0

    def weights(self, input_size: int) -> UnICORNNParams:
        w_x, _, b = self.gated(input_size, 1)
        w_h, c = (weight((self.hidden_size,), _uniform(low, high)) for low, high in ((0.0, 1.0), (-0.1, 0.1)))
        return UnICORNNParams(w_x, w_h, b, c)

    def states(self, input_size: int) -> Oscillator:
        return Oscillator(y=state(self.hidden_size), z=state(self.hidden_size))

    def step(self, params: UnICORNNParams, carry: Oscillator, x: Array) -> tuple[Oscillator, Array]:
        self.check(params, carry, x)
        dt = self.dt * sigmoid(per_row(params.c, x))
        force = jnp.tanh(affine(x, params.w_x, params.b) + per_row(params.w_h, x) * carry.y)
        z = carry.z - dt * (force + self.alpha * carry.y)
        y = carry.y + dt * z
        return Oscillator(y, z), y


class LEMParams(NamedTuple):
    w_x: Array  # [D, 4H], blocks of both time steps, z, y
    w_h: Array  # [H, 3H], of y: both time steps, z
    w_z: Array  # [H, H]
    b: Array  # [4H]


@dataclasses.dataclass(frozen=True)
class LEM(TextbookCell[LEMParams, Oscillator]):
    """Long expressive memory: two states, each with a time step of its own that the network sets.

        δ = dt σ(x_t W_x^1 + y_{t-1} W_h^1 + b^1),  δ' = dt σ(x_t W_x^2 + y_{t-1} W_h^2 + b^2)
        z_t = (1 - δ) z_{t-1} + δ tanh(x_t W_x^z + y_{t-1} W_h^z + b^z)
        y_t = (1 - δ') y_{t-1} + δ' tanh(x_t W_x^y + z_t W_z + b^y)            output y_t

    Reference: Rusch, Mishra, Erichson and Mahoney, Long expressive memory for sequence modeling, ICLR 2022
    (arXiv:2110.04744), eq. 3.
    """

    dt: float = 1.0

    def weights(self, input_size: int) -> LEMParams:
        w_x, w_h, b = self.gated(input_size, 4, carried=3)
        return LEMParams(w_x, w_h, weight((self.hidden_size, self.hidden_size), self.w_h), b)

    def states(self, input_size: int) -> Oscillator:
        return Oscillator(y=state(self.hidden_size), z=state(self.hidden_size))

    def step(self, params: LEMParams, carry: Oscillator, x: Array) -> tuple[Oscillator, Array]:
        self.check(params, carry, x)
        x_1, x_2, x_z, x_y = blocks(affine(x, params.w_x, params.b), 4)
        h_1, h_2, h_z = blocks(carry.y @ params.w_h, 3)
        dt_z, dt_y = self.dt * sigmoid(x_1 + h_1), self.dt * sigmoid(x_2 + h_2)
        z = (1 - dt_z) * carry.z + dt_z * jnp.tanh(x_z + h_z)
        y = (1 - dt_y) * carry.y + dt_y * jnp.tanh(x_y + z @ params.w_z)
        return Oscillator(y, z), y


@dataclasses.dataclass(frozen=True)
class Antisymmetric(TextbookCell[Gated, Array]):
    """The antisymmetric RNN: the forward Euler method for a flow whose Jacobian has imaginary eigenvalues.

        A = W_h - W_hᵀ - γ I
        h_t = h_{t-1} + dt tanh(x_t W_x + h_{t-1} A + b)            y_t = h_t

    Attributes:
      dt, gamma: the time step, and the diffusion γ, which makes the Euler method stable.

    Reference: Chang, Chen, Haber and Chi, AntisymmetricRNN: a dynamical system view on recurrent neural networks, ICLR
    2019 (arXiv:1902.09689), eq. 10.
    """

    w_h: Initializer = Normal()
    dt: float = 0.1
    gamma: float = 0.01

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        a = _antisymmetric(params.w_h, self.gamma)
        h = carry + self.dt * jnp.tanh(affine(x, params.w_x, params.b) + carry @ a)
        return h, h


@dataclasses.dataclass(frozen=True)
class GatedAntisymmetric(TextbookCell[Gated, Array]):
    """The antisymmetric RNN with an input gate.

        A = W_h - W_hᵀ - γ I
        z = σ(x_t W_x^z + h_{t-1} A + b^z)
        h_t = h_{t-1} + dt z tanh(x_t W_x^h + h_{t-1} A + b^h)            y_t = h_t

    Blocks of `w_x` and `b`: z, h; `w_h` is shared.

    Reference: Chang, Chen, Haber and Chi, as for `Antisymmetric`, eq. 12.
    """

    w_h: Initializer = Normal()
    dt: float = 0.1
    gamma: float = 0.01

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 2, carried=1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        x_z, x_h = blocks(affine(x, params.w_x, params.b), 2)
        flow = carry @ _antisymmetric(params.w_h, self.gamma)
        h = carry + self.dt * sigmoid(x_z + flow) * jnp.tanh(x_h + flow)
        return h, h


def _antisymmetric(w: Array, gamma: float) -> Array:
    """W - Wᵀ - γ I, for products from the right as the paper's for products from the left: A is its own -Aᵀ - 2γ I."""
    return w - w.T - gamma * jnp.eye(w.shape[0], dtype=w.dtype)


@dataclasses.dataclass(frozen=True)
class RateNetwork(TextbookCell[Gated, Array]):
    """A network of rate neurons in continuous time, by the forward Euler method.

        form="voltage":  τ dv/dt = -v + φ(v) W_h + x W_x + b           y = φ(v)
        form="rate":     τ dr/dt = -r + φ(r W_h + x W_x + b)           y = r

    With α = dt/τ the state moves by α of the right side in one step. Without input both forms have the same dynamics,
    as v = r W_h.

    Attributes:
      activation: φ.
      dt, tau: the time step and the time constant, in the same unit.
      form: whether φ is applied before or after W_h.

    References: Sompolinsky, Crisanti and Sommers, Chaos in random neural networks, Phys. Rev. Lett. 61 (1988), eq. 1
    (voltage); Miller and Fumarola, Mathematical equivalence of two common forms of firing rate models of neural
    networks, Neural Computation 24 (2012), 25-31.
    """

    w_h: Initializer = Normal()
    activation: Activation = "tanh"
    dt: float = 0.1
    tau: float = 1.0
    form: Literal["voltage", "rate"] = "voltage"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_activation(self.activation)
        if self.form not in ("voltage", "rate"):
            raise ValueError(f"form is {self.form!r}; choose 'voltage' or 'rate'.")

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 1)

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        alpha, drive = self.dt / self.tau, affine(x, params.w_x, params.b)
        if self.form == "rate":
            r = (1 - alpha) * carry + alpha * activate(self.activation, drive + carry @ params.w_h)
            return r, r
        v = (1 - alpha) * carry + alpha * (activate(self.activation, carry) @ params.w_h + drive)
        return v, activate(self.activation, v)


class LowRankParams(NamedTuple):
    w_x: Array  # [D, H]
    w_m: Array  # [H, rank]
    w_n: Array  # [rank, H]
    b: Array  # [H]


@dataclasses.dataclass(frozen=True)
class LowRank(TextbookCell[LowRankParams, Array]):
    """A rate network whose recurrent matrix has low rank, so that its dynamics has few dimensions.

        W_h = W_m W_n / H
        v_t = (1 - α) v_{t-1} + α ((φ(v_{t-1}) W_m) W_n / H + x_t W_x + b)            y_t = φ(v_t)

    with α = dt/τ. W_m and W_n have entries from N(0, 1), so that the entries of W_h are of order 1/H.

    Attributes:
      rank: of W_h.

    Reference: Mastrogiuseppe and Ostojic, Linking connectivity, dynamics and computations in low-rank recurrent neural
    networks, Neuron 99 (2018), 609-623 (arXiv:1711.09672).
    """

    rank: int = 2
    activation: Activation = "tanh"
    dt: float = 0.1
    tau: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("rank", self.rank)
        check_activation(self.activation)

    def weights(self, input_size: int) -> LowRankParams:
        size = self.hidden_size
        w_x, _, b = self.gated(input_size, 1)
        return LowRankParams(w_x, weight((size, self.rank), _normal), weight((self.rank, size), _normal), b)

    def step(self, params: LowRankParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        alpha, drive = self.dt / self.tau, affine(x, params.w_x, params.b)
        fed_back = (activate(self.activation, carry) @ params.w_m) @ (params.w_n / self.hidden_size)
        v = (1 - alpha) * carry + alpha * (fed_back + drive)
        return v, activate(self.activation, v)


class LiquidParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    b: Array  # [H]
    a: Array  # [H], the state that f draws towards
    rate: Array  # [H], 1/τ before softplus


@dataclasses.dataclass(frozen=True)
class LiquidTimeConstant(TextbookCell[LiquidParams, Array]):
    """The liquid time-constant network: the time constant depends on state and input.

        dh/dt = -(1/τ + f) h + f a,            f = σ(x W_x + h W_h + b)
        h ← (h + δ f a) / (1 + δ (1/τ + f)),   `unfolds` times with δ = dt / unfolds            y_t = h_t

    The second line is the paper's fused solver, semi-implicit and stable for all parameters.

    Attributes:
      dt: the time between inputs.
      unfolds: solver steps between inputs.

    Reference: Hasani, Lechner, Amini, Rus and Grosu, Liquid time-constant networks, AAAI 2021 (arXiv:2006.04439), eqs.
    1 and 3, algorithm 1.
    """

    dt: float = 1.0
    unfolds: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("unfolds", self.unfolds)

    def weights(self, input_size: int) -> LiquidParams:
        w_x, w_h, b = self.gated(input_size, 1)
        return LiquidParams(w_x, w_h, b, weight((self.hidden_size,), _uniform(-1.0, 1.0)), weight((self.hidden_size,)))

    def step(self, params: LiquidParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        h, drive, dt = carry, affine(x, params.w_x, params.b), self.dt / self.unfolds
        a, rate = per_row(params.a, x), per_row(jax.nn.softplus(params.rate), x)
        for _ in range(self.unfolds):
            f = sigmoid(drive + h @ params.w_h)
            h = (h + dt * f * a) / (1 + dt * (rate + f))
        return h, h


class CfCParams(NamedTuple):
    w_x: Array  # [D, backbone]
    w_h: Array  # [H, backbone]
    b: Array  # [backbone]
    w_o: Array  # [backbone, 3H], the heads f, g, k
    b_o: Array  # [3H]


@dataclasses.dataclass(frozen=True)
class ClosedFormContinuous(TextbookCell[CfCParams, Array]):
    """The closed-form continuous-time network (CfC): the liquid time constant without a solver.

        s = 1.7159 tanh(2/3 (x_t W_x + h_{t-1} W_h + b))            the backbone
        f, g, k = split(s W_o + b_o)
        h_t = σ(-f dt) tanh(g) + (1 - σ(-f dt)) tanh(k)            y_t = h_t

    Attributes:
      backbone: the backbone's units; as many as H if None.
      dt: the time between inputs.

    Reference: Hasani et al., Closed-form continuous-time neural networks, Nature Machine Intelligence 4 (2022),
    992-1003 (arXiv:2106.13898), eq. 3; the backbone's activation is LeCun's, as in the authors' code.
    """

    backbone: int | None = None
    dt: float = 1.0

    def weights(self, input_size: int) -> CfCParams:
        size, wide = self.hidden_size, self.hidden_size if self.backbone is None else self.backbone
        return CfCParams(
            weight((input_size, wide), self.w_x),
            weight((size, wide), self.w_h),
            weight((wide,)),
            weight((wide, 3 * size), self.w_x, 3),
            weight((3 * size,)),
        )

    def step(self, params: CfCParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        s = 1.7159 * jnp.tanh((2 / 3) * (affine(x, params.w_x, params.b) + carry @ params.w_h))
        f, g, k = blocks(affine(s, params.w_o, params.b_o), 3)
        near = sigmoid(-f * self.dt)
        h = near * jnp.tanh(g) + (1 - near) * jnp.tanh(k)
        return h, h


def _uniform(low: float, high: float):
    """Draws from U(low, high)."""

    def draw(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.uniform(key, shape, dtype, low, high)

    return draw


def _normal(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Draws from N(0, 1)."""
    return jax.random.normal(key, shape, dtype)

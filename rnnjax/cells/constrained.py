"""Cells whose recurrence is constrained, so that its gradients are: diagonal, orthogonal, unitary, residual, slow.

Products of states are elementwise, weights multiply from the right.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import sigmoid

from rnnjax.cell import check_size, per_row
from rnnjax.initializers import Initializer, Normal
from rnnjax.textbook import Activation, Gated, TextbookCell, activate, affine, blocks, check_activation, state, weight


class IndRNNParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [H]
    b: Array  # [H]


@dataclasses.dataclass(frozen=True)
class IndRNN(TextbookCell[IndRNNParams, Array]):
    """The independently recurrent network: each unit feeds back on itself alone.

        h_t = φ(x_t W_x + w_h h_{t-1} + b)            y_t = h_t

    The gradient through n steps of a unit is w_hⁿ times a product of slopes of φ, so it keeps its size over n steps if
    |w_h| lies between ε^(1/n) and γ^(1/n).

    Attributes:
      activation: φ.
      low, high: `w_h` is drawn from U(low, high).

    Reference: Li, Li, Cook, Zhu and Gao, Independently recurrent neural network (IndRNN), CVPR 2018 (arXiv:1803.04831),
    eq. 2.
    """

    activation: Activation = "relu"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_activation(self.activation)

    def weights(self, input_size: int) -> IndRNNParams:
        w_x, _, b = self.gated(input_size, 1)

        def between(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return jax.random.uniform(key, shape, dtype, self.low, self.high)

        return IndRNNParams(w_x, weight((self.hidden_size,), between), b)

    def step(self, params: IndRNNParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        h = activate(self.activation, affine(x, params.w_x, params.b) + per_row(params.w_h, x) * carry)
        return h, h


class FastRNNParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    b: Array  # [H]
    scalars: Array  # [2], α and β before the sigmoid


@dataclasses.dataclass(frozen=True)
class FastRNN(TextbookCell[FastRNNParams, Array]):
    """FastRNN: an Elman network with a weighted residual connection.

        h_t = σ(α) φ(x_t W_x + h_{t-1} W_h + b) + σ(β) h_{t-1}            y_t = h_t

    Attributes:
      activation: φ.
      alpha, beta: the initial values; as published, σ(α) is small and σ(β) near 1.

    Reference: Kusupati et al., FastGRNN: a fast, accurate, stable and tiny kilobyte sized gated recurrent neural
    network, NeurIPS 2018 (arXiv:1901.02358), eq. 1.
    """

    activation: Activation = "tanh"
    alpha: float = -3.0
    beta: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_activation(self.activation)

    def weights(self, input_size: int) -> FastRNNParams:
        return FastRNNParams(*self.gated(input_size, 1), weight((2,), (self.alpha, self.beta)))

    def step(self, params: FastRNNParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        new = activate(self.activation, affine(x, params.w_x, params.b) + carry @ params.w_h)
        alpha, beta = _of_all_units(params.scalars, carry)
        h = alpha * new + beta * carry
        return h, h


def _of_all_units(scalars: Array, h: Array) -> list[Array]:
    """σ of each number, for every unit."""
    size = h.shape[-1]
    return [per_row(jnp.broadcast_to(number, (size,)), h) for number in blocks(sigmoid(scalars), 2)]


class FastGRNNParams(NamedTuple):
    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    b: Array  # [2H], blocks z, n
    scalars: Array  # [2], ζ and ν before the sigmoid


@dataclasses.dataclass(frozen=True)
class FastGRNN(TextbookCell[FastGRNNParams, Array]):
    """FastGRNN: FastRNN with a gate that shares the matrices of the candidate.

        u = x_t W_x + h_{t-1} W_h
        z = σ(u + b^z),  n = tanh(u + b^n)
        h_t = (σ(ζ) (1 - z) + σ(ν)) n + z h_{t-1}            y_t = h_t

    Attributes:
      zeta, nu: the initial values.

    Reference: Kusupati et al., as for `FastRNN`, eq. 2.
    """

    zeta: float = 1.0
    nu: float = -4.0

    def weights(self, input_size: int) -> FastGRNNParams:
        w_x, w_h, b = self.gated(input_size, 1, biases=(0.0, 0.0))
        return FastGRNNParams(w_x, w_h, b, weight((2,), (self.zeta, self.nu)))

    def step(self, params: FastGRNNParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        u = x @ params.w_x + carry @ params.w_h
        b_z, b_n = (per_row(b, x) for b in blocks(params.b, 2))
        zeta, nu = _of_all_units(params.scalars, carry)
        z = sigmoid(u + b_z)
        h = (zeta * (1 - z) + nu) * jnp.tanh(u + b_n) + z * carry
        return h, h


def exponential(a: Array, squarings: int = 6, order: int = 14) -> Array:
    """exp(A) of a matrix by its Taylor series, scaled and squared: products only, so that it runs on every device.

    exp(A) = exp(A / 2^s)^(2^s). With the defaults the error is near rounding for |A|_2 up to 2^s = 64.

    Reference: Moler and Van Loan, Nineteen dubious ways to compute the exponential of a matrix, SIAM Review 45 (2003),
    method 3.

    Example: a quarter turn.

      >>> turn = exponential(jnp.array([[0.0, 1.0], [-1.0, 0.0]]) * (jnp.pi / 2))
      >>> bool(jnp.allclose(turn, jnp.array([[0.0, 1.0], [-1.0, 0.0]]), atol=1e-5))
      True
    """
    a = a / 2**squarings
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    power = one
    for k in range(order, 0, -1):  # Horner's rule
        power = one + (a @ power) / k
    for _ in range(squarings):
        power = power @ power
    return power


def cayley(a: Array, iterations: int = 20) -> Array:
    """(I + A)^-1 (I - A) of a skew-Hermitian matrix, which is unitary; the inverse by Newton-Schulz iteration.

    As A is skew-Hermitian, (I + A)^-1 = (I - A) S^-1 with S = I - A² positive definite. The iteration
    Z ← Z (2 I - S Z) from Z = I / trace-bound(S) converges to S^-1 quadratically; 20 suffice for |A|_2 up to some 100.

    Reference: Schulz, Iterative Berechnung der reziproken Matrix, ZAMM 13 (1933), 57-59.

    Example:

      >>> w = cayley(jnp.array([[0.0, 1.0], [-1.0, 0.0]]))  # also a quarter turn, in the other direction
      >>> bool(jnp.allclose(w, jnp.array([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6))
      True
    """
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    s = one - a @ a
    z = one / jnp.abs(s).sum(0).max()
    for _ in range(iterations):
        z = 2 * z - z @ (s @ z)
    half = (one - a) @ z
    return half @ (one - a)


@dataclasses.dataclass(frozen=True)
class OrthogonalRNN(TextbookCell[Gated, Array]):
    """An RNN whose recurrent matrix is orthogonal for all values of its parameters.

        A = W_h - W_hᵀ
        Q = exp(A) or (I + A)^-1 (I - A)
        h_t = φ(x_t W_x + h_{t-1} Q + b)            y_t = h_t

    The product with Q keeps norms, of states and of gradients. Q is computed once, before the loop over time.

    Attributes:
      activation: φ; modReLU in the papers, where "linear" keeps norms exactly.
      map: "exponential" or "cayley". The Cayley map reaches all orthogonal matrices without eigenvalue -1.

    References: Lezcano-Casado and Martínez-Rubio, Cheap orthogonal constraints in neural networks, ICML 2019
    (arXiv:1901.08428), exponential; Helfrich, Willmott and Ye, Orthogonal recurrent neural networks with scaled Cayley
    transform, ICML 2018 (arXiv:1707.09520).
    """

    w_h: Initializer = Normal()
    activation: Activation = "tanh"
    map: Literal["exponential", "cayley"] = "exponential"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_activation(self.activation)
        _check_map(self.map)

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 1)

    def matrix(self, params: Gated) -> Array:
        """Q."""
        a = params.w_h - params.w_h.T
        return exponential(a) if self.map == "exponential" else cayley(a)

    @property
    def knob(self) -> str:
        return "generator of W2"

    def with_knob(self, params: Gated, scale: Array) -> Gated:
        return params._replace(w_h=params.w_h * scale.astype(params.w_h.dtype))

    def step(self, params: Gated, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        h = activate(self.activation, affine(x, params.w_x, params.b) + carry @ self.matrix(params))
        return h, h


class UnitaryParams(NamedTuple):
    w_x: Array  # [D, 2H], real and imaginary part
    w_h: Array  # [H, 2H], real and imaginary part of W, of which W - W^H matters
    b: Array  # [H], of modReLU


@dataclasses.dataclass(frozen=True)
class UnitaryRNN(TextbookCell[UnitaryParams, Array]):
    """An RNN with a complex state and a unitary recurrent matrix.

        A = W - W^H
        U = exp(A) or (I + A)^-1 (I - A)
        z = x_t W_x + h_{t-1} U
        h_t = relu(|z| + b) z / |z|                            modReLU, 0 where z is
        y_t = (Re h_t, Im h_t)            [2H]

    The carry is y_t, so that all arithmetic is real: U acts as the orthogonal matrix ((Re U, Im U), (-Im U, Re U)).

    Attributes:
      map: "exponential" or "cayley".

    References: Arjovsky, Shah and Bengio, Unitary evolution recurrent neural networks, ICML 2016 (arXiv:1511.06464),
    eq. 8 for modReLU; the maps as for `OrthogonalRNN`.
    """

    w_h: Initializer = Normal()
    map: Literal["exponential", "cayley"] = "exponential"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_map(self.map)

    def weights(self, input_size: int) -> UnitaryParams:
        w_x, w_h, _ = self.gated(input_size, 2)
        return UnitaryParams(w_x, w_h, weight((self.hidden_size,)))

    def states(self, input_size: int) -> Array:
        return state(2 * self.hidden_size)

    def matrix(self, params: UnitaryParams) -> Array:
        """U as a real matrix, [2H, 2H]."""
        re, im = blocks(params.w_h, 2)
        re, im = re - re.T, im + im.T
        a = jnp.concatenate([jnp.concatenate([re, im], axis=1), jnp.concatenate([-im, re], axis=1)])
        return exponential(a) if self.map == "exponential" else cayley(a)

    @property
    def knob(self) -> str:
        return "generator of W2"

    def with_knob(self, params: UnitaryParams, scale: Array) -> UnitaryParams:
        return params._replace(w_h=params.w_h * scale.astype(params.w_h.dtype))

    def step(self, params: UnitaryParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        re, im = blocks(x @ params.w_x + carry @ self.matrix(params), 2)
        squared = re * re + im * im
        there = squared > 0
        size = jnp.sqrt(jnp.where(there, squared, jnp.ones_like(squared)))
        scale = jnp.where(there, jax.nn.relu(size + per_row(params.b, x)) / size, jnp.zeros_like(size))
        h = jnp.concatenate([re * scale, im * scale], axis=-1)
        return h, h


def _check_map(name: str) -> None:
    if name not in ("exponential", "cayley"):
        raise ValueError(f"map is {name!r}; choose 'exponential' or 'cayley'.")


class ClockworkCarry(NamedTuple):
    h: Array  # [*batch, H]
    t: Array  # [*batch, 1], the time modulo the longest period


@dataclasses.dataclass(frozen=True)
class Clockwork(TextbookCell[Gated, ClockworkCarry]):
    """The clockwork RNN: modules of units that tick with different periods, slow ones feeding fast ones.

        module k has the period 2^k, k = 0, ..., modules - 1, and ticks at the steps t that it divides
        h_t = tanh(x_t W_x + h_{t-1} (M W_h) + b) in modules that tick, h_{t-1} elsewhere            y_t = h_t

    The mask M lets module k see only modules of its own or a longer period.

    Attributes:
      modules: how many; H must be a multiple.

    Reference: Koutník, Greff, Gomez and Schmidhuber, A clockwork RNN, ICML 2014 (arXiv:1402.3511), section 3.
    """

    modules: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("modules", self.modules)
        if self.hidden_size % self.modules:
            raise ValueError(
                f"hidden_size is {self.hidden_size} and modules {self.modules}; hidden_size must be a multiple."
            )

    def weights(self, input_size: int) -> Gated:
        return self.gated(input_size, 1)

    def states(self, input_size: int) -> ClockworkCarry:
        return ClockworkCarry(h=state(self.hidden_size), t=state(1))

    def step(self, params: Gated, carry: ClockworkCarry, x: Array) -> tuple[ClockworkCarry, Array]:
        self.check(params, carry, x)
        module = jnp.arange(self.hidden_size) // (self.hidden_size // self.modules)
        period = (2**module).astype(x.dtype)
        seen = jnp.where(module[:, None] >= module[None, :], params.w_h, jnp.zeros_like(params.w_h))
        new = jnp.tanh(affine(x, params.w_x, params.b) + carry.h @ seen)
        t = lax.stop_gradient(carry.t)
        ticks = jnp.mod(jnp.broadcast_to(t, carry.h.shape), per_row(period, x)) == 0
        h = jnp.where(ticks, new, carry.h)
        longest = math.prod([2] * (self.modules - 1))
        return ClockworkCarry(h, jnp.mod(t + 1, longest)), h

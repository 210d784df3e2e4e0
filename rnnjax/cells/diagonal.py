"""Diagonal linear recurrences: each unit, real or complex, multiplies its own state.

Given the input, the next state is linear in the last: `unroll(engine="associative")` runs them as a parallel scan.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid
from jax.typing import DTypeLike

from rnnjax.cell import per_row
from rnnjax.initializers import Ring
from rnnjax.textbook import KEEPING, TextbookCell, affine, blocks, state, weight, with_odds


class ComplexCarry(NamedTuple):
    """A complex state in real arithmetic."""

    re: Array  # [*batch, H]
    im: Array  # [*batch, H]


def _turned(factor: ComplexCarry, state: ComplexCarry, x: Array) -> ComplexCarry:
    """The complex product of a factor [H] with a state [*batch, H]."""
    re, im = per_row(factor.re, x), per_row(factor.im, x)
    return ComplexCarry(re * state.re - im * state.im, re * state.im + im * state.re)


def _divided(z: ComplexCarry, re: Array, im: Array) -> ComplexCarry:
    """z / (re + i im)."""
    square = re * re + im * im
    return ComplexCarry((z.re * re + z.im * im) / square, (z.im * re - z.re * im) / square)


class LRUParams(NamedTuple):
    w_x: Array  # [D, 2H], B: real and imaginary part
    nu: Array  # [H], log of the decay rate
    theta: Array  # [H], log of the phase
    gamma: Array  # [H], log of the input's normalisation
    w_o: Array  # [2H, H], C: real part, and minus the imaginary part
    w_d: Array  # [D, H], from the input to the output


@dataclasses.dataclass(frozen=True)
class LRU(TextbookCell[LRUParams, ComplexCarry]):
    """The linear recurrent unit: complex, diagonal and stable, with eigenvalues drawn from a ring.

        λ = exp(-exp(ν) + i exp(θ))
        h_t = λ h_{t-1} + exp(γ) (x_t B)
        y_t = Re(h_t C) + x_t W_d            [H]

    The complex state is kept as its real and imaginary part, so that all arithmetic is real.

    Attributes:
      low, high, phase: the `initializers.Ring` from which λ is drawn.

    Reference: Orvieto et al., Resurrecting recurrent neural networks for long sequences, ICML 2023 (arXiv:2303.06349),
    appendix A; γ starts at sqrt(1 - |λ|²), eq. 7.
    """

    low: float = 0.0
    high: float = 1.0
    phase: float = 2 * math.pi

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ring()  # raises if the numbers do not fit

    def _ring(self) -> Ring:
        return Ring(self.low, self.high, self.phase)

    def weights(self, input_size: int) -> LRUParams:
        size, ring = self.hidden_size, self._ring()
        w_x, _, _ = self.gated(input_size, 2)
        return LRUParams(
            w_x,
            weight((size,), ring.log_decay),
            weight((size,), ring.log_phase),
            weight((size,)),
            weight((2 * size, size), self.w_x),
            weight((input_size, size), self.w_x),
        )

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> LRUParams:
        params = super().init(key, input_size, dtype)
        return params._replace(gamma=0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(params.nu))))

    def states(self, input_size: int) -> ComplexCarry:
        return ComplexCarry(re=state(self.hidden_size), im=state(self.hidden_size))

    def eigenvalues(self, params: LRUParams) -> ComplexCarry:
        """λ, each part [H]."""
        decay, phase = jnp.exp(-jnp.exp(params.nu)), jnp.exp(params.theta)
        return ComplexCarry(decay * jnp.cos(phase), decay * jnp.sin(phase))

    def step(self, params: LRUParams, carry: ComplexCarry, x: Array) -> tuple[ComplexCarry, Array]:
        self.check(params, carry, x)
        b_re, b_im = (per_row(jnp.exp(params.gamma), x) * b for b in blocks(x @ params.w_x, 2))
        h = _turned(self.eigenvalues(params), carry, x)
        h = ComplexCarry(h.re + b_re, h.im + b_im)
        return h, jnp.concatenate(h, axis=-1) @ params.w_o + x @ params.w_d


class DiagonalSSMParams(NamedTuple):
    w_x: Array  # [D, 2H], B: real and imaginary part
    rate: Array  # [H], log of minus the real part of Λ
    frequency: Array  # [H], the imaginary part of Λ
    log_dt: Array  # [H], log of each state's time step
    w_o: Array  # [2H, H], C: real part, and minus the imaginary part
    w_d: Array  # [D, H], from the input to the output


@dataclasses.dataclass(frozen=True)
class DiagonalSSM(TextbookCell[DiagonalSSMParams, ComplexCarry]):
    """A diagonal state space model in the style of S5: a continuous linear system, discretised.

        dh/dt = Λ h + x B,            Λ = -exp(rate) + i frequency
        zoh:       λ = exp(Λ dt),                          B' = (λ - 1) / Λ  B
        bilinear:  λ = (1 + Λ dt/2) / (1 - Λ dt/2),        B' = dt / (1 - Λ dt/2)  B
        h_t = λ h_{t-1} + x_t B'
        y_t = 2 Re(h_t C) + x_t W_d            [H]

    The state is one of each conjugate pair, which the factor 2 accounts for; it is kept as real and imaginary part. Λ
    starts at -1/2 + i π n, n = 0, 1, ..., an approximation of the eigenvalues of HiPPO's normal part.

    Attributes:
      discretization: "zoh" (zero-order hold) or "bilinear".
      dt_low, dt_high: time steps are drawn from this range, uniformly in their logarithm.

    References: Smith, Warrington and Linderman, Simplified state space layers for sequence modeling, ICLR 2023
    (arXiv:2208.04933), eqs. 2-6; the initial Λ is S4D-Lin: Gu, Gupta, Goel and Ré, On the parameterization and
    initialization of diagonal state space models, NeurIPS 2022 (arXiv:2206.11893).
    """

    discretization: Literal["zoh", "bilinear"] = "zoh"
    dt_low: float = 1e-3
    dt_high: float = 1e-1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discretization not in ("zoh", "bilinear"):
            raise ValueError(f"discretization is {self.discretization!r}; choose 'zoh' or 'bilinear'.")

    def weights(self, input_size: int) -> DiagonalSSMParams:
        size = self.hidden_size
        w_x, _, _ = self.gated(input_size, 2)

        def frequency(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return math.pi * jnp.arange(size, dtype=dtype)

        def log_dt(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return jax.random.uniform(key, shape, dtype, math.log(self.dt_low), math.log(self.dt_high))

        return DiagonalSSMParams(
            w_x,
            weight((size,), (math.log(0.5),)),
            weight((size,), frequency),
            weight((size,), log_dt),
            weight((2 * size, size), self.w_x),
            weight((input_size, size), self.w_x),
        )

    def states(self, input_size: int) -> ComplexCarry:
        return ComplexCarry(re=state(self.hidden_size), im=state(self.hidden_size))

    def discretized(self, params: DiagonalSSMParams) -> tuple[ComplexCarry, ComplexCarry]:
        """λ and the factor of B, each part [H]."""
        dt, rate = jnp.exp(params.log_dt), -jnp.exp(params.rate)
        z = ComplexCarry(rate * dt, params.frequency * dt)  # Λ dt
        if self.discretization == "zoh":
            decay = jnp.exp(z.re)
            eigenvalues = ComplexCarry(decay * jnp.cos(z.im), decay * jnp.sin(z.im))
            return eigenvalues, _divided(ComplexCarry(eigenvalues.re - 1, eigenvalues.im), rate, params.frequency)
        below = (1 - z.re / 2, -z.im / 2)
        eigenvalues = _divided(ComplexCarry(1 + z.re / 2, z.im / 2), *below)
        return eigenvalues, _divided(ComplexCarry(dt, jnp.zeros_like(dt)), *below)

    def step(self, params: DiagonalSSMParams, carry: ComplexCarry, x: Array) -> tuple[ComplexCarry, Array]:
        self.check(params, carry, x)
        eigenvalues, factor = self.discretized(params)
        h = _turned(eigenvalues, carry, x)
        drive = _turned(factor, ComplexCarry(*blocks(x @ params.w_x, 2)), x)
        h = ComplexCarry(h.re + drive.re, h.im + drive.im)
        return h, 2 * (jnp.concatenate(h, axis=-1) @ params.w_o) + x @ params.w_d


class RGLRUParams(NamedTuple):
    w_x: Array  # [D, 3H], blocks r, i, v
    b: Array  # [3H]
    decay: Array  # [H], Λ


@dataclasses.dataclass(frozen=True)
class RGLRU(TextbookCell[RGLRUParams, Array]):
    """The real-gated linear recurrent unit of Griffin: a diagonal decay that a gate can switch off.

        r, i, v = split(x_t W_x + b)
        log a = c σ(r) log σ(Λ),        c = 8
        h_t = a h_{t-1} + sqrt(1 - a²) (σ(i) v)            y_t = h_t

    In the paper v is the input itself, which a linear layer before has brought to H features.

    Attributes:
      low, high: σ(Λ)^c is drawn from U(low, high).

    Reference: De et al., Griffin: mixing gated linear recurrences with local attention, 2024 (arXiv:2402.19427),
    section 2.4, eqs. 1-4 and 6.
    """

    low: float = 0.9
    high: float = 0.999

    def weights(self, input_size: int) -> RGLRUParams:
        w_x, _, b = self.gated(input_size, 3)

        def decay(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            root = jax.random.uniform(key, shape, dtype, self.low, self.high) ** (1 / 8)
            return jnp.log(root) - jnp.log1p(-root)

        return RGLRUParams(w_x, b, weight((self.hidden_size,), decay))

    @property
    def knob(self) -> str:
        return KEEPING

    def with_knob(self, params: RGLRUParams, scale: Array) -> RGLRUParams:
        return params._replace(decay=with_odds(params.decay, scale, 0, 1))

    def step(self, params: RGLRUParams, carry: Array, x: Array) -> tuple[Array, Array]:
        self.check(params, carry, x)
        r, i, v = blocks(affine(x, params.w_x, params.b), 3)
        log_a = 8 * sigmoid(r) * per_row(jax.nn.log_sigmoid(params.decay), x)
        h = jnp.exp(log_a) * carry + jnp.sqrt(-jnp.expm1(2 * log_a)) * (sigmoid(i) * v)
        return h, h

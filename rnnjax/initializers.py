"""Weight initializers: frozen dataclasses called as `initializer(key, (rows, columns), dtype)`.

Weights multiply from the right (`x @ w`), so the first axis is the fan-in and the second the fan-out. Gated cells draw
each gate separately and concatenate (`per_gate`), because an orthogonal [H, 4H] is not four orthogonal [H, H].
Half-precision weights are drawn in float32 and rounded, since LAPACK has no half-precision QR or eigenvalues.
`Chrono` draws biases of gates, and `Ring` also eigenvalues of a diagonal recurrence.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers as nn
from jax.typing import DTypeLike

from rnnjax.cell import at_least_float32


class Initializer(Protocol):
    """`(key, shape [rows, columns], dtype) -> [rows, columns]`."""

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array: ...


def per_gate(initializer: Initializer, key: Array, shape: tuple[int, int], gates: int, dtype: DTypeLike) -> Array:
    """Draws one matrix `[rows, columns]` per gate and concatenates them on the last axis: `[rows, gates * columns]`.

    Example:

      >>> w = per_gate(Orthogonal(), jax.random.key(0), (3, 3), 4, jnp.float32)
      >>> w.shape, bool(jnp.allclose(w[:, 3:6] @ w[:, 3:6].T, jnp.eye(3, dtype=w.dtype), atol=1e-5))
      ((3, 12), True)
    """
    keys = jax.random.split(key, gates)
    return jnp.concatenate([initializer(gate_key, shape, dtype) for gate_key in keys], axis=-1)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Gaussian with gain g: entries N(0, g²/rows). A square matrix has a spectral radius near g (the circular law).

    Reference: Sompolinsky, Crisanti and Sommers, Chaos in random neural networks, Phys. Rev. Lett. 61 (1988), 259.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        drawn = jax.random.normal(key, shape, at_least_float32(dtype))
        return (drawn * (float(self.gain) / math.sqrt(shape[0]))).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """`scale` times a random (Haar) orthogonal matrix: every singular value is `scale`.

    Reference: Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning, ICLR 2014.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.orthogonal(float(self.scale))(key, shape, at_least_float32(dtype)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Identity:
    """`scale` times the identity; with ReLU units, the IRNN. Square shapes only.

    Reference: Le, Jaitly and Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        _check_square("Identity", shape)
        return float(self.scale) * jnp.eye(*shape, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class SpectralRadius:
    """Gaussian, rescaled so that the largest |eigenvalue| is exactly `radius`. Square shapes only.

    Not every accelerator computes eigenvalues of non-symmetric matrices; draw on the CPU there.

    Reference: Jaeger, The echo state approach to analysing and training recurrent neural networks, GMD 148 (2001).
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        check_finite("radius", self.radius)

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        _check_square("SpectralRadius", shape)
        drawn = jax.random.normal(key, shape, at_least_float32(dtype))
        return (drawn * (float(self.radius) / jnp.abs(_eigenvalues(drawn)).max())).astype(dtype)


@dataclasses.dataclass(frozen=True)
class GlorotUniform:
    """Uniform on ±sqrt(6 / (rows + columns)): Xavier initialisation, Keras's default.

    Reference: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks,
    AISTATS 2010, eq. 16.
    """

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.glorot_uniform()(key, shape, at_least_float32(dtype)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class GlorotNormal:
    """Truncated Gaussian of variance 2 / (rows + columns).

    Reference: Glorot and Bengio, AISTATS 2010, eq. 12.
    """

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.glorot_normal()(key, shape, at_least_float32(dtype)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class HeUniform:
    """Uniform on ±sqrt(6 / rows), for ReLU units.

    Reference: He, Zhang, Ren and Sun, Delving deep into rectifiers, ICCV 2015, eq. 10.
    """

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.he_uniform()(key, shape, at_least_float32(dtype)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class HeNormal:
    """Truncated Gaussian of variance 2 / rows, for ReLU units.

    Reference: He, Zhang, Ren and Sun, ICCV 2015, eq. 10.
    """

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.he_normal()(key, shape, at_least_float32(dtype)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class LeCunNormal:
    """Truncated Gaussian of variance 1 / rows: Flax's default for input weights.

    Reference: LeCun, Bottou, Orr and Müller, Efficient BackProp, 1998, section 4.6.
    """

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.lecun_normal()(key, shape, at_least_float32(dtype)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class HiddenUniform:
    """Uniform on ±1/sqrt(columns), where columns is H of one gate: PyTorch's default for recurrent layers."""

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        bound = 1 / math.sqrt(shape[1])
        return jax.random.uniform(key, shape, at_least_float32(dtype), -bound, bound).astype(dtype)


@dataclasses.dataclass(frozen=True)
class SkewSymmetric:
    """An antisymmetric matrix with gain g: W = -Wᵀ exactly, entries off the diagonal N(0, g²/rows). Square shapes only.

        W = A - Aᵀ,            A_ij ~ N(0, g² / (2 rows))

    All eigenvalues are imaginary; their size is at most about 2g, by Wigner's semicircle law. The matrix I + ε W then
    neither contracts nor expands to first order in ε.

    Example:

      >>> w = SkewSymmetric()(jax.random.key(0), (3, 3))
      >>> bool((w == -w.T).all())
      True

    Reference: Chang, Chen, Haber and Chi, AntisymmetricRNN: a dynamical system view on recurrent neural networks, ICLR
    2019 (arXiv:1902.09689), section 3.2, whose cell (`cells.Antisymmetric`) keeps the matrix so in training.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        _check_square("SkewSymmetric", shape)
        drawn = jax.random.normal(key, shape, at_least_float32(dtype))
        return ((drawn - drawn.T) * (float(self.gain) / math.sqrt(2 * shape[0]))).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Ring:
    """Eigenvalues drawn from a ring in the complex plane, uniformly by area: the initialisation of the LRU.

        |λ|² ~ U(low², high²),            arg λ ~ U(0, phase)

    Called like other initializers, it draws a real block diagonal matrix (square shapes only): a block

        |λ|  [ cos arg λ   sin arg λ ]
             [-sin arg λ   cos arg λ ]

    for each pair of units, with eigenvalues λ and its conjugate, and one real eigenvalue |λ| sign(cos arg λ) if the
    number of units is odd. `log_decay` and `log_phase` draw eigenvalues as `cells.LRU` keeps them:
    λ = exp(-exp(log_decay) + i exp(log_phase)).

    Attributes:
      low, high: radii of the ring, 0 <= low <= high <= 1.
      phase: the largest phase [rad], at most 2π.

    Example:

      >>> w = Ring(0.9, 0.99)(jax.random.key(0), (4, 4))
      >>> bool((jnp.linalg.norm(w, axis=1) > 0.9).all()), float(w[0, 0] - w[1, 1]), float(w[0, 1] + w[1, 0])
      (True, 0.0, 0.0)

    Reference: Orvieto et al., Resurrecting recurrent neural networks for long sequences, ICML 2023 (arXiv:2303.06349),
    lemma 3.2, and section 3.4 for the phases.
    """

    low: float = 0.0
    high: float = 1.0
    phase: float = 2 * math.pi

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low is {self.low} and high is {self.high}; they must be 0 <= low <= high <= 1.")
        if not 0 <= self.phase <= 2 * math.pi:
            raise ValueError(f"phase is {self.phase}; it must be 0 to 2π, in radians.")

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        _check_square("Ring", shape)
        size, drawn = shape[0], at_least_float32(dtype)
        key_decay, key_phase = jax.random.split(key)
        radius = jnp.exp(-jnp.exp(self.log_decay(key_decay, ((size + 1) // 2,), drawn)))
        phase = jnp.exp(self.log_phase(key_phase, radius.shape, drawn))
        re, im = radius * jnp.cos(phase), radius * jnp.sin(phase)
        first = jnp.arange(0, size - 1, 2)
        on_diagonal = jnp.repeat(re, 2)[:size]
        if size % 2:
            on_diagonal = on_diagonal.at[-1].set(jnp.copysign(radius[-1], re[-1]))
        w = jnp.diag(on_diagonal).at[first, first + 1].set(im[: size // 2])
        return w.at[first + 1, first].set(-im[: size // 2]).astype(dtype)

    def log_decay(self, key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        """log(-log |λ|)."""
        drawn = at_least_float32(dtype)
        square = jax.random.uniform(key, shape, drawn, float(self.low) ** 2, float(self.high) ** 2)
        tiny, below_one = float(_limits(drawn).tiny), 1 - float(_limits(drawn).epsneg)
        square = jnp.minimum(jnp.maximum(square, tiny), below_one)  # both logarithms are finite
        return jnp.log(-0.5 * jnp.log(square)).astype(dtype)

    def log_phase(self, key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        """log arg λ."""
        drawn = at_least_float32(dtype)
        phase = jax.random.uniform(key, shape, drawn, 0.0, float(self.phase))
        return jnp.log(jnp.maximum(phase, float(_limits(drawn).tiny))).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Chrono:
    """Biases of the gate that keeps the state, for memories of all lengths up to `max_steps`.

        b_f = log u,            u ~ U(1, max_steps - 1)

    Without input and recurrent weights, such a unit keeps its state for about u steps: σ(b_f) = 1 - 1 / (1 + u). Pass
    it as `LSTM(..., forget_bias=Chrono(784))`, where the bias of the input gate becomes b_i = -b_f, or as
    `GRU(..., update_bias=Chrono(784))`.

    Attributes:
      max_steps: the longest memory [steps], more than 2; usually the length of the sequences.

    Example:

      >>> from rnnjax import LSTM
      >>> params = LSTM(64, forget_bias=Chrono(784)).init(jax.random.key(0), input_size=1)
      >>> i, f, g, o = jnp.split(params.b, 4)
      >>> bool((i == -f).all()), bool((f > 0).all() and (f < jnp.log(783.0)).all()), bool(g.any() or o.any())
      (True, True, False)

    Reference: Tallec and Ollivier, Can recurrent neural networks warp time?, ICLR 2018 (arXiv:1804.11188), eq. 16.
    """

    max_steps: float

    def __post_init__(self) -> None:
        if not 2 < self.max_steps < math.inf:
            raise ValueError(f"max_steps is {self.max_steps}; it must be a finite number of steps, more than 2.")

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        u = jax.random.uniform(key, shape, at_least_float32(dtype), 1.0, float(self.max_steps) - 1)
        return jnp.log(u).astype(dtype)


def gate_biases(forget_bias: float | Chrono, gates: str, key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """The biases of a gated cell.

    Args:
      forget_bias: of the gate f, which keeps the state: a number, or `Chrono`, which draws it and sets the bias of the
        gate i to its negative.
      gates: one letter per gate, in order; all gates besides f and i have zero biases.
      shape: `[gates * H]`.

    Example:

      >>> gate_biases(1.0, "ifgo", jax.random.key(0), (8,), jnp.float32).tolist()
      [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    size = shape[0] // len(gates)
    zeros = jnp.zeros(size, dtype)
    if isinstance(forget_bias, Chrono):
        b_f = forget_bias(jax.random.fold_in(key, _BIASES), (size,), dtype)
        b_i = -b_f
    else:
        b_f, b_i = jnp.full(size, forget_bias, dtype), zeros
    return jnp.concatenate([{"f": b_f, "i": b_i}.get(gate, zeros) for gate in gates])


def _limits(dtype: jnp.dtype) -> Any:
    return jnp.finfo(dtype)


def _eigenvalues(matrix: Array) -> Array:
    return jnp.linalg.eigvals(matrix)


_BIASES = 16
"""Folded into a cell's key, which `split` divides into fewer keys for its weights."""


def check_bias(name: str, bias: float | Chrono) -> None:
    """Raises if a bias is neither a finite number nor `Chrono`."""
    if not isinstance(bias, Chrono):
        check_finite(name, bias)


def check_finite(name: str, value: float) -> None:
    """Raises if a number is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be a finite number.")


def _check_square(name: str, shape: tuple[int, int]) -> None:
    if shape[0] != shape[1]:
        raise ValueError(f"{name} draws square matrices, but the shape is {list(shape)}; use it for `w_h`.")

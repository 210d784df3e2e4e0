"""Weight initialisers: frozen dataclasses called as `initializer(key, (rows, columns), dtype)`.

Weights multiply from the right (`x @ w`), so the first axis is the fan-in and the second the fan-out. Gated cells draw
each gate separately and concatenate (`per_gate`), because an orthogonal [H, 4H] is not four orthogonal [H, H].
Half-precision weights are drawn in float32 and rounded, since LAPACK has no half-precision QR or eigenvalues.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers as nn
from jax.typing import DTypeLike


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
        _check_scale("gain", self.gain)

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        drawn = jax.random.normal(key, shape, _at_least_float32(dtype))
        return (drawn * (float(self.gain) / math.sqrt(shape[0]))).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """`scale` times a random (Haar) orthogonal matrix: every singular value is `scale`.

    Reference: Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning, ICLR 2014.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale("scale", self.scale)

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.orthogonal(float(self.scale))(key, shape, _at_least_float32(dtype)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Identity:
    """`scale` times the identity; with ReLU units, the IRNN. Square shapes only.

    Reference: Le, Jaitly and Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale("scale", self.scale)

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
        _check_scale("radius", self.radius)

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        _check_square("SpectralRadius", shape)
        drawn = jax.random.normal(key, shape, _at_least_float32(dtype))
        return (drawn * (float(self.radius) / jnp.abs(_eigenvalues(drawn)).max())).astype(dtype)


@dataclasses.dataclass(frozen=True)
class GlorotUniform:
    """Uniform on ±sqrt(6 / (rows + columns)): Xavier initialisation, Keras's default.

    Reference: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks,
    AISTATS 2010, eq. 16.
    """

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.glorot_uniform()(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class GlorotNormal:
    """Truncated Gaussian of variance 2 / (rows + columns).

    Reference: Glorot and Bengio, AISTATS 2010, eq. 12.
    """

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.glorot_normal()(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class LeCunNormal:
    """Truncated Gaussian of variance 1 / rows: Flax's default for input weights.

    Reference: LeCun, Bottou, Orr and Müller, Efficient BackProp, 1998, section 4.6.
    """

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        return nn.lecun_normal()(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class HiddenUniform:
    """Uniform on ±1/sqrt(columns), where columns is H of one gate: PyTorch's default for recurrent layers."""

    def __call__(self, key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        bound = 1 / math.sqrt(shape[1])
        return jax.random.uniform(key, shape, _at_least_float32(dtype), -bound, bound).astype(dtype)


def _eigenvalues(matrix: Array) -> Array:
    return jnp.linalg.eigvals(matrix)


def _at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Without `promote_types`, which strict dtype promotion forbids."""
    return jnp.dtype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)


def _check_scale(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be a finite number.")


def _check_square(name: str, shape: tuple[int, int]) -> None:
    if shape[0] != shape[1]:
        raise ValueError(f"{name} draws square matrices, but the shape is {list(shape)}; use it for `w_h`.")

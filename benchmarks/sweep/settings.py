"""The settings of the sweep, and what is computed for each: from three numbers to two norms."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import rnnjax

_LEAST = 1e-30  # gradients below count as this: float32 ends soon after


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All combinations of scales, seeds and lengths.

    Attributes:
      hidden: H.
      scales: what an orthogonal W2 is multiplied by.
      seeds: each draws a network and a sequence of its own.
      lengths: steps of the sequence.
      few: how many settings the slow contestants are run on.
      engine: of rnnjax.
    """

    hidden: int
    scales: tuple[float, ...]
    seeds: tuple[int, ...]
    lengths: tuple[int, ...]
    few: int
    engine: str = "auto"

    def __len__(self) -> int:
        return math.prod(self.shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.scales), len(self.seeds), len(self.lengths)

    def settings(self) -> list[tuple[float, int, int]]:
        """`(scale, seed, length)` of all, the length running fastest."""
        return list(itertools.product(self.scales, self.seeds, self.lengths))

    def chosen(self) -> list[int]:
        """Which settings the slow contestants are run on: spread evenly over all."""
        return sorted({round(i) for i in np.linspace(0, len(self) - 1, min(self.few, len(self)))})

    @property
    def forward_flops(self) -> float:
        """Of the matmuls of all settings; padding is not counted, nor is drawing the weights."""
        return 2.0 * (1 + self.hidden) * self.hidden * sum(length for _, _, length in self.settings())


class ScaledParams(NamedTuple):
    """W2 is `scale` times `cell.w_h`."""

    cell: rnnjax.ElmanParams
    scale: Any  # a number


@dataclasses.dataclass(frozen=True)
class Scaled(rnnjax.Cell):
    """An Elman cell whose product with the carry is scaled, s (h W) for h (s W): networks that differ in s share W.

    Under `vmap` over s one matmul then serves them all; a matrix for each would need as many products of a vector.
    """

    cell: rnnjax.Elman

    def init(self, key: Array, input_size: int, dtype: Any = None) -> ScaledParams:
        return ScaledParams(self.cell.init(key, input_size, dtype), jnp.ones(()))

    def initial_carry(self, params: ScaledParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return self.cell.initial_carry(params.cell, batch_shape)

    def project(self, params: ScaledParams, xs: Array) -> Array:
        return self.cell.project(params.cell, xs)

    def mix(self, params: ScaledParams, carry: Array) -> Array:
        return params.scale * self.cell.mix(params.cell, carry)

    def gate(self, params: ScaledParams, carry: Array, u: Array, r: Array) -> tuple[Array, Array]:
        return self.cell.gate(params.cell, carry, u, r)


def norms(sweep: Sweep, scale: Any, seed: Any, length: Any, steps: int, engine: Any) -> Array:
    """One setting: log10 of the largest entries of dL/dW2 and dL/dx_1, `[2]`, L the sum over units of the last output.

    Nothing before the loss depends on the length, so under `vmap` over lengths there is one forward pass for them all.

    Args:
      scale, seed, length: numbers or traced scalars.
      steps: T, at least the length; steps beyond the length have no part in the loss.
    """
    cell = Scaled(rnnjax.Elman(sweep.hidden))
    key = jax.random.key(seed)
    params = ScaledParams(cell.cell.init(key, 1), scale)
    xs = jax.random.normal(jax.random.fold_in(key, 1), (max(sweep.lengths), 1))[:steps]

    def last(params: ScaledParams, xs: Array) -> Array:
        _, ys = rnnjax.unroll(cell, params, None, xs, engine=engine)
        return lax.dynamic_index_in_dim(ys, length - 1, keepdims=False).sum()

    dparams, dxs = jax.grad(last, argnums=(0, 1))(params, xs)
    sizes = jnp.stack([jnp.abs(dparams.cell.w_h).max() / scale, jnp.abs(dxs[0]).max()])  # W2 is scale times w_h
    return jnp.log10(jnp.maximum(sizes, _LEAST))

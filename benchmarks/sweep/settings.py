"""The settings of the sweep, and what is computed for each: from three numbers to two norms."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

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


def norms(sweep: Sweep, scale: Any, seed: Any, length: Any, steps: int, engine: Any) -> Array:
    """One setting: log10 of the largest entries of dL/dW2 and dL/dx_1, `[2]`, L the sum over units of the last output.

    Args:
      scale, seed, length: numbers or traced scalars; length None says that all steps count.
      steps: T, at least the length.
    """
    cell = rnnjax.Elman(sweep.hidden)
    key = jax.random.key(seed)
    params = cell.init(key, 1)
    xs = jax.random.normal(jax.random.fold_in(key, 1), (max(sweep.lengths), 1))[:steps]

    def last(params: Any, xs: Array) -> Array:
        scaled = params._replace(w_h=scale * params.w_h)
        h, _ = rnnjax.unroll(cell, scaled, None, xs, lengths=length, engine=engine)
        return h.sum()

    dparams, dxs = jax.grad(last, argnums=(0, 1))(params, xs)
    sizes = jnp.stack([jnp.abs(dparams.w_h).max(), jnp.abs(dxs[0]).max()])
    return jnp.log10(jnp.maximum(sizes, _LEAST))

"""The settings of the sweep, and what is computed for each: from three numbers to two norms."""

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import rnnjax
from rnnjax.initializers import Normal

_LEAST = 1e-30  # gradients below count as this: float32 ends soon after


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All combinations of scales, seeds and lengths.

    Attributes:
      hidden: H.
      scales: what W2, of N(0, 1/H), is multiplied by.
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
    """An Elman cell whose carry is scaled before its product, (s h) W for h (s W): networks that differ in s share W.

    Under `vmap` over s one matmul then serves them all; a matrix for each would need as many products of a vector.
    """

    cell: rnnjax.Elman

    def init(self, key: Array, input_size: int, dtype: Any = None) -> ScaledParams:
        return ScaledParams(self.cell.init(key, input_size, dtype), jnp.ones(()))

    def initial_carry(self, params: ScaledParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return self.cell.initial_carry(params.cell, batch_shape)

    def step(self, params: ScaledParams, carry: Array, x: Array) -> tuple[Array, Array]:
        return self.cell.step(params.cell, params.scale * carry, x)


def network(sweep: Sweep, scale: Any, seed: Any) -> tuple[Scaled, ScaledParams, Array]:
    """The cell, its parameters and its input sequence `[longest, 1]`, drawn from a seed."""
    cell = Scaled(rnnjax.Elman(sweep.hidden, w_h=Normal(sweep.hidden**-0.5)))
    key = jax.random.key(seed)
    xs = jax.random.normal(jax.random.fold_in(key, 1), (max(sweep.lengths), 1))
    return cell, ScaledParams(cell.cell.init(key, 1), scale), xs


def norms(sweep: Sweep, scale: Any, seed: Any, length: Any, steps: int, engine: Any) -> Array:
    """One setting: log10 of the largest entries of dL/dW2 and dL/dx_1, `[2]`, L the sum over units of the last output.

    Args:
      scale, seed, length: numbers or traced scalars.
      steps: T, at least the length; steps beyond the length have no part in the loss.
    """
    cell, params, xs = network(sweep, scale, seed)

    def last(params: ScaledParams, xs: Array) -> Array:
        _, ys = rnnjax.unroll(cell, params, xs, engine=engine)
        return lax.dynamic_index_in_dim(ys, length - 1, keepdims=False).sum()

    dparams, dxs = jax.grad(last, argnums=(0, 1))(params, xs[:steps])
    return _log_sizes(dparams.cell.w_h, dxs[0], scale)


def norms_by_length(sweep: Sweep, scale: Any, seed: Any, engine: Any) -> Array:
    """The settings of one scale and seed, every length of them, `[lengths, 2]`: nothing is computed twice.

    The forward pass goes once through the stretches between one length and the next. The backward pass takes them from
    the last to the first, and takes up the adjoint of each length where that length ends, so that a stretch is gone
    through by the adjoints of the longer sequences alone.
    """
    cell, params, xs = network(sweep, scale, seed)
    carry, pulls = cell.initial_carry(params), []
    for start, stop in itertools.pairwise((0, *sweep.lengths)):
        stretch = functools.partial(_last_carry, cell, engine)
        carry, pull = jax.vjp(stretch, params, xs[start:stop], carry)
        pulls.append(pull)
    adjoints, dw = jnp.zeros((0, sweep.hidden)), jnp.zeros((0, sweep.hidden, sweep.hidden))
    dxs = jnp.zeros(())
    for pull in reversed(pulls):
        adjoints = jnp.concatenate([jnp.ones((1, sweep.hidden)), adjoints])  # of the sum of its last carry
        dw = jnp.concatenate([jnp.zeros((1, *dw.shape[1:])), dw])
        dparams, dxs, adjoints = jax.vmap(pull)(adjoints)
        dw = dw + dparams.cell.w_h
    return jax.vmap(_log_sizes, (0, 0, None))(dw, dxs[:, 0], scale)


def _last_carry(cell: Scaled, engine: Any, params: ScaledParams, xs: Array, carry: Array) -> Array:
    return rnnjax.unroll(cell, params, xs, carry=carry, engine=engine)[0]


def _log_sizes(dw: Array, dx: Array, scale: Any) -> Array:
    sizes = jnp.stack([jnp.abs(dw).max() / scale, jnp.abs(dx).max()])  # W2 is scale times w_h
    return jnp.log10(jnp.maximum(sizes, _LEAST))

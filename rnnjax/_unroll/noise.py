"""Randomness of cells: drawn for all steps before the loop, and passed through it as data.

A random cell has, besides its three methods,

    draw(key, params, steps, batch_shape, input_size) -> Noise
    with_weights(params, weights) -> params                        only if it draws factors of its parameters

and its `step` takes a `Noisy` in the place of x. A layer's noise runs over time as further features of its input, so
engines, masks and segments of time treat it like the input.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import PyTree


class Noise(NamedTuple):
    """Drawn randomness of a cell.

    Attributes:
      weights: of the parameters, the same at all steps and in all rows.
      steps: of the steps; every leaf is `[T, *batch, ...]`.
    """

    weights: PyTree = None
    steps: PyTree = None


class Noisy(NamedTuple):
    """The input of a step together with the noise of that step, whose leaves are `[*batch, ...]`."""

    x: Any
    noise: PyTree


def draw_noise(
    cell: Any, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int
) -> Noise:
    """The noise of a cell for all steps; nothing for a cell that is not random."""
    draw = getattr(cell, "draw", None)
    return Noise() if draw is None else draw(key, params, steps, batch_shape, input_size)


def with_weights(cell: Any, params: PyTree, weights: PyTree) -> PyTree:
    """The parameters with the noise of weights."""
    return cell.with_weights(params, weights) if jax.tree.leaves(weights) else params


def one_step(cell: Any, params: PyTree, carry: PyTree, x: Any, noise: PyTree) -> tuple[PyTree, PyTree]:
    """The cell's step, with noise if there is any."""
    return cell.step(params, carry, Noisy(x, noise) if jax.tree.leaves(noise) else x)


def apart(x: Any, parts: int) -> tuple[Any, tuple[PyTree, ...]]:
    """The input and the noise of each part; `None` without noise."""
    return (x.x, x.noise) if isinstance(x, Noisy) else (x, (None,) * parts)


def keep(key: Array, rate: float, shape: tuple[int, ...], steps: int, tied: bool, dtype: DTypeLike) -> Array:
    """[T, *shape]: 1 with probability 1 - rate, else 0; the same at all steps if tied."""
    kept = jax.random.bernoulli(key, 1 - rate, shape if tied else (steps, *shape)).astype(dtype)
    return jnp.broadcast_to(kept, (steps, *shape)) if tied else kept


def dtype_of(params: PyTree) -> jnp.dtype:
    return next(leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating))


@dataclasses.dataclass(frozen=True)
class WithNoise:
    """A random cell whose noise comes as further features of its input."""

    cell: Any
    tree: Any
    shapes: tuple[tuple[int, ...], ...]  # of one row's input, and of each leaf of its noise

    space = ()  # all is on one axis

    def init(self, key: Array, input_size: int, dtype: Any = None) -> PyTree:
        return self.cell.init(key, self.shapes[0][-1], dtype)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        leaves, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            leaves.append(x[..., start:stop].reshape(*x.shape[:-1], *shape))
            start = stop
        return self.cell.step(params, carry, Noisy(leaves[0], self.tree.unflatten(leaves[1:])))

    def __repr__(self) -> str:
        return repr(self.cell)


def with_noise(cell: Any, xs: Array, noise: PyTree, batch_ndim: int) -> tuple[Any, Array]:
    """A cell and an input `[T, *batch, D + noise]` for an engine; `xs` is `[T, *batch, ..., D]`."""
    leaves, tree = jax.tree.flatten(noise)
    if not leaves:
        return cell, xs
    leaves, lead = [xs, *leaves], xs.shape[: 1 + batch_ndim]
    shapes = tuple([leaf.shape[1 + batch_ndim :] for leaf in leaves])
    flat = [leaf.reshape(*lead, math.prod(shape)) for leaf, shape in zip(leaves, shapes, strict=True)]
    return WithNoise(cell, tree, shapes), jnp.concatenate(flat, axis=-1)

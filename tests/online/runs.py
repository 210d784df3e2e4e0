"""A rule over a whole sequence by `jax.lax.scan`, and the same gradients by backpropagation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import rnnjax
from rnnjax.cell import PyTree
from tests.registry import COMBINED, B, Sample, Times, normal

COUNTED = COMBINED._replace(lengths=None)
"""Masks and resets; a row's end is a mask for a rule."""


class Run(NamedTuple):
    """What a rule gave at each step.

    Attributes:
      gradients: dL_t/dθ, leaves `[T, *leaf]`.
      ys: the outputs.
      carry, trace: after the last step.
    """

    gradients: PyTree
    ys: PyTree
    carry: PyTree
    trace: Any


def weights(cell: Any, sample: Sample) -> PyTree:
    """A weight for every output at every step."""
    return normal(jax.eval_shape(lambda: rnnjax.unroll(cell, sample.params, sample.xs)[1]), "weights")


def loss(y: PyTree, w: PyTree) -> Array:
    """L_t = Σ w_t sin(y_t), of any floating outputs."""
    pairs = zip(jax.tree.leaves(y), jax.tree.leaves(w), strict=True)
    return sum([(jnp.asarray(a, "float64") * 0 + b * jnp.sin(a)).sum() for a, b in pairs], start=jnp.zeros(()))


def run(rule: Any, cell: Any, sample: Sample, times: Times = Times(), key: Array | None = None) -> Run:  # noqa: B008
    """From the cell's initial carry, compiled."""
    width, batch_shape = sample.xs.shape[-1], (B,)

    def step(state: Any, now: Any):
        carry, trace, key = state
        x, mask, resets, w = now
        key, now_key = (None, None) if key is None else jax.random.split(key)
        stepped = rule.step(
            cell, sample.params, carry, trace, x, jax.grad(loss_of(w)), mask=mask, resets=resets, key=now_key
        )
        return (stepped.carry, stepped.trace, key), (stepped.gradient, stepped.y)

    @jax.jit
    def whole(inputs: Any):
        start = cell.initial_carry(sample.params, batch_shape)
        trace = rule.init(cell, sample.params, batch_shape, input_size=width)
        return jax.lax.scan(step, (start, trace, key), inputs)

    (carry, trace, _), (gradients, ys) = whole((sample.xs, times.mask, times.resets, weights(cell, sample)))
    return Run(gradients, ys, carry, trace)


def loss_of(w: PyTree):
    return lambda y: loss(y, w)


def backpropagated(cell: Any, sample: Sample, times: Times = Times()) -> tuple[PyTree, PyTree]:  # noqa: B008
    """dL_t/dθ of each step, leaves `[T, *leaf]`, and d(carry after the last step)/dθ."""
    ws = weights(cell, sample)

    def outputs(params: PyTree) -> tuple[Array, PyTree]:
        carry, ys = rnnjax.unroll(cell, params, sample.xs, mask=times.mask, resets=times.resets, engine="scan")
        return jax.vmap(loss)(ys, ws), carry

    return jax.jit(jax.jacrev(outputs))(sample.params)


def by_copy(cell: Any, sample: Sample, times: Times = Times()) -> PyTree:  # noqa: B008
    """dL_t/dθ_s, leaves `[T, T, *leaf]`: of the loss of step t, by the copy of the parameters that step s uses.

    The initial carry is of the first copy.
    """
    ws = weights(cell, sample)
    steps = len(sample.xs)

    def losses(copies: PyTree) -> Array:
        def step(carry: PyTree, now: Any):
            params, x, mask, resets, w = now
            carry, y = rnnjax.step(cell, params, carry, x, mask=mask, resets=resets)
            return carry, loss(y, w)

        start = cell.initial_carry(jax.tree.map(lambda leaf: leaf[0], copies), (B,))
        return jax.lax.scan(step, start, (copies, sample.xs, times.mask, times.resets, ws))[1]

    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), sample.params)
    return jax.jit(jax.jacrev(losses))(copies)


def within(by_copy: PyTree, k: int) -> PyTree:
    """The gradient of each step's loss through the last k steps."""

    def of_leaf(leaf: Array) -> Array:
        t, s = jnp.indices(leaf.shape[:2])
        near = (t - s < k).reshape(*leaf.shape[:2], *(1,) * (leaf.ndim - 2))
        return jnp.where(near, leaf, 0 * leaf).sum(1)

    return jax.tree.map(of_leaf, by_copy)

"""Which steps of a trajectory are finite, and which derivatives are known where one is not.

A step is finite where its input is, the carry before and after it, and, for instruments that follow a loss, its output.
A masked step holds its carry and counts as finite.

The Jacobian of a step that is not finite is unknown, and what a program computes for it need not show that: the slope
of a ReLU is 0 where it is given NaN, so a trajectory that overflows would look like one whose units are all off. So
instruments give NaN for everything that passes through such a step, and the number of finite steps beside it. Only a
derivative that depends on neither carry nor input is right all the same: that of a linear network, at any depth.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.equations import needed_for, traced
from rnnjax._unroll.masking import StepInput
from rnnjax.cell import Cell, PyTree


class Reads(NamedTuple):
    """Whether a derivative of a step depends on the carry, and on the input."""

    carry: bool
    x: bool


class FiniteSteps(NamedTuple):
    """Each `[T, *batch]` booleans, in scan order.

    Attributes:
      carry: whether the carry before and after a step is finite, and the output where there is one.
      x: whether the input is.
    """

    carry: Array
    x: Array

    @property
    def count(self) -> Array:
        """`[*batch]` int32, how many steps are finite."""
        return (self.carry & self.x).sum(0, dtype=jnp.int32)

    def known(self, reads: Reads) -> Array | None:
        """`[T, *batch]`, at which steps a derivative that depends on this is known; None: at all of them."""
        flags = [flag for flag, read in zip(self, reads, strict=True) if read]
        return functools.reduce(jnp.logical_and, flags) if flags else None


def finite_steps(inputs: StepInput, carries: PyTree, last: PyTree, ys: list[Array]) -> FiniteSteps:
    """Of a trajectory in scan order.

    Args:
      inputs: leaves `[T, *batch, ...]`.
      carries: before each step, leaves `[T, *batch, ...]`; `last`: after the last one.
      ys: floating outputs, `[T, *batch, ...]`.
    """
    ndim = inputs.x.ndim - 1
    before = rows_finite(carries, ndim)
    after = jnp.concatenate([before[1:], rows_finite(last, ndim - 1)[None]])
    if inputs.resets is not None:
        before = before | inputs.resets
    found = FiniteSteps(before & after & rows_finite(ys, ndim), rows_finite(inputs.x, ndim))
    return found if inputs.counts is None else FiniteSteps(*(flag | ~inputs.counts for flag in found))


def rows_finite(tree: PyTree, batch_ndim: int) -> Array:
    """`[*batch]`, whether a row is finite in all leaves `[*batch, ...]`."""
    flags = [jnp.isfinite(leaf).all(tuple(range(batch_ndim, leaf.ndim))) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, flags)


def derivative_reads(derivative: Callable[..., Any], carry: PyTree, x: Any, *more: PyTree) -> list[Reads]:
    """What each leaf of `derivative(carry, x, *more)` depends on, by its equations."""
    program = traced(derivative, *jax.tree.map(_shape, (carry, x, *more)))[0]
    carries = len(jax.tree.leaves(carry))
    of_carry, of_x = set(program.inputs[:carries]), program.inputs[carries]
    found: list[Reads] = []
    for output in program.outputs:
        read = {value for eqn in needed_for([output], program.equations) for value in eqn.inputs} | {output}
        found.append(Reads(bool(of_carry & read), of_x in read))
    return found


def pullback_reads(
    cell: Cell, params: PyTree, inputs: StepInput, carry: PyTree, followed: Callable[[PyTree], list[Array]]
) -> tuple[Reads, PyTree]:
    """What dL/d(carry) of a step depends on, and dL/dθ for each parameter: a `Reads`, and the parameters' tree of them.

    Args:
      followed: of an output, the leaves that a loss may depend on.
    """
    leaves, tree = jax.tree.flatten(params)
    floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    weights = [_shape(leaves[i]) for i in floating]
    carry, x = jax.tree.map(_shape, carry), jax.ShapeDtypeStruct(inputs.x.shape[1:], inputs.x.dtype)

    def step(weights: list[Array], carry: PyTree, x: Array) -> tuple[PyTree, list[Array]]:
        merged = list(leaves)
        for i, weight in zip(floating, weights, strict=True):
            merged[i] = weight
        new_carry, y = cell.step(tree.unflatten(merged), carry, x)
        return new_carry, followed(y)

    def pulled(carry: PyTree, x: Array, weights: list[Array], cotangents: PyTree) -> tuple[PyTree, PyTree]:
        return jax.vjp(lambda weights, carry: step(weights, carry, x), weights, carry)[1](cotangents)

    found = derivative_reads(pulled, carry, x, weights, jax.eval_shape(step, weights, carry, x))
    of_params = [Reads(False, False)] * len(leaves)
    for i, reads in zip(floating, found, strict=False):
        of_params[i] = reads
    return any_reads(found[len(floating) :]), tree.unflatten(of_params)


def any_reads(each: list[Reads]) -> Reads:
    return Reads(any([reads.carry for reads in each]), any([reads.x for reads in each]))


def known_boundaries(known: Array | None, resets: Array | None) -> Array | None:
    """`[T + 1, *batch]`: whether dL/d(carry) is known there; not where it passes through a step that is not.

    Nothing passes through a reset, so what comes after it does not matter.
    """
    if known is None:
        return None

    def earlier(after: Array, at_t: tuple[Array, Array | None]) -> tuple[Array, Array]:
        before, reset = at_t
        passed = after if reset is None else after | reset
        return passed & before, passed & before

    before = jnp.concatenate([jnp.ones_like(known[:1]), known[:-1]])
    _, found = lax.scan(earlier, known[-1], (before, resets), reverse=True)
    return jnp.concatenate([found, known[-1:]])


def only_known(tree: PyTree, known: Array | None) -> PyTree:
    """The tree, leaves `[*known, ...]`, as NaN where it is not known: in value and derivative."""
    if known is None:
        return tree
    factor = jnp.where(known, 1.0, jnp.nan)

    def mark(leaf: Array) -> Array:
        return leaf * factor.astype(leaf.dtype).reshape(known.shape + (1,) * (leaf.ndim - known.ndim))

    return jax.tree.map(mark, tree)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))

"""Propagates perturbations of a carry forwards through steps, by Jacobian-vector products.

A perturbation of a row's carry is a vector of n numbers, with all leaves concatenated (for an LSTM h, then c). Rows of
a batch are independent.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import check_carry, checked_xs
from rnnjax.cell import Cell, PyTree, batch_shape_of, flat, unflat
from rnnjax.gradients.sequence import (
    AccurateCell,
    FiniteSteps,
    Reads,
    any_reads,
    check_floating,
    check_has_step,
    derivative_reads,
    rows_finite,
)

Step = Callable[[PyTree, Array], PyTree]


class Flow(NamedTuple):
    """A driven recurrence as a map of its carry.

    Attributes:
      carry: the carry before the first step, leaves `[*batch, ...]`.
      xs: `[T, *batch, D]`.
      step: `(carry, x) -> carry`, with accurate derivatives of saturated units.
      size: n, the size of a row's carry.
      reads: the dependencies of its Jacobian.
      batch_shape: the batch axes.
    """

    carry: PyTree
    xs: Array
    step: Step
    size: int
    reads: Reads
    batch_shape: tuple[int, ...]

    @property
    def dtype(self) -> jnp.dtype:
        return jnp.result_type(jax.tree.leaves(self.carry)[0])

    def finite_steps(self, after: Array) -> FiniteSteps:
        """The finite steps, given whether the carry after each step is finite, `[T, *batch]`, from `push`."""
        batch_ndim = len(self.batch_shape)
        before = jnp.concatenate([rows_finite(self.carry, batch_ndim)[None], after[:-1]])
        return FiniteSteps(before & after, rows_finite(self.xs, batch_ndim + 1))


def flow_of(cell: Cell, params: PyTree, carry: PyTree | None, xs: ArrayLike) -> Flow:
    """Makes the checks of `rnnjax.unroll`, and checks that the carry can be perturbed.

    Raises:
      TypeError: the cell has no step, or a part of the carry, such as a counter, is not float32 or float64.
      ValueError: shapes do not fit, or the input is not finite (if its values are known).
    """
    check_has_step(cell)
    xs = checked_xs(xs, cell)
    batch_shape = batch_shape_of(cell, xs)
    if not isinstance(xs, Tracer):
        # in NumPy, because under jit JAX would trace this even for a known input
        finite = np.isfinite(np.asarray(xs)).reshape(xs.shape[0], -1).all(-1)
        if not finite.all():
            first = int(finite.argmin())
            raise ValueError(
                f"`xs` is not finite at {int((~finite).sum())} of {xs.shape[0]} steps, first at step {first}; "
                "every exponent after it would be NaN: fill or cut out missing values."
            )
    carry = cell.initial_carry(params, batch_shape) if carry is None else carry
    check_carry(cell, params, carry, xs)
    check_floating(carry)
    size = sum(math.prod(jnp.shape(leaf)[len(batch_shape) :]) for leaf in jax.tree.leaves(carry))
    step = AccurateCell(cell).step
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    reads = any_reads(derivative_reads(functools.partial(_tangent, cell, params), carry, x, carry))
    return Flow(carry, xs, lambda carry, x: step(params, carry, x)[0], size, reads, batch_shape)


def _tangent(cell: Cell, params: PyTree, carry: PyTree, x: Array, tangent: PyTree) -> PyTree:
    return jax.jvp(lambda carry: cell.step(params, carry, x)[0], (carry,), (tangent,))[1]


def push(flow: Flow, carry: PyTree, rows: Array, x: Array) -> tuple[PyTree, Array, Array]:
    """One step of the carry and its perturbations.

    Args:
      rows: `[*batch, k, n]`, k perturbations of each row's carry.
    Returns:
      `(carry_t, J_t rows, finite)`, where `finite` `[*batch]` tells whether carry_t is finite.
    """
    new_carry, linear = jax.linearize(lambda c: flow.step(c, x), carry)
    batch_ndim = len(flow.batch_shape)
    pushed = jax.vmap(linear)(unflat(jnp.moveaxis(rows, -2, 0), carry, batch_ndim))
    rows = jnp.moveaxis(flat(pushed, batch_ndim + 1), 0, -2)
    return new_carry, rows, rows_finite(new_carry, batch_ndim)

"""One step of a cell as a function of its parameters and its state, both real; every rule starts from it.

    state_t, y_t = f(θ, state_{t-1}, x_t)          D_t = ∂f/∂state  [S, S]          I_t = ∂f/∂θ  [S, P]

Resets are applied before: the state before the step is the initial one where a row is reset.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import StepInput, check_alike, select, timed_step
from rnnjax.cell import Cell, PyTree, space_of
from rnnjax.online.vectors import flat, gradient_like, merged, reals, unflat
from rnnjax.stepping import step_arguments

LossGradient = Callable[[Any], Any]
"""`dloss(y)`: dL_t/dy_t, like y; such as `jax.grad(loss)`. It gets the outputs of all rows, zero where masked."""


class Stepped(NamedTuple):
    """What a rule's step returns.

    Attributes:
      carry: after the step.
      trace: the rule's memory after the step; the same tree and shapes as before.
      gradient: dL_t/dθ, or its estimate, like `params`: the sum over all rows.
      y: the output, `[*batch, ...]`.
    """

    carry: PyTree
    trace: PyTree
    gradient: PyTree
    y: PyTree


class Moment(NamedTuple):
    """The checked arguments of one step.

    Attributes:
      cell, params: as given.
      carry: before the step and after resets, leaves `[*batch, ...]`.
      inputs: the input and the flags; masked rows of the input are zero.
      batch_shape: the batch axes.
    """

    cell: Cell
    params: PyTree
    carry: PyTree
    inputs: StepInput
    batch_shape: tuple[int, ...]

    @property
    def batch_ndim(self) -> int:
        return len(self.batch_shape)

    @property
    def state(self) -> Array:
        """`[*batch, S]`."""
        return flat(self.carry, self.batch_ndim)

    def per_row(self, value: float, dtype: jnp.dtype) -> Array:
        """The value divided by the number of rows, to turn a sum over them into a mean."""
        return value / jnp.maximum(jnp.asarray(math.prod(self.batch_shape), dtype), 1)

    def row_shapes(self) -> tuple[PyTree, PyTree]:
        """The shapes of one row's carry and input."""

        def of_row(leaf: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape[self.batch_ndim :], leaf.dtype)

        return jax.tree.map(of_row, (self.carry, self.inputs.x))

    def cleared(self, trace: PyTree, start: PyTree) -> PyTree:
        """The trace, leaves `[*batch, ...]`, with `start` in rows that are reset at this step, leaves `[...]`."""
        if self.inputs.resets is None:
            return trace
        return select(self.inputs.resets, in_rows(start, self.batch_shape), trace)

    def kept(self, new: PyTree, old: PyTree) -> PyTree:
        """`new` where the step counts, else `old`."""
        return new if self.inputs.counts is None else select(self.inputs.counts, new, old)

    def fresh(self, trace: Array) -> Array:
        """Rows `[*batch]` whose carry is the initial one: still at the start, or reset at this step."""
        return trace if self.inputs.resets is None else trace | self.inputs.resets

    def over_rows(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(f, state [S], *args of one row)` in every row, with f `(thetas, state) -> state`, not masked."""

        def row(carry: PyTree, x: Array, *args: Any) -> Any:
            def after(thetas: list[Array], state: Array) -> Array:
                return flat(self.cell.step(merged(thetas, self.params), unflat(state, carry, 0), x)[0], 0)

            return function(after, flat(carry, 0), *args)

        for _ in self.batch_shape:
            row = jax.vmap(row)
        return row(self.carry, self.inputs.x, *args)


def begin(
    cell: Cell, params: PyTree, carry: PyTree, x: ArrayLike, mask: ArrayLike | None, resets: ArrayLike | None
) -> Moment:
    """The checks of `rnnjax.step`, and resets."""
    carry, inputs, batch_shape = step_arguments(cell, params, carry, x, mask, resets)
    if inputs.resets is not None:
        carry = select(inputs.resets, cell.initial_carry(params, batch_shape), carry)
    return Moment(cell, params, carry, inputs, batch_shape)


def in_rows(tree: PyTree, batch_shape: tuple[int, ...]) -> PyTree:
    """The same in every row: leaves `[*batch, ...]`."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch_shape, *leaf.shape)), tree)


class Outcome(NamedTuple):
    """One step, and the gradient of its loss.

    Attributes:
      carry, y: as `rnnjax.step` gives them.
      direct: ∂L_t/∂θ with the state before the step held fixed, in real parts, summed over rows.
      adjoint: ∂L_t/∂state_{t-1}, `[*batch, S]`; zero in masked rows.
    """

    carry: PyTree
    y: PyTree
    direct: list[Array]
    adjoint: Array

    def gradient(self, params: PyTree, further: list[Array] | None = None) -> PyTree:
        """The direct gradient plus, for each part, what comes through the state; like `params`."""
        if further is None:
            return gradient_like(self.direct, params)
        parts = zip(self.direct, further, strict=True)
        return gradient_like([a + b.reshape(a.shape).astype(a.dtype) for a, b in parts], params)


def from_start(cell: Cell, params: PyTree, carry: PyTree, fresh: Array, batch_shape: tuple[int, ...]) -> PyTree:
    """The carry, which depends on the parameters as the initial one does in rows that are `fresh` `[*batch]`."""

    def of_leaf(leaf: Array, start: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return leaf + select(fresh, derivative_of(start), jnp.zeros_like(start))

    return jax.tree.map(of_leaf, carry, cell.initial_carry(params, batch_shape))


def derivative_of(start: Array) -> Array:
    """Zero, with the derivative of `start`, which may hold infinities."""
    return jnp.where(jnp.isfinite(start), start - lax.stop_gradient(start), jnp.zeros_like(start))


def outcome(moment: Moment, dloss: LossGradient, fresh: Array | None = None) -> Outcome:
    """Runs the step, and pulls dL_t/dy_t back through it; in rows that are `fresh`, into the initial carry too."""
    inputs = moment.inputs._replace(resets=None)

    def run(thetas: list[Array], state: Array):
        params = merged(thetas, moment.params)
        carry = unflat(state, moment.carry, moment.batch_ndim)
        if fresh is not None:
            carry = from_start(moment.cell, params, carry, fresh, moment.batch_shape)
        after, y = timed_step(moment.cell, params, moment.batch_shape)(carry, inputs)
        return floating(y), (after, y)

    _, pull, (carry, y) = jax.vjp(run, reals(moment.params), moment.state, has_aux=True)
    fix = "a step must give back a carry of the same tree, shapes and dtypes as it was given"
    check_alike(f"the carry that {type(moment.cell).__name__}.step returns", carry, moment.carry, fix)
    direct, adjoint = pull(cotangent(dloss, y))
    return Outcome(carry, y, direct, adjoint)


def floating(tree: PyTree) -> list[Array]:
    """The leaves that have a derivative."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def cotangent(dloss: LossGradient, y: PyTree) -> list[Array]:
    """dL_t/dy_t for the floating leaves of y.

    Raises:
      ValueError, TypeError: it is not like y.
    """
    given = dloss(y)
    fix = "`dloss(y)` is the gradient of the loss of this step, like y: for example `jax.grad(loss)`"
    if jax.tree.structure(given) != jax.tree.structure(y):
        raise ValueError(f"`dloss(y)` is {jax.tree.structure(given)}, expected {jax.tree.structure(y)}; {fix}.")
    pairs = zip(jax.tree.leaves(given), jax.tree.leaves(y), strict=True)
    pairs = [(a, b) for a, b in pairs if jnp.issubdtype(b.dtype, jnp.inexact)]
    check_alike("`dloss(y)`", [a for a, _ in pairs], [b for _, b in pairs], fix)
    return [jnp.asarray(a) for a, _ in pairs]


def row_shapes(cell: Cell, params: PyTree, input_size: int | None) -> tuple[PyTree, jax.ShapeDtypeStruct]:
    """The shapes of one row's carry and input, before there is an input.

    Raises:
      ValueError: `input_size` does not fit, or is None and cannot be told from the parameters.
    """
    carry = jax.eval_shape(cell.initial_carry, params)
    dtypes = [leaf.dtype for leaf in floating((params, carry))] or [jnp.dtype("float32")]
    dtype = jnp.finfo(next((dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)), dtypes[0])).dtype

    def row(size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*space_of(cell), size), dtype)

    if input_size is not None:
        return carry, row(input_size)

    def fits(size: int) -> bool:
        try:
            after, _ = jax.eval_shape(cell.step, params, carry, row(size))
        except Exception:  # of whatever kind the step raises for a width that is not its own
            return False
        return jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)

    sizes = {size for leaf in jax.tree.leaves((params, carry)) for size in leaf.shape} | {1}
    found = [size for size in sorted(sizes) if fits(size)]
    if not found:  # as in the textbooks' concatenate([x, h]) @ w
        found = [size for size in sorted({a - b for a in sizes for b in sizes if a > b}) if fits(size)]
    if len(found) != 1:
        raise ValueError(
            f"the width of the inputs cannot be told from the parameters of {cell!r} (steps run with {found}); pass "
            "`input_size`."
        )
    return carry, row(found[0])

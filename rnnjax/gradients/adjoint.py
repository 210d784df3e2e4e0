"""The adjoint of a recurrence: dL/d(carry_t) at every step, exact at any depth.

    a_T = ∂L/∂carry_T            a_{t-1} = J_t^T a_t + ∂L/∂carry_{t-1}            J_t = ∂carry_t/∂carry_{t-1}

where ∂ is the direct dependence of the loss, through the outputs. The norm of a_t changes by a factor per step, so
plain floating point underflows or overflows within about a hundred steps. Here a_t is stored as a unit vector and the
log of its norm, and normalised after every step: 0.5^10000 is no harder than 0.5.

`adjoint_by_perturbation` uses automatic differentiation, within the range of floating point:

    dL/d(carry_t) = dL/dε_t at ε = 0,        carry_t ← carry_t + ε_t after every step

It is one exact backward pass, independent of the recursion above, and underflows and overflows like any gradient. The
two agree wherever it is representable.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import StepInput, select, timed_step
from rnnjax.cell import Cell, PyTree, over_time
from rnnjax.gradients.sequence import (
    AccurateCell,
    Loss,
    Sequence,
    as_cell,
    check_no_clipping,
    finite_steps,
    gradient_of_outputs,
    in_input_order,
    inexact,
    known_boundaries,
    only_known,
    outputs_in_carry,
    prepare,
    pullback_reads,
)
from rnnjax.gradients.split import Split, split_of
from rnnjax.numerics import add_scaled, normalise


class Adjoint(NamedTuple):
    """dL/d(carry) at the T + 1 boundaries between steps; boundary t is after t steps, boundary 0 is the start.

    Attributes:
      log_norm: `[T + 1, *batch]` nats, log ‖dL/d(carry_t)‖ over the whole carry; -inf where it is exactly zero.
      log_norm_by_part: the carry's tree, each leaf `[T + 1, *batch]`: for an LSTM, h and c separately.
      direction: the carry's tree, leaves `[T + 1, *batch, ...]`: dL/d(carry_t) = exp(log_norm) direction.
      finite_steps: `[*batch]` integers, how many of the T steps are finite: input, carry before and after, and output.
        Masked steps count as finite. If it is less than T, the adjoint is NaN wherever it passes through a non-finite
        step, unless the derivatives depend on neither carry nor input, as in a linear network.
      split: the `Split` of each step's growth, if `split=True`.
    """

    log_norm: Array
    log_norm_by_part: PyTree
    direction: PyTree
    finite_steps: Array
    split: Split | None = None


@over_time
def adjoint(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    loss: Loss,
    *,
    carry: PyTree | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    split: bool = False,
) -> Adjoint:
    """The gradient of a loss with respect to the carry at every step, in log form, without underflow or overflow.

    It is the total derivative: through all later steps, and through y_t itself if the output is part of the carry (as
    for Elman, GRU and LSTM, where y is h). Each row of a batch has its own norm. In float64 (`jax_enable_x64`), decay
    rates are accurate to about 1e-12 nats per step; in float32, where each step rounds the running log norm, to about
    1e-5 over a thousand steps.

    Args:
      cell: a `Cell`, or a `Stack` of cells; anything with a `step`.
      params, xs, carry, lengths, mask, resets, reverse: as in `rnnjax.unroll`.
      loss: `ys [T, *batch, ...] -> ()`; may use every step, such as `lambda ys: ((ys - targets) ** 2).sum()`.
      split: whether to split each step's growth into saturation and alignment; see `Split`.
    Returns:
      An `Adjoint`. With `reverse`, boundaries stay in input order, so the given carry is at boundary T.
    Raises:
      TypeError, ValueError: as in `rnnjax.unroll`; also if the carry is below float32, the loss is not a scalar, the
        cell clips its adjoint (so the recursion is not linear), or the step cannot be split.

    Example: the lecture's case, w2 = 0.5 over 50 steps: the log of 0.5^50.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[0.5]]), b=jnp.zeros(1))
      >>> cell = rnnjax.Elman(1, activation="linear")
      >>> decay = rnnjax.gradients.adjoint(cell, params, jnp.ones((50, 1)), lambda ys: ys[-1, 0])
      >>> decay.log_norm.shape, round(float(decay.log_norm[0] / jnp.log(0.5)), 4)
      ((51,), 50.0)
    """
    check_no_clipping(cell)
    sequence = prepare(cell, params, carry, xs, loss, lengths, mask, resets, reverse)
    carries, found = trajectory_and_adjoint(cell, params, sequence)
    if split:
        after = jax.tree.map(lambda leaf: leaf[1:], found.direction)
        known = ~jnp.isnan(found.log_norm[1:])
        found = found._replace(split=split_of(cell, params, carries, sequence.inputs, after, known))
    return in_input_order(found._replace(finite_steps=None), reverse)._replace(finite_steps=found.finite_steps)


def trajectory_and_adjoint(cell: Cell, params: PyTree, sequence: Sequence) -> tuple[PyTree, Adjoint]:
    """carry_{t-1} for t = 1..T, leaves `[T, *batch, ...]`, and the adjoint, both in scan order."""
    batch_ndim = len(sequence.batch_shape)
    step = timed_step(as_cell(AccurateCell(cell)), params, sequence.batch_shape)

    def forward(carry: PyTree, inputs: StepInput):
        new_carry, y = step(carry, inputs)
        return new_carry, (carry, y)

    last, (carries, ys) = lax.scan(forward, sequence.carry, sequence.inputs)
    dys = gradient_of_outputs(sequence.loss, ys)
    homes = outputs_in_carry(cell, params, sequence.carry, sequence.inputs.x[0])
    finite = finite_steps(sequence, carries, last, inexact(ys))
    known = finite.known(pullback_reads(cell, params, sequence.inputs, sequence.carry, inexact)[0])
    known = known_boundaries(known, sequence.inputs.resets)
    direct = normalise(_in_carry(dys, homes, last, sequence.inputs.counts), batch_ndim + 1)
    elsewhere = _outside_carry(dys, homes)

    def backward(state: tuple[PyTree, Array], at_t):
        carry, inputs, dy, direct = at_t
        direction, log_norm = state

        def followed(carry: PyTree) -> tuple[PyTree, list[Array]]:
            new_carry, y = step(carry, inputs)
            return new_carry, inexact(y)

        _, pullback = jax.vjp(followed, carry)
        (through_carry,) = pullback((direction, jax.tree.map(jnp.zeros_like, dy)))
        through_carry, growth = normalise(through_carry, batch_ndim)
        carried = log_norm + growth
        if inputs.resets is not None:  # nothing passes a reset, not even NaN
            carried = jnp.where(inputs.resets, -jnp.inf, carried)
        terms = [(through_carry, carried), direct]
        if None in homes:
            (through_output,) = pullback((jax.tree.map(jnp.zeros_like, direction), dy))
            terms.append(normalise(through_output, batch_ndim))
        state = add_scaled(terms, batch_ndim)
        return state, state

    end = jax.tree.map(lambda leaf: leaf[-1], direct)
    before_end = jax.tree.map(lambda leaf: leaf[:-1], direct)
    _, earlier = lax.scan(backward, end, (carries, sequence.inputs, elsewhere, before_end), reverse=True)

    direction, log_norm = jax.tree.map(lambda rows, last: jnp.concatenate([rows, last[None]]), earlier, end)
    by_part = jax.tree.map(lambda part: log_norm + normalise(part, batch_ndim + 1)[1], direction)
    log_norm, by_part, direction = only_known((log_norm, by_part, direction), known)
    return carries, Adjoint(log_norm, by_part, direction, finite.count)


def _in_carry(dys: PyTree, homes: list[int | None], carry: PyTree, counts: Array | None) -> PyTree:
    """The direct contribution of y_t to dL/d(carry_t), for outputs that are parts of the carry.

    A tree like the carry with a leading axis T + 1; boundary 0 is before all outputs, so its contribution is zero.
    """
    leaves, tree = jax.tree.flatten(carry)
    steps = jax.tree.leaves(dys)[0].shape[0]
    placed = [jnp.zeros((steps + 1, *leaf.shape), leaf.dtype) for leaf in leaves]
    for dy, home in zip(jax.tree.leaves(dys), homes, strict=True):
        if home is not None:
            share = dy if counts is None else select(counts, dy, jnp.zeros_like(dy))
            placed[home] = placed[home].at[1:].add(share)
    return tree.unflatten(placed)


def _outside_carry(dys: PyTree, homes: list[int | None]) -> PyTree:
    """The gradients of outputs that are not part of the carry; zero for the others."""
    leaves, tree = jax.tree.flatten(dys)
    return tree.unflatten(
        [jnp.zeros_like(dy) if home is not None else dy for dy, home in zip(leaves, homes, strict=True)]
    )


@over_time
def adjoint_by_perturbation(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    loss: Loss,
    *,
    carry: PyTree | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
) -> PyTree:
    """dL/d(carry) at the T + 1 boundaries between steps, as plain numbers.

    Args:
      As for `rnnjax.gradients.adjoint`.
    Returns:
      The carry's tree, leaves `[T + 1, *batch, ...]`; equals `exp(log_norm) * direction` of `adjoint`, including NaN
      for non-finite trajectories.

    Example: a scalar linear network, w2 = 2, three steps.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
      >>> cell = rnnjax.Elman(1, activation="linear")
      >>> last = lambda ys: ys[-1, 0]
      >>> rnnjax.gradients.adjoint_by_perturbation(cell, params, jnp.ones((3, 1)), last)[:, 0].tolist()
      [8.0, 4.0, 2.0, 1.0]
    """
    sequence = prepare(cell, params, carry, xs, loss, lengths, mask, resets, reverse)
    step = timed_step(cell, params, sequence.batch_shape)
    homes = outputs_in_carry(cell, params, sequence.carry, sequence.inputs.x[0])
    steps = sequence.inputs.x.shape[0]
    zeros = jax.tree.map(lambda leaf: jnp.zeros((steps + 1, *leaf.shape), leaf.dtype), sequence.carry)

    def perturbed_loss(perturbations: PyTree):
        def perturbed_step(carry: PyTree, at_t: tuple[StepInput, PyTree]):
            inputs, perturbation = at_t
            before, (carry, y) = carry, step(carry, inputs)
            y = _add_to_output(y, perturbation, homes, inputs)
            return _add(carry, perturbation), (before, y)

        first = jax.tree.map(lambda leaf: leaf[0], perturbations)
        rest = jax.tree.map(lambda leaf: leaf[1:], perturbations)
        last, (carries, ys) = lax.scan(perturbed_step, _add(sequence.carry, first), (sequence.inputs, rest))
        return sequence.loss(ys), finite_steps(sequence, carries, last, inexact(ys))

    found, finite = jax.grad(perturbed_loss, has_aux=True)(zeros)
    known = finite.known(pullback_reads(cell, params, sequence.inputs, sequence.carry, inexact)[0])
    return in_input_order(only_known(found, known_boundaries(known, sequence.inputs.resets)), reverse)


def _add(tree: PyTree, perturbation: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, tree, perturbation)


def _add_to_output(y: PyTree, perturbation: PyTree, homes: list[int | None], inputs: StepInput) -> PyTree:
    """Adds the carry's perturbation to outputs that are part of the carry, except at masked steps."""
    shifts = jax.tree.leaves(perturbation)
    leaves, tree = jax.tree.flatten(y)
    followed = [k for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    for k, home in zip(followed, homes, strict=True):
        if home is not None:
            shifted = leaves[k] + shifts[home]
            leaves[k] = shifted if inputs.counts is None else select(inputs.counts, shifted, leaves[k])
    return tree.unflatten(leaves)

"""The contribution of each unrolled copy of the network to the gradient of its shared parameters.

Unrolling copies the network T times, and every copy uses the same W1, W2 and b1. If copy t has its own parameters θ_t,
all equal, then

    dL/dθ = Σ_t dL/dθ_t

and dL/dθ_t is the contribution of step t.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import StepInput, timed_step
from rnnjax.cell import Cell, PyTree, over_time
from rnnjax.gradients.sequence import (
    Loss,
    Reads,
    finite_steps,
    in_input_order,
    inexact,
    known_boundaries,
    only_known,
    prepare,
    pullback_reads,
)


@over_time
def attribution(
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
    """The gradient of a loss with respect to the parameters, split by time step.

    Args:
      As for `rnnjax.gradients.adjoint`.
    Returns:
      The parameters' tree with a leading T on every leaf: `parts.w_h[t]` is the contribution of step t to dL/dW2, and
      `parts.w_h.sum(0)` is dL/dW2. Parameters of an initial carry (a learned h_0) count at the step that starts from
      it: the first step in scan order, or a reset. It needs T times the memory of the parameters. A contribution is NaN
      if it passes through a non-finite step in any row (`adjoint` counts those), unless the derivative depends on
      neither carry nor input.

    Example: h_3 = w h_2 + x_3 and so on, x = 1, w = 2: dh_3/dw = h_2 + w h_1 + w² h_0 = 3 + 2 + 0.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
      >>> cell = rnnjax.Elman(1, activation="linear")
      >>> parts = rnnjax.gradients.attribution(cell, params, jnp.ones((3, 1)), lambda ys: ys[-1, 0])
      >>> parts.w_h[:, 0, 0].tolist()
      [0.0, 2.0, 3.0]
    """
    sequence = prepare(cell, params, carry, xs, loss, lengths, mask, resets, reverse)
    steps = sequence.inputs.x.shape[0]
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *jnp.shape(leaf))), params)

    def loss_of_copies(copies: PyTree):
        def step(carry: PyTree, at_t: tuple[StepInput, PyTree]):
            inputs, own_params = at_t
            new_carry, y = timed_step(cell, own_params, sequence.batch_shape)(carry, inputs)
            return new_carry, (carry, y)

        start = sequence.carry
        if carry is None:
            start = cell.initial_carry(jax.tree.map(lambda leaf: leaf[0], copies), sequence.batch_shape)
        last, (carries, ys) = lax.scan(step, start, (sequence.inputs, copies))
        return sequence.loss(ys), finite_steps(sequence, carries, last, inexact(ys))

    parts, finite = jax.grad(loss_of_copies, has_aux=True)(copies)
    of_carry, of_params = pullback_reads(cell, params, sequence.inputs, sequence.carry, inexact)
    arriving = known_boundaries(finite.known(of_carry), sequence.inputs.resets)

    def known_of(reads: Reads) -> Array | None:
        flags = [flag for flag in (finite.known(reads), None if arriving is None else arriving[1:]) if flag is not None]
        return functools.reduce(jnp.logical_and, flags).reshape(steps, -1).all(1) if flags else None

    parts = jax.tree.map(lambda part, reads: only_known(part, known_of(reads)), parts, of_params)
    return in_input_order(parts, reverse)

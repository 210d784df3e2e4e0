"""The adjoint by perturbation: what automatic differentiation says, as far as floating point reaches.

    dL/d(carry_t) = dL/dε_t at ε = 0,        carry_t ← carry_t + ε_t after every step

One backward pass, exact, and independent of the recursion in `adjoint.py`; it underflows and overflows as any gradient
does. The two must agree wherever this one is representable.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from rnnjax._unroll.masking import StepInput, select, timed_step
from rnnjax.cell import Cell, PyTree, over_time
from rnnjax.gradients.finite import finite_steps, known_boundaries, only_known, pullback_reads
from rnnjax.gradients.sequence import Loss, in_input_order, inexact, outputs_in_carry, prepare


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
      As `rnnjax.gradients.adjoint`.
    Returns:
      The carry's tree, leaves `[T + 1, *batch, ...]`; equals `exp(log_norm) * direction` of `adjoint`, NaN
      included where a trajectory leaves floating point.

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
        return sequence.loss(ys), finite_steps(sequence.inputs, carries, last, inexact(ys))

    found, finite = jax.grad(perturbed_loss, has_aux=True)(zeros)
    known = finite.known(pullback_reads(cell, params, sequence.inputs, sequence.carry, inexact)[0])
    return in_input_order(only_known(found, known_boundaries(known, sequence.inputs.resets)), reverse)


def _add(tree: PyTree, perturbation: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, tree, perturbation)


def _add_to_output(y: PyTree, perturbation: PyTree, homes: list[int | None], inputs: StepInput) -> PyTree:
    """An output that is part of the carry feels the carry's perturbation, unless its step does not count."""
    shifts = jax.tree.leaves(perturbation)
    leaves, tree = jax.tree.flatten(y)
    followed = [k for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    for k, home in zip(followed, homes, strict=True):
        if home is not None:
            shifted = leaves[k] + shifts[home]
            leaves[k] = shifted if inputs.counts is None else select(inputs.counts, shifted, leaves[k])
    return tree.unflatten(leaves)

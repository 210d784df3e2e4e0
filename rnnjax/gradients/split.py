"""Why a gradient shrinks at a step: saturated units, or a poorly aligned weight matrix.

A step consists of gates and products with the carry, carry_t = gates(carry_{t-1}, x_t, r_1, r_2, ...) with r_i = m_i
W_i, so its transposed Jacobian has two parts. With δ a unit adjoint after the step,

    d = (∂gates/∂carry)^T δ      the direct path: forget gates, update gates, leaks
    s = (∂gates/∂r)^T δ          the path through the pre-activations
    J^T δ = d + (∂r/∂carry)^T s, where the products, and gates between them, act on s

    log ‖J^T δ‖  =  log ‖(d, s)‖  +  log (‖J^T δ‖ / ‖(d, s)‖)
      growth         saturation        alignment

Saturation is the effect of the gates' derivatives, before any weight acts; alignment is the effect of the weights, and
of the sum of both paths. For an Elman network d is zero, and they are log ‖φ' ∘ δ‖ and log ‖W2 s‖/‖s‖.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.arguments import StepInput
from rnnjax.cell import Cell, PyTree
from rnnjax.gradients.sequence import only_known
from rnnjax.gradients.stages import Stages
from rnnjax.numerics import normalise


class Split(NamedTuple):
    """The split of each step's growth of the adjoint, in nats; growth = saturation + alignment.

    At a masked step all three are 0; at a reset, growth and saturation are -inf. All four are NaN where the adjoint
    after the step is NaN.

    Attributes:
      growth: `[T, *batch]`, log ‖J_t^T δ_t‖, δ_t the unit adjoint after step t.
      saturation: `[T, *batch]`, the effect of the gates; -inf where every unit is inactive.
      alignment: `[T, *batch]`, the effect of the weights; 0 where saturation is -inf.
      direct: `[T, *batch]` in 0 .. 1, ‖d‖²/‖(d, s)‖²: the share that bypasses the weights.
    """

    growth: Array
    saturation: Array
    alignment: Array
    direct: Array


def split_of(cell: Cell, params: PyTree, carries: PyTree, inputs: StepInput, directions: PyTree, known: Array) -> Split:
    """The split of every step, all T at once.

    Args:
      carries: the carries before each step, leaves `[T, *batch, ...]`.
      inputs: leaves `[T, *batch, ...]`.
      directions: unit adjoints after each step, the carry's tree, leaves `[T, *batch, ...]`.
      known: `[T, *batch]`, where these are known; elsewhere the result is NaN.
    Raises:
      TypeError: the step cannot be split into gates and products.
    """
    ndim = known.ndim  # time counts as a batch axis
    stages = Stages(cell, params, carries, inputs.x, ndim)

    def one(carry: list[Array], x: Array, direction: list[Array]):
        rs = stages.run(carry, x)[2]
        _, through_gates = jax.vjp(lambda carry, rs: stages.run(carry, x, rs)[0], carry, rs)
        _, through_step = jax.vjp(lambda carry: stages.run(carry, x)[0], carry)
        return through_gates(direction), through_step(direction)[0]

    for _ in range(ndim):
        one = jax.vmap(one)
    (d, s), passed = one(jax.tree.leaves(carries), inputs.x, jax.tree.leaves(directions))

    (d, _), saturation = normalise((d, s), ndim)
    growth = normalise(passed, ndim)[1]
    shut = saturation == -jnp.inf
    alignment = jnp.where(shut, 0, growth - jnp.where(shut, 0, saturation))  # avoids inf - inf
    direct = jnp.exp(2 * normalise(d, ndim)[1])
    found = only_known(Split(saturation + alignment, saturation, alignment, direct), known)
    if inputs.counts is not None:
        found = _where(~inputs.counts, (0.0, 0.0, 0.0, 1.0), found)
    if inputs.resets is not None:
        found = _where(inputs.resets, (-jnp.inf, -jnp.inf, 0.0, 0.0), found)
    return found


def _where(flags: Array, values: tuple[float, ...], split: Split) -> Split:
    return Split(*(jnp.where(flags, value, part) for value, part in zip(values, split, strict=True)))

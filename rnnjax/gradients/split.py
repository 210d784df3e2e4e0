"""Why a gradient shrinks at a step: units that saturate, or a weight matrix that turns it the wrong way.

A step is a gate over the carry and what `mix` makes of it, carry_t = gate(carry_{t-1}, u_t, mix(carry_{t-1})), so its
transposed Jacobian is two maps in a row. With δ a unit adjoint after the step,

    d = (∂gate/∂carry)^T δ      the direct path: forget gates, update gates, leaks
    s = (∂gate/∂r)^T δ          the path through the pre-activations
    J^T δ = d + (∂mix/∂carry)^T s

    log ‖J^T δ‖  =  log ‖(d, s)‖  +  log (‖d + M^T s‖ / ‖(d, s)‖)
      growth         saturation        alignment

The first is what the slopes of the gates leave, before any weight has acted; the second what the weights, and the sum
of both paths, make of that. For an Elman network d is zero and they are log ‖φ' ∘ δ‖ and log ‖W2 s‖/‖s‖.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.masking import StepInput
from rnnjax.cell import Cell, PyTree
from rnnjax.gradients.slopes import accurate
from rnnjax.numerics import normalise


class Split(NamedTuple):
    """Of each step of an adjoint, in nats; growth = saturation + alignment.

    A hidden step passes everything on (all three are 0), a reset nothing (growth and saturation are -inf).

    Attributes:
      growth: `[T, *batch]`, log ‖J_t^T δ_t‖, δ_t the unit adjoint after step t.
      saturation: `[T, *batch]`, the part through the gate; -inf where every unit is shut.
      alignment: `[T, *batch]`, the part through the weights; 0 where there is nothing left to align.
      direct: `[T, *batch]` in 0 .. 1, ‖d‖²/‖(d, s)‖²: how much of what the gate lets through bypasses the weights.
    """

    growth: Array
    saturation: Array
    alignment: Array
    direct: Array


def check_split(cell: Cell) -> None:
    """Raises TypeError where a step does not come apart."""
    if not (hasattr(cell, "mix") and hasattr(cell, "gate") and hasattr(cell, "project")):
        raise TypeError(
            f"{cell!r} has no `mix` and `gate` of its own, so its step does not split: leave `split` out, or take its "
            "layers one by one, each with the outputs of the one below as `xs`."
        )


def split_of(cell: Cell, params: PyTree, carries: PyTree, inputs: StepInput, directions: PyTree) -> Split:
    """The split of every step, all T at once.

    Args:
      carries: before each step, leaves `[T, *batch, ...]`.
      inputs: leaves `[T, *batch, ...]`.
      directions: unit adjoints after each step, the carry's tree, leaves `[T, *batch, ...]`.
    """
    ndim = inputs.x.ndim - 1  # time counts as a batch axis

    us = cell.project(params, inputs.x)
    rs, through_mix = jax.vjp(lambda carry: accurate(cell.mix)(params, carry), carries)
    gate = accurate(lambda carry, r, u: cell.gate(params, carry, u, r)[0])
    _, through_gate = jax.vjp(lambda carry, r: gate(carry, r, us), carries, rs)

    (d, s), saturation = normalise(through_gate(directions), ndim)
    (turned,) = through_mix(s)
    _, alignment = normalise(jax.tree.map(jnp.add, d, turned), ndim)
    alignment = jnp.where(saturation == -jnp.inf, 0, alignment)
    direct = jnp.exp(2 * normalise(d, ndim)[1])
    found = Split(saturation + alignment, saturation, alignment, direct)
    if inputs.counts is not None:
        found = _where(~inputs.counts, (0.0, 0.0, 0.0, 1.0), found)
    if inputs.resets is not None:
        found = _where(inputs.resets, (-jnp.inf, -jnp.inf, 0.0, 0.0), found)
    return found


def _where(flags: Array, values: tuple[float, ...], split: Split) -> Split:
    return Split(*(jnp.where(flags, value, part) for value, part in zip(values, split, strict=True)))

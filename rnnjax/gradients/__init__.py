"""The gradient instrument: how much of a loss's gradient reaches each step, and what each step gives to a weight.

The gradient of a recurrent network is another recurrence, running backwards. `adjoint` runs that recurrence with its
length kept as a logarithm, so it is exact at any depth; `adjoint_by_perturbation` gets the same from plain automatic
differentiation, as far as floating point reaches, to check against. `attribution` takes the gradient of a shared weight
apart, step by step.

What is measured can be trained on: `omega` (Pascanu) puts a price on steps that shorten or lengthen the adjoint, and
`ClippedAdjoint` is a cell whose adjoint is clipped at every step of the backward pass.
"""

from rnnjax.gradients import theory
from rnnjax.gradients.adjoint import Adjoint, adjoint
from rnnjax.gradients.adjoint_clipping import ClippedAdjoint, clip_adjoint
from rnnjax.gradients.attribution import attribution
from rnnjax.gradients.pascanu import NormRatios, norm_ratios, omega
from rnnjax.gradients.perturbation import adjoint_by_perturbation

__all__ = [
    "Adjoint",
    "ClippedAdjoint",
    "NormRatios",
    "adjoint",
    "adjoint_by_perturbation",
    "attribution",
    "clip_adjoint",
    "norm_ratios",
    "omega",
    "theory",
]

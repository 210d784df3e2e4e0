"""The gradient instrument: how much of a loss's gradient reaches each step, and what each step gives to a weight.

The gradient of a recurrent network is another recurrence, running backwards. `adjoint` runs that recurrence with its
length kept as a logarithm, so it is exact at any depth; `adjoint_by_perturbation` gets the same from plain automatic
differentiation, as far as floating point reaches, to check against. `attribution` takes the gradient of a shared weight
apart, step by step, and `attribution_by_lag` by how far back an output reaches.

The same recurrence forwards has Jacobians (`jacobians`, `matrix_statistics`, `lag_products`) and Lyapunov exponents
(`lyapunov_spectrum`, `leading_exponent`); `theory` holds the closed forms that all of it is tested against.

Two of these serve as regularisers in training: `omega` (Pascanu) penalises steps that shorten or lengthen the adjoint,
and `flossing` (Engelken) Lyapunov exponents away from zero; `ClippedAdjoint` is a cell whose adjoint is clipped at
every step of the backward pass.
"""

from rnnjax.gradients import theory
from rnnjax.gradients.adjoint import Adjoint, adjoint, adjoint_by_perturbation
from rnnjax.gradients.adjoint_clipping import ClippedAdjoint, clip_adjoint
from rnnjax.gradients.attribution import attribution
from rnnjax.gradients.dimension import entropy_rate, kaplan_yorke_dimension
from rnnjax.gradients.flossing import finite_time_exponents, flossing
from rnnjax.gradients.jacobian_matrices import LagProducts, MatrixStatistics, jacobians, lag_products, matrix_statistics
from rnnjax.gradients.lags import LagAttribution, attribution_by_lag
from rnnjax.gradients.lyapunov import LeadingExponent, LyapunovSpectrum, leading_exponent, lyapunov_spectrum
from rnnjax.gradients.pascanu import NormRatios, norm_ratios, omega
from rnnjax.gradients.split import Split

__all__ = [
    "Adjoint",
    "ClippedAdjoint",
    "LagAttribution",
    "LagProducts",
    "LeadingExponent",
    "LyapunovSpectrum",
    "MatrixStatistics",
    "NormRatios",
    "Split",
    "adjoint",
    "adjoint_by_perturbation",
    "attribution",
    "attribution_by_lag",
    "clip_adjoint",
    "entropy_rate",
    "finite_time_exponents",
    "flossing",
    "jacobians",
    "kaplan_yorke_dimension",
    "lag_products",
    "leading_exponent",
    "lyapunov_spectrum",
    "matrix_statistics",
    "norm_ratios",
    "omega",
    "theory",
]

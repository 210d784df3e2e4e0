"""Measures the gradient of a recurrent network: how much of it reaches each step, and what each step adds to a
weight's.

The gradient of a recurrent network is a recurrence that runs backwards. `adjoint` runs it with norms in log form, so it
is exact at any depth. `adjoint_by_perturbation` computes the same by plain automatic differentiation, within the range
of floating point, as a check. `attribution` splits the gradient of a shared weight by time step, and
`attribution_by_lag` by lag.

The forward recurrence has Jacobians (`jacobians`, `matrix_statistics`, `lag_products`) and Lyapunov exponents
(`lyapunov_spectrum`, `leading_exponent`). `theory` has the closed forms against which all of these are tested.

For training, `omega` (Pascanu) penalises steps that change the norm of the adjoint, `flossing` (Engelken) penalises
nonzero Lyapunov exponents, and `ClippedAdjoint` is a cell whose adjoint is clipped at every step of the backward pass.
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

"""Finds where a recurrent network rests, and how it moves nearby, under a constant input.

`fixed_points` finds fixed points, slow points, lines of fixed points and cycles of any cell, and proves the isolated
ones (`certify` proves a given one). `linearize` gives the modes of the network near a carry. `continue_in` follows
fixed points while a parameter changes, through folds, branchings and other bifurcations. `plot_points`,
`plot_eigenvalues` and `plot_branches` draw them in matplotlib's axes.

At a stable fixed point, three instruments agree: the logs of |eigenvalues| are the Lyapunov exponents
(`rnnjax.gradients.lyapunov_spectrum`), and the largest is the rate at which the adjoint decays
(`rnnjax.gradients.adjoint`).
"""

from rnnjax.dynamics.certify import Certificate, certifier, certify
from rnnjax.dynamics.continuation import Bifurcation, Branch, continue_in
from rnnjax.dynamics.fixed_points import FixedPoints, fixed_points
from rnnjax.dynamics.linearize import Linearization, linearize
from rnnjax.dynamics.pictures import plot_branches, plot_eigenvalues, plot_points

__all__ = [
    "Bifurcation",
    "Branch",
    "Certificate",
    "FixedPoints",
    "Linearization",
    "certifier",
    "certify",
    "continue_in",
    "fixed_points",
    "linearize",
    "plot_branches",
    "plot_eigenvalues",
    "plot_points",
]

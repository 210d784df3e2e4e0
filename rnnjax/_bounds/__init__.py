"""Rigorous bounds of a step over a box of carries: its values, its Jacobian, and its second derivative.

    bounded = Bounded(lambda h, x: step(h, x), size, x)       traces the function once
    bounds = bounded(lower, upper, x)                         value, jacobian, curvature

Along a trajectory: ‖J_t‖ is at most `norm_bound(bounds.jacobian, w)` of `bounded(h, h, x_t)`, and the Jacobian changes
by at most `max(bounds.curvature / w)` ‖δ‖ within a tube, of `bounded(h - rho * w, h + rho * w, x_t, weights=w)`.

All in NumPy, in float64, with outward rounding: the bounds hold for the function in exact arithmetic. `equations.py`
traces and runs the equations, `rules.py` has a rule for each primitive, `jets.py` the derivatives of sums and products,
and `intervals.py` the arithmetic and a bound for inverses.
"""

from rnnjax._bounds.equations import Bounded, Bounds
from rnnjax._bounds.intervals import Interval, Inverse, Kink, NoBound, inverse_bound, norm_bound

__all__ = ["Bounded", "Bounds", "Interval", "Inverse", "Kink", "NoBound", "inverse_bound", "norm_bound"]

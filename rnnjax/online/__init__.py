"""Learns without going back in time: rules that give the gradient of each step's loss at that step.

Each rule is a frozen value with two pure functions,

    init(cell, params, batch_shape) -> trace
    step(cell, params, carry, trace, x, dloss, *, mask=None, resets=None, key=None) -> (carry, trace, gradient, y)

for a loop of one's own, `jax.lax.scan`, and an actor in an environment alike. Memory does not grow with time.
"""

from rnnjax.online.influence import RTRL, Influence, SnAp
from rnnjax.online.moment import Stepped
from rnnjax.online.truncated import TBPTT, Immediate, Window

__all__ = ["RTRL", "TBPTT", "Immediate", "Influence", "SnAp", "Stepped", "Window"]

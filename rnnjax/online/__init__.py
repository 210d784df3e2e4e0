"""Learns without going back in time: rules that give the gradient of each step's loss at that step.

Each rule is a frozen value with two pure functions,

    init(cell, params, batch_shape) -> trace
    step(cell, params, carry, trace, x, dloss, *, mask=None, resets=None, key=None) -> (carry, trace, gradient, y)

for a loop of one's own, `jax.lax.scan`, and an actor in an environment alike. Memory does not grow with time. The
gradient is that of the loss of this step alone, summed over rows; summed over time it is that of the sequence.

    RTRL          exact, for every cell and stack         SnAp(n)      the part of RTRL within n steps
    TBPTT(k)      exact through the last k steps          Immediate    this step only
    UORO          right on average, for every cell        KFRTRL       the same, for cells of matrix products
    KeRNL         a learned kernel, exponential in the lag
    EProp, RFLO   through a unit's own state              DNI          the step, and a prediction of the rest

`fit` learns a stream with any of them, `explain` says what one costs, and `bias` measures its gradient against the
exact one, by lag.
"""

from rnnjax.online.costs import Cost, explain
from rnnjax.online.dni import DNI, Synthesizer
from rnnjax.online.influence import RTRL, Influence, SnAp
from rnnjax.online.kernl import Kernel, KeRNL
from rnnjax.online.kronecker import KFRTRL, Factors, Kronecker
from rnnjax.online.learning import Learned, fit
from rnnjax.online.local import RFLO, EProp
from rnnjax.online.measure import Bias, bias
from rnnjax.online.moment import Stepped
from rnnjax.online.rule import Rule
from rnnjax.online.truncated import TBPTT, Immediate, Window
from rnnjax.online.uoro import UORO, RankOne

__all__ = [
    "DNI",
    "KFRTRL",
    "RFLO",
    "RTRL",
    "TBPTT",
    "UORO",
    "Bias",
    "Cost",
    "EProp",
    "Factors",
    "Immediate",
    "Influence",
    "KeRNL",
    "Kernel",
    "Kronecker",
    "Learned",
    "RankOne",
    "Rule",
    "SnAp",
    "Stepped",
    "Synthesizer",
    "Window",
    "bias",
    "explain",
    "fit",
]

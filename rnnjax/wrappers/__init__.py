"""Wrappers: a cell around a cell or a stack, which changes its input, its parameters, its state or its output.

Some are random. `rnnjax.unroll(..., key=key)` draws their noise for all steps before the loop, as in training; without
a key they use the expectation, as in evaluation. `rnnjax.draw_noise` draws it apart, so that a sequence that is cut in
two can have the noise of the whole one.

Wrappers combine in any order, and wrap a `Stack` as they wrap a cell, as long as it has a single step. A wrapper of
your own is a `Wrapper` with `around` and, if it is random, `noise`.
"""

from rnnjax.wrappers.base import Step, Wrapper
from rnnjax.wrappers.carry import LearnedCarry, LearnedCarryParams, WithoutBias
from rnnjax.wrappers.forms import Constrained, Dale, Precision, Residual, Skip, Sparse, Standardized
from rnnjax.wrappers.norms import LayerNorm, LayerNormParams, WeightNorm, WeightNormParams
from rnnjax.wrappers.random import DropConnect, Dropout, StateNoise, Zoneout
from rnnjax.wrappers.recurrence import RecurrentWeight, ScaledParams, ScaledRecurrence, knob_of, recurrent_weights

__all__ = [
    "Constrained",
    "Dale",
    "DropConnect",
    "Dropout",
    "LayerNorm",
    "LayerNormParams",
    "LearnedCarry",
    "LearnedCarryParams",
    "Precision",
    "RecurrentWeight",
    "Residual",
    "ScaledParams",
    "ScaledRecurrence",
    "Skip",
    "Sparse",
    "Standardized",
    "StateNoise",
    "Step",
    "WeightNorm",
    "WeightNormParams",
    "WithoutBias",
    "Wrapper",
    "Zoneout",
    "knob_of",
    "recurrent_weights",
]

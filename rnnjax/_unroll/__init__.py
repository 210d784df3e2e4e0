"""Applies a cell over time: one interface (`contract.py`), and several engines that give the same numbers."""

from rnnjax._unroll.arguments import Composite, Masks, Run, is_causal, output_size
from rnnjax._unroll.associative import NotLinear
from rnnjax._unroll.contract import Engine, EngineName, NotHoistable, unroll
from rnnjax._unroll.explanation import Explanation, explain
from rnnjax._unroll.newton import NotConverged, Parallel
from rnnjax._unroll.noise import Noise, Noisy, apart, draw_noise, dtype_of, keep, one_step, with_weights
from rnnjax._unroll.remat import Checkpoint, MemoryBudget

__all__ = [
    "Checkpoint",
    "Composite",
    "Engine",
    "EngineName",
    "Explanation",
    "Masks",
    "MemoryBudget",
    "Noise",
    "Noisy",
    "NotConverged",
    "NotHoistable",
    "NotLinear",
    "Parallel",
    "Run",
    "apart",
    "draw_noise",
    "dtype_of",
    "explain",
    "is_causal",
    "keep",
    "one_step",
    "output_size",
    "unroll",
    "with_weights",
]

"""Applying a cell over time: one contract (`contract.py`), several engines, the same numbers from each."""

from rnnjax._unroll.composites import Composite, Run, is_causal, output_size
from rnnjax._unroll.contract import unroll
from rnnjax._unroll.engines import Engine, NotHoistable
from rnnjax._unroll.explanation import Explanation, explain
from rnnjax._unroll.masking import Masks
from rnnjax._unroll.remat import Checkpoint, MemoryBudget

__all__ = [
    "Checkpoint",
    "Composite",
    "Engine",
    "Explanation",
    "Masks",
    "MemoryBudget",
    "NotHoistable",
    "Run",
    "explain",
    "is_causal",
    "output_size",
    "unroll",
]

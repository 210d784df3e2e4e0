"""Applies a cell over time: one interface (`contract.py`), and several engines that give the same numbers."""

from rnnjax._unroll.arguments import Composite, Masks, Run, is_causal, output_size
from rnnjax._unroll.contract import Engine, NotHoistable, unroll
from rnnjax._unroll.explanation import Explanation, explain
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

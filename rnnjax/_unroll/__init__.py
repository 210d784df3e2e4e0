"""Applying a cell over time: one contract (`contract.py`), several engines, the same numbers from each."""

from rnnjax._unroll.checkpointing import Checkpoint, MemoryBudget
from rnnjax._unroll.contract import unroll
from rnnjax._unroll.engines import Engine, NotHoistable
from rnnjax._unroll.explanation import Explanation, explain
from rnnjax._unroll.parts import Composite, Run, is_causal, output_size
from rnnjax._unroll.timing import Timing

__all__ = [
    "Checkpoint",
    "Composite",
    "Engine",
    "Explanation",
    "MemoryBudget",
    "NotHoistable",
    "Run",
    "Timing",
    "explain",
    "is_causal",
    "output_size",
    "unroll",
]

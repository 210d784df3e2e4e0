"""Applying a cell over time: one contract (`contract.py`), several engines, the same numbers from each."""

from rnnjax.unroll.checkpointing import Checkpoint, MemoryBudget
from rnnjax.unroll.contract import unroll
from rnnjax.unroll.engines import Engine
from rnnjax.unroll.explanation import Explanation, explain
from rnnjax.unroll.parts import Composite, Run, is_causal
from rnnjax.unroll.timing import Timing

__all__ = [
    "Checkpoint",
    "Composite",
    "Engine",
    "Explanation",
    "MemoryBudget",
    "Run",
    "Timing",
    "explain",
    "is_causal",
    "unroll",
]

"""Applying a cell over time: one contract (`contract.py`), several engines, the same numbers from each."""

from rnnjax.unroll.contract import Composite, Engine, Run, unroll
from rnnjax.unroll.timing import Timing

__all__ = ["Composite", "Engine", "Run", "Timing", "unroll"]

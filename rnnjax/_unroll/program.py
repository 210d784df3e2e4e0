"""One compiled program for a cell and its options, so that a second eager call compiles nothing.

Eager JAX would trace and compile the time loop at every call, as each call makes the loop's body anew. `jax.jit` keeps
programs by a function's identity, so one jitted function is kept for each pair of cell and options. Inside somebody
else's `jax.jit` there is nothing to keep, and none of it is used.
"""

import contextlib
import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from rnnjax._unroll.composites import Part
from rnnjax._unroll.planning import ClosesOverArrays, Options, runner
from rnnjax.cell import PyTree

_KEPT = 256
"""How many pairs of cell and options keep their program; the one not used for longest goes first."""


def run_program(options: Options, whole: Part) -> tuple[PyTree, PyTree]:
    """`(carry, ys)`, from the program kept for this cell where one can be kept."""
    cell, *arrays = whole
    program = None
    if options.engine != "loop" and not _jit_is_off() and not _is_staged() and _are_arrays(arrays):
        with contextlib.suppress(TypeError):  # the cell cannot be hashed, as with a list among its fields
            program = _program(options, cell)
    if program is None or not program.serves(arrays):
        return runner(options, whole)(*whole)
    return program.run(*arrays)


class _Program:
    """The jitted run of one cell."""

    def __init__(self, options: Options, cell: Any):
        def run(*arrays: Any) -> tuple[PyTree, PyTree]:
            whole = Part(cell, *arrays)
            return runner(options, whole, kept=True)(*whole)

        self.run: Any = jax.jit(run)
        self._is_tried = False

    def serves(self, arrays: list[Any]) -> bool:
        """Whether the cell's step closes over no arrays: they may be others at the next call."""
        if not self._is_tried:
            self._is_tried = True
            try:
                self.run.trace(*arrays)
            except ClosesOverArrays:
                self.run = None
        return self.run is not None


@functools.lru_cache(maxsize=_KEPT)
def _program(options: Options, cell: Any) -> _Program:
    return _Program(options, cell)


def _jit_is_off() -> bool:
    config: Any = jax.config  # its switches are attributes that JAX adds at run time
    return config.jax_disable_jit


def _is_staged() -> bool:
    """Whether the code that runs now is being traced for a program of somebody else's: then no array has a value."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def _are_arrays(tree: PyTree) -> bool:
    """Python numbers among parameters stay numbers in a step, and are not traced."""
    return all([isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in jax.tree.leaves(tree)])

"""One compiled program for a cell and its options, so that a second eager call compiles nothing.

Eager JAX would trace and compile the time loop at every call, as each call makes the loop's body anew. `jax.jit` keeps
programs by a function's identity, so one jitted function is kept for each pair of cell and options. Inside somebody
else's `jax.jit` there is nothing to keep, and none of it is used.
"""

import collections
import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from rnnjax._unroll.composites import Part
from rnnjax._unroll.planning import ClosesOverArrays, Options, runner
from rnnjax.cell import PyTree

_MOST = 256
"""How many pairs of cell and options keep their program; the oldest goes first."""

_PROGRAMS: "collections.OrderedDict[Any, Callable[..., tuple[PyTree, PyTree]]]" = collections.OrderedDict()
_CLOSE_OVER: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
"""Cells whose programs are not kept: they close over arrays, which may be others at the next call, and go with them."""


def run_program(options: Options, whole: Part) -> tuple[PyTree, PyTree]:
    """`(carry, ys)`, from the program kept for this cell where one can be kept."""
    cell, *arrays = whole
    if options.engine == "loop" or _jit_is_off() or _is_staged() or not _are_arrays(arrays):
        return runner(options, whole)(*whole)
    try:
        hash(cell)
    except TypeError:  # as with a list among its fields
        return runner(options, whole)(*whole)
    program = _PROGRAMS.get((options, cell)) or _new_program(options, cell, arrays)
    if program is not None:
        with contextlib.suppress(ClosesOverArrays):  # of these shapes, where it did not of others
            return program(*arrays)
    return runner(options, whole)(*whole)


def _new_program(options: Options, cell: Any, arrays: list[Any]) -> Any:
    """A program that is kept from now on; `None` for a cell that closes over arrays."""
    with contextlib.suppress(TypeError):  # takes no weak references
        if cell in _CLOSE_OVER:
            return None

    def run(*arrays: Any) -> tuple[PyTree, PyTree]:
        whole = Part(cell, *arrays)
        return runner(options, whole, kept=True)(*whole)

    program = jax.jit(run)
    try:
        program.trace(*arrays)
    except ClosesOverArrays:
        with contextlib.suppress(TypeError):
            _CLOSE_OVER[cell] = True
        return None
    _PROGRAMS[options, cell] = program
    if len(_PROGRAMS) > _MOST:
        _PROGRAMS.popitem(last=False)
    return program


def _jit_is_off() -> bool:
    config: Any = jax.config  # its switches are attributes that JAX adds at run time
    return config.jax_disable_jit


def _is_staged() -> bool:
    """Whether the code that runs now is being traced for a program of somebody else's: then no array has a value."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def _are_arrays(tree: PyTree) -> bool:
    """Python numbers among parameters stay numbers in a step, and are not traced."""
    return all([isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in jax.tree.leaves(tree)])

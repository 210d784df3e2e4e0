"""What is known of the Jacobians of a step before it runs: which entries are not always zero, and how to compute them.

A matrix of known pattern is computed by as many backward passes as there are rows that share no column (colours): S for
a dense recurrence, one for a diagonal one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax._unroll.arguments import shapes_of
from rnnjax.cell import Cell, PyTree
from rnnjax.online.dependence import dependence
from rnnjax.online.vectors import flat, merged, reals, unflat


class Colours(NamedTuple):
    """How to compute a matrix of known pattern `[S, N]` from few sums of its rows: rows of one colour share no column.

    Attributes:
      of: `[S]`, the colour of each row.
      sums: `[colours, S]`, 1 where a row has the colour.
    """

    of: np.ndarray
    sums: np.ndarray


class Block(NamedTuple):
    """The entries of J that are kept for one parameter with N numbers.

    Attributes:
      rows: `[K, N]`, for each number the K rows of J that it has (`scattered`); else `[K]`, the same for all.
      kept: `[K, N]`, False for entries that are padding and always zero.
      immediate: `[K, N]`, True for entries of I.
      at_start: `[K, N]`, True for entries of d(initial state)/dθ.
      scattered: whether columns have rows of their own.
    """

    rows: np.ndarray
    kept: np.ndarray
    immediate: np.ndarray
    at_start: np.ndarray
    scattered: bool

    @classmethod
    def of(cls, kept: np.ndarray, immediate: np.ndarray, at_start: np.ndarray) -> "Block":
        """From the patterns `[S, N]` of J, of I and of the initial state."""
        most, rows = int(kept.sum(0).max(initial=0)), np.flatnonzero(kept.any(1))
        scattered = most * most <= len(rows)
        if scattered:
            rows = np.argsort(~kept, axis=0, kind="stable")[:most]
            kept, immediate, at_start = (np.take_along_axis(each, rows, 0) for each in (kept, immediate, at_start))
        else:
            kept, immediate, at_start = kept[rows], immediate[rows], at_start[rows]
        return cls(rows, kept, immediate, at_start, scattered)

    def entries(self, sums: Array, colours: "Colours", mask: np.ndarray) -> Array:
        """`[K, N]`, those of a matrix `[S, N]` of which `sums` `[colours, N]` are given and `mask` are not zero."""
        of = colours.of[self.rows]
        return _where(mask, sums[of, np.arange(sums.shape[1])] if self.scattered else sums[of])

    def pushed(self, structure: "Structure", by_state: Array, own: Array) -> Array:
        """D J `[K, N]` from the sums of rows of D, `[colours, S]`, and J."""
        rows, of = self.rows, structure.by_state.of[self.rows]
        if not self.scattered:
            between = _where(structure.state[rows][:, rows], by_state[of][:, rows])
            return _where(self.kept, between @ own)
        mask = structure.state[rows[:, None], rows[None]] & self.kept[:, None] & self.kept[None]
        return (_where(mask, by_state[of[:, None], rows[None]]) * own[None]).sum(1)

    def pulled(self, adjoint: Array, own: Array) -> Array:
        """adjoint J `[N]`, summed over rows of the batch, from `[*batch, S]` and `[*batch, K, N]`."""
        adjoint = adjoint[..., self.rows]
        if self.scattered:
            return (adjoint * own).sum(tuple(range(own.ndim - 1)))
        return jnp.tensordot(adjoint, own, axes=adjoint.ndim)

    def whole(self, own: Array, size: int) -> Array:
        """`[*batch, S, N]`, with zeros where nothing is kept."""
        zeros = jnp.zeros((*own.shape[:-2], size, own.shape[-1]), own.dtype)
        return zeros.at[(..., self.rows, *([np.arange(own.shape[-1])] if self.scattered else [slice(None)]))].add(own)


class Structure(NamedTuple):
    """What is known of the Jacobians of a cell's step before it runs.

    Attributes:
      size: S.
      state: `[S, S]`, the pattern of D.
      by_state: the colours of D.
      by_params: the colours of I, for all parameters together.
      blocks: for each parameter.
      by_start: the colours of d(initial state)/dθ.
      growing: whether one more step would add entries: J is not exact.
    """

    size: int
    state: np.ndarray
    by_state: Colours
    by_params: Colours
    blocks: list[Block]
    by_start: Colours
    growing: bool


def structure_of(cell: Cell, params: PyTree, carry: PyTree, x: Any, steps: int | None) -> Structure:
    """The structure of a step for one row, read from its equations.

    Args:
      carry, x: of one row, or their shapes.
      steps: n of SnAp-n; None for all that are needed.
    Raises:
      TypeError: a part of the step has a backward pass of its own, so its Jacobian is not known.
    """
    params, carry, x = shapes_of((params, carry, x))
    leaves, tree = jax.tree.flatten((params, carry, x))
    key = cell, tree, tuple([(leaf.shape, leaf.dtype) for leaf in leaves]), steps
    try:
        kept = _STRUCTURES.get(key)
    except TypeError:  # not hashable
        return _structure(cell, params, carry, x, steps)[0]
    if kept is None:
        kept, closes_over = _structure(cell, params, carry, x, steps)
        if not closes_over:
            if len(_STRUCTURES) >= _MOST:
                _STRUCTURES.clear()
            _STRUCTURES[key] = kept
    return kept


_STRUCTURES: dict[Any, Structure] = {}
_MOST = 256


def _structure(cell: Cell, params: PyTree, carry: PyTree, x: Any, steps: int | None) -> tuple[Structure, bool]:
    thetas, state = jax.eval_shape(lambda params, carry: (reals(params), flat(carry, 0)), params, carry)

    def after(thetas: list[Array], state: Array, carry: PyTree, x: Array) -> Array:
        return flat(cell.step(merged(thetas, _zeros(params)), unflat(state, carry, 0), x)[0], 0)

    def start(thetas: list[Array]) -> Array:
        return flat(cell.initial_carry(merged(thetas, _zeros(params))), 0)

    pattern, own_rule, closes_over = dependence(after, thetas, state, carry, x)
    if own_rule:
        raise TypeError(
            f"the step of {cell!r} has a backward pass of its own (`jax.custom_vjp`), which may be nonlinear, so it "
            "has no Jacobian to propagate; use `TBPTT`, or the cell without it."
        )
    at_start, _, closes_over_too = dependence(start, thetas)
    immediate, recurrent = pattern[: len(thetas)], pattern[len(thetas)]
    reached = [a | b for a, b in zip(immediate, at_start, strict=True)]
    taken, growing = 1, True
    while growing and (steps is None or taken < steps):
        after_one_more = [own | _product(recurrent, own) for own in reached]
        growing = any([(a != b).any() for a, b in zip(after_one_more, reached, strict=True)])
        reached, taken = after_one_more, taken + 1
    if growing:
        growing = any([(own != (own | _product(recurrent, own))).any() for own in reached])
    blocks = [Block.of(*patterns) for patterns in zip(reached, immediate, at_start, strict=True)]
    found = Structure(
        state.shape[0], recurrent, _colours([recurrent]), _colours(immediate), blocks, _colours(at_start), growing
    )
    return found, closes_over or closes_over_too


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.astype("float32") @ b.astype("float32")) > 0


def _colours(patterns: list[np.ndarray]) -> Colours:
    """Greedy colouring; rows without entries have no colour of their own."""
    size = len(patterns[0]) if patterns else 0
    meets = np.zeros((size, size), bool)
    for pattern in patterns:
        meets |= _product(pattern, pattern.T)
    of = np.zeros(size, int)
    for row in range(size):
        taken = set(of[:row][meets[row, :row]])
        of[row] = next(colour for colour in range(size) if colour not in taken)
    colours = int(of.max(initial=-1)) + 1
    filled = meets.diagonal()
    return Colours(of, (of == np.arange(colours)[:, None]) & filled)


def _where(mask: np.ndarray, values: Array) -> Array:
    return values if mask.all() else jnp.where(mask, values, jnp.zeros_like(values))

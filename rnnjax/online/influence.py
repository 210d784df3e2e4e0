"""The influence of the parameters on the state, J_t = d state_t/dθ, propagated forwards; whole or in part.

    J_t = D_t J_{t-1} + I_t                     real-time recurrent learning (RTRL)
    J_t = P_n (D_t J_{t-1} + I_t)               SnAp-n: only the entries of a fixed pattern P_n

P_n has the entries of J that are reached by I_t and n - 1 further steps, whatever the inputs are. D_t and I_t are
computed by as many backward passes as there are rows that share no column (colours): S for a dense recurrence, one for
a diagonal one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax._unroll.arguments import shapes_of
from rnnjax.cell import Cell, PyTree, check_size
from rnnjax.online.dependence import dependence
from rnnjax.online.moment import LossGradient, Moment, Stepped, in_rows, outcome, row_shapes
from rnnjax.online.rule import Rule
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


def at_start(structure: Structure, cell: Cell, params: PyTree) -> list[Array]:
    """d(initial state)/dθ of one row, for each parameter `[K, N]`."""
    thetas = reals(params)
    shape = jax.eval_shape(lambda: flat(cell.initial_carry(params), 0))
    if not any([block.at_start.any() for block in structure.blocks]):
        return [jnp.zeros((*block.rows.shape[:1], theta.size), shape.dtype) for block, theta in _of(structure, thetas)]
    _, pull = jax.vjp(lambda thetas: flat(cell.initial_carry(merged(thetas, params)), 0), thetas)
    (sums,) = jax.vmap(pull)(jnp.asarray(structure.by_start.sums, shape.dtype))
    return [
        block.entries(each.reshape(len(each), -1).astype(shape.dtype), structure.by_start, block.at_start)
        for block, each in _of(structure, sums)
    ]


def immediate(structure: Structure, after: Callable[..., Array], thetas: list[Array], state: Array) -> list[Array]:
    """I_t of one row, for each parameter `[K, N]`."""
    _, pull = jax.vjp(lambda thetas: after(thetas, state), thetas)
    (sums,) = jax.vmap(pull)(jnp.asarray(structure.by_params.sums, state.dtype))
    return [
        block.entries(each.reshape(len(each), -1).astype(state.dtype), structure.by_params, block.immediate)
        for block, each in _of(structure, sums)
    ]


def propagated(structure: Structure, moment: Moment, before: list[Array]) -> list[Array]:
    """J_t for each parameter, `[*batch, K, N]`."""
    thetas = reals(moment.params)

    def row(after: Callable[..., Array], state: Array, before: list[Array]) -> list[Array]:
        _, pull = jax.vjp(lambda state: after(thetas, state), state)
        (by_state,) = jax.vmap(pull)(jnp.asarray(structure.by_state.sums, state.dtype))
        pushed = [block.pushed(structure, by_state, own) for block, own in _of(structure, before)]
        return [a + b for a, b in zip(pushed, immediate(structure, after, thetas, state), strict=True)]

    return moment.over_rows(row, before)


def _of(structure: Structure, parts: list[Array]) -> list[tuple[Block, Array]]:
    return list(zip(structure.blocks, parts, strict=True))


def check_trace(trace: PyTree, start: PyTree, moment: Moment) -> None:
    """Raises ValueError if the trace of a row has other shapes than at the start."""
    given = [leaf.shape for leaf in jax.tree.leaves(trace)]
    expected = [(*moment.batch_shape, *leaf.shape) for leaf in jax.tree.leaves(start)]
    if given != expected:
        raise ValueError(
            f"`trace` has the shapes {given}, but this step needs {expected}; make it by `init(cell, params, "
            f"{moment.batch_shape}, input_size={moment.inputs.x.shape[-1]})` of this rule."
        )


class Influence(NamedTuple):
    """The trace of `RTRL` and `SnAp`: the entries of J_t that are kept.

    Attributes:
      blocks: for each floating parameter, `[*batch, K, N]`: N numbers of the parameter, K of the S numbers of the state
        (see `RTRL.jacobian`, which gives J whole).
    """

    blocks: list[Array]


@dataclasses.dataclass(frozen=True)
class Propagated(Rule):
    """What `RTRL`, `SnAp` and rules that change the step share."""

    @property
    def _steps(self) -> int | None:
        """n of SnAp-n; None: as many as are needed."""
        return None

    def _changed(self, cell: Cell) -> Cell:
        """The cell whose Jacobians are propagated."""
        return cell

    def _check(self, cell: Cell, params: PyTree, carry: PyTree, x: Any, structure: Structure) -> None:
        """Raises TypeError if the rule is not defined for the step; `carry` and `x` are one row's."""

    def _read(self, cell: Cell, params: PyTree, carry: PyTree, x: Any) -> Structure:
        structure = structure_of(cell, params, carry, x, self._steps)
        self._check(cell, params, carry, x, structure)
        return structure

    def _start(self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...], input_size: int | None) -> Influence:
        cell = self._changed(cell)
        structure = self._read(cell, params, *row_shapes(cell, params, input_size))
        return Influence(in_rows(at_start(structure, cell, params), batch_shape))

    def _advance(self, moment: Moment, trace: Influence, dloss: LossGradient, key: Array | None) -> Stepped:
        cell, params = self._changed(moment.cell), moment.params
        moment = moment._replace(cell=cell)
        structure = self._read(cell, params, *moment.row_shapes())
        start = at_start(structure, cell, params)
        check_trace(trace.blocks, start, moment)
        before = moment.cleared(trace.blocks, start)
        found = outcome(moment, dloss)
        further = [block.pulled(found.adjoint, own) for block, own in zip(structure.blocks, before, strict=True)]
        after = moment.kept(propagated(structure, moment, before), before)
        return Stepped(found.carry, Influence(after), found.gradient(params, further), found.y)

    def jacobian(self, cell: Cell, params: PyTree, trace: Influence, *, input_size: int | None = None) -> list[Array]:
        """J_t whole, with zeros where nothing is kept.

        Returns:
          For each floating leaf of the parameters, `[*batch, S, *leaf]`: the derivatives of the S numbers of the carry,
          its leaves concatenated. (Complex leaves count as real numbers, real and imaginary part.)
        """
        cell = self._changed(cell)
        structure = self._read(cell, params, *row_shapes(cell, params, input_size))
        blocks = zip(structure.blocks, trace.blocks, reals(params), strict=True)
        whole = [block.whole(own, structure.size) for block, own, _ in blocks]
        return [leaf.reshape(*leaf.shape[:-1], *part.shape) for leaf, part in zip(whole, reals(params), strict=True)]


@dataclasses.dataclass(frozen=True)
class RTRL(Propagated):
    """Real-time recurrent learning: the exact gradient, forwards in time, of any cell.

        J_t = D_t J_{t-1} + I_t          dL_t/dθ = ∂L_t/∂θ + ∂L_t/∂state_{t-1} J_{t-1}

    With S numbers of state and P of parameters, J has S P numbers a row, and a step costs S² P for a dense recurrence.
    Entries that are always zero are neither kept nor computed: a diagonal cell costs as much as its parameters, a layer
    of a stack has none for the layers above.

    References: Williams and Zipser, Neural Computation 1 (1989), 270-280. Diagonal cells: Zucchet et al., 2023
    (arXiv:2305.15947).

    Example: h_3 = w h_2 + x_3 and so on, x = 1, w = 2; each step's loss is h_t: dh_3/dw = h_2 + w h_1 = 5.

      >>> import rnnjax
      >>> cell, rule = rnnjax.Elman(1, activation="linear"), RTRL()
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
      >>> carry, trace = cell.initial_carry(params), rule.init(cell, params)
      >>> step = jax.jit(lambda carry, trace, x: rule.step(cell, params, carry, trace, x, jnp.ones_like))
      >>> for _ in range(3):
      ...     carry, trace, gradient, y = step(carry, trace, jnp.ones(1))
      >>> float(gradient.w_h[0, 0])
      5.0
    """


@dataclasses.dataclass(frozen=True)
class SnAp(Propagated):
    """The sparse n-step approximation of RTRL: of J, only what I_t and n - 1 further steps reach.

        J_t = P_n (D_t J_{t-1} + I_t)

    The pattern P_n is read from the step's equations and holds for all inputs. SnAp(1) is exact for a real diagonal
    cell, SnAp(2) for one whose units all feed each other; in general, from the first n on at which P_n no longer grows.

    Attributes:
      n: 1 or more.

    Reference: Menick et al., Practical real time recurrent learning with a sparse approximation, ICLR 2021
    (arXiv:2006.07232).
    """

    n: int = 1

    def __post_init__(self) -> None:
        check_size("n", self.n)

    @property
    def _steps(self) -> int | None:
        return self.n

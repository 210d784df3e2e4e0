"""The influence of the parameters on the state, J_t = d state_t/dθ, propagated forwards; whole or in part.

    J_t = D_t J_{t-1} + I_t                     real-time recurrent learning (RTRL)
    J_t = P_n (D_t J_{t-1} + I_t)               SnAp-n: only the entries of a fixed pattern P_n

P_n has the entries of J that are reached by I_t and n - 1 further steps, whatever the inputs are.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.cell import Cell, PyTree, check_size
from rnnjax.online.moment import LossGradient, Moment, Stepped, in_rows, outcome, row_shapes
from rnnjax.online.rule import Rule
from rnnjax.online.structure import Block, Structure, structure_of
from rnnjax.online.vectors import flat, merged, reals


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

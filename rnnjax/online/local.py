"""Rules whose trace is local to a unit: the recurrent products carry nothing back, only a unit's own state does.

In the derivatives of such a rule, the product of a recurrent weight with a value that depends on the carry holds that
value fixed. The values of the step are those of the cell, and real-time recurrent learning of the changed step is the
rule. A read-out may send the error back through random weights.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rnnjax._unroll.equations import evaluate, needed_for, traced, value_in
from rnnjax._unroll.recurrent import find_factors
from rnnjax.cell import Cell, PyTree
from rnnjax.online.influence import Propagated
from rnnjax.online.structure import Structure
from rnnjax.online.vectors import flat, reals, unflat
from rnnjax.readout import Readout, ReadoutParams

Feedback = Literal["symmetric", "random"]


@dataclasses.dataclass(frozen=True)
class _Local:
    """A cell with the same values, in whose derivatives the recurrent products hold the carry fixed."""

    cell: Any

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        program, closed_over, result, factors = find_factors(self.cell.step, params, carry, x)

        def held(factor: Any) -> Any:
            weight = factor.equation.inputs.index(factor.weight)
            return lambda *values: factor.equation.run(
                *[each if i == weight else lax.stop_gradient(each) for i, each in enumerate(values)]
            )[0]

        rules = {factor.equation.output: held(factor) for factor in factors if factor.equation.name != "mul"}
        env = dict(zip(program.inputs, jax.tree.leaves((params, carry, x)), strict=True))
        env.update(zip(program.closed_over, closed_over, strict=True))
        evaluate(program.equations, env, rules=rules)
        return jax.tree.structure(result).unflatten([value_in(env, out) for out in program.outputs])

    def __repr__(self) -> str:
        return repr(self.cell)


@dataclasses.dataclass(frozen=True)
class _RandomFeedback:
    """A `Readout` whose error goes back through fixed random weights in the place of W_outᵀ."""

    model: Readout[Any, Any]
    cell: Any
    seed: int

    def initial_carry(self, params: ReadoutParams, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.model.initial_carry(params, batch_shape)

    def step(self, params: ReadoutParams, carry: PyTree, x: Array) -> tuple[PyTree, Array]:
        carry, h = self.cell.step(params.rnn, carry, x)
        drawn = np.random.default_rng(self.seed).normal(size=params.w_out.shape) / np.sqrt(len(params.w_out))
        held = lax.stop_gradient(h)
        y = held @ params.w_out + jnp.broadcast_to(params.b_out, (*h.shape[:-1], *params.b_out.shape))
        return carry, y + (h - held) @ jnp.asarray(drawn, h.dtype)

    def __repr__(self) -> str:
        return repr(self.model)


@dataclasses.dataclass(frozen=True)
class EProp(Propagated):
    """Eligibility propagation: the influence through each unit's own state, without the recurrent products.

        e_t = (∂s_t/∂s_{t-1})_own e_{t-1} + I_t          gradient = ∂L_t/∂s_t e_t

    For an LSTM the unit's own derivative is that of c_t with respect to c_{t-1}, the forget gate; for a GRU, the update
    gate; for a leaky unit, its leak. The gradient is exact if no recurrent product feeds the state. In a stack, errors
    come down through the layers at the same step.

    Attributes:
      feedback: "symmetric": the error comes through the outputs as they are; "random", for a `Readout`: through fixed
        random weights, N(0, 1/H), in the place of W_outᵀ.
      seed: of the random weights.

    Reference: Bellec et al., A solution to the learning dilemma for recurrent networks of spiking neurons, Nature
    Communications 11 (2020), 3625.
    """

    feedback: Feedback = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.feedback not in get_args(Feedback):
            raise ValueError(
                f"feedback is {self.feedback!r}; choose one of {', '.join(map(repr, get_args(Feedback)))}."
            )

    def _changed(self, cell: Cell) -> Cell:
        found: Any = _Local(cell)
        if self.feedback == "random":
            if not isinstance(cell, Readout):
                raise TypeError(
                    f"{self!r} sends the error back through random weights in the place of a read-out's, but {cell!r} "
                    "has none: pass `Readout(cell, K)`, or feedback='symmetric'."
                )
            found = _RandomFeedback(cell, _Local(cell.cell), self.seed)
        return found

    def _check(self, cell: Cell, params: PyTree, carry: PyTree, x: Any, structure: Structure) -> None:
        if not structure.state.any():
            raise TypeError(
                f"without its recurrent products, the step of {cell!r} keeps nothing of its state, so {self!r} has no "
                "trace; use a cell with a leak or a gate, `Immediate`, or `SnAp`."
            )
        if _units_meet(structure.state, _leaf_of(carry)):
            raise TypeError(
                f"in {cell!r} the states of several units feed each other without a recurrent product, so {self!r} has "
                "no state of a unit's own; use `SnAp` or `RTRL`."
            )


@dataclasses.dataclass(frozen=True)
class RFLO(EProp):
    """Random feedback local online learning, for leaky units: only the leak carries the influence on.

        h_t = (1 - α) h_{t-1} + α φ(...)        e_t = (1 - α) e_{t-1} + I_t        gradient = B dL_t/dy_t e_t

    Attributes:
      feedback: "random" as in the paper, for a `Readout`; "symmetric" for any cell.
      seed: of the random weights.

    Reference: Murray, Local online learning in recurrent networks with random feedback, eLife 8 (2019), e43299.
    """

    feedback: Feedback = "random"

    def _check(self, cell: Cell, params: PyTree, carry: PyTree, x: Any, structure: Structure) -> None:
        super()._check(cell, params, carry, x, structure)
        state = jax.eval_shape(lambda carry: flat(carry, 0), carry)

        def pushed(params: PyTree, tangent: Array, state: Array, carry: PyTree, x: Array) -> Array:
            def after(state: Array) -> Array:
                return flat(cell.step(params, unflat(state, carry, 0), x)[0], 0)

            return jax.jvp(after, (state,), (tangent,))[1]

        program, *_ = traced(pushed, params, state, state, carry, x)
        moving = set(program.inputs[len(jax.tree.leaves(params)) + 1 :])
        read = {v for eqn in needed_for(program.outputs, program.equations) for v in eqn.inputs}
        if not moving.isdisjoint(read):
            raise TypeError(
                f"RFLO is for leaky units, h_t = (1 - α) h_(t-1) + ..., but what {cell!r} keeps of its state depends "
                "on its state or input; use `EProp`, which takes gates."
            )


def _leaf_of(carry: PyTree) -> np.ndarray:
    """`[S]`: the leaf of the carry to which each number of the state belongs."""
    sizes = [part.size for part in jax.eval_shape(reals, carry)]
    return np.repeat(np.arange(len(sizes)), sizes)


def _units_meet(pattern: np.ndarray, leaf_of: np.ndarray) -> bool:
    """Whether two numbers of one leaf influence each other, in one step or more, in both directions."""
    reaches = pattern.copy()
    for _ in range(len(pattern).bit_length()):
        reaches |= (reaches.astype("float32") @ reaches.astype("float32")) > 0
    both = reaches & reaches.T & ~np.eye(len(pattern), dtype=bool)
    return bool((both & (leaf_of[:, None] == leaf_of)).any())

"""The scale of the recurrence: one number that multiplies whatever multiplies the carry."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll.noise import dtype_of
from rnnjax._unroll.recurrent import find_factors
from rnnjax.cell import PyTree, held_cells
from rnnjax.wrappers.base import Step, Wrapper


class ScaledParams(NamedTuple):
    """Parameters of a `ScaledRecurrence`.

    Attributes:
      cell: the cell's parameters.
      scale: one number; 1 is the cell itself.
    """

    cell: PyTree
    scale: Array


@dataclasses.dataclass(frozen=True)
class ScaledRecurrence(Wrapper):
    """Multiplies the recurrent weights by a scale: "the scale of W2", for any cell.

        carry_t, y_t = step(s θ_recurrent, θ_other, carry_{t-1}, x_t)

    What is recurrent is read from the step's equations: each parameter that multiplies a value that depends on the
    carry, on its way back to the carry. These are matrices, the vectors of diagonal cells, and each depth of a highway
    cell; where the parameters only determine such a factor, it is the factor itself, such as the eigenvalues of an
    `LRU`, whose moduli are multiplied. `recurrent_weights` lists them.

    In a stack, every layer is scaled.

    A cell whose gates depend on the input alone, or whose constraint forbids a scale, has a `knob` that takes its
    place: the name of what `with_knob(params, scale)` changes. A cell of your own may have one.

    Raises:
      ValueError: nothing multiplies the carry, and the cell has no knob; or it holds a cell with a knob.

    Example: one linear unit, with the lecture's W2 = 2.

      >>> from rnnjax import Elman, unroll
      >>> cell = ScaledRecurrence(Elman(1, "linear"))
      >>> params = cell.init(jax.random.key(0), input_size=1)
      >>> params = params._replace(cell=params.cell._replace(w_h=jnp.ones((1, 1))), scale=jnp.array(2.0))
      >>> carry, _ = unroll(cell, params, jnp.zeros((50, 1)), carry=jnp.ones(1))
      >>> float(carry[0]) == 2.0**50
      True
    """

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> ScaledParams:
        params = self.cell.init(key, input_size, dtype)
        return ScaledParams(params, jnp.ones((), dtype_of(params)))

    def inner(self, params: ScaledParams) -> PyTree:
        return params.cell

    def replaced(self, params: ScaledParams, inner: PyTree) -> ScaledParams:
        return params._replace(cell=inner)

    def around(self, step: Step, params: ScaledParams, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        scale = jnp.asarray(params.scale)
        if knob_of(self.cell):
            return step(self.cell.with_knob(params.cell, scale), carry, x)
        found = find_factors(step, params.cell, carry, x)
        if not found.factors:
            raise ValueError(
                f"no parameter of {self.cell!r} multiplies its carry, so there is no recurrent weight to scale; give "
                "it a `knob`, the name of what its method `with_knob(params, scale)` changes."
            )
        return found.scaled([*jax.tree.leaves((params.cell, carry)), x], scale)


def knob_of(cell: PyTree) -> str:
    """The name of what takes the place of the scale of W2 in a cell, or an empty string.

    Raises:
      ValueError: the cell is not the one with a knob, but holds one that has it.

    Example:

      >>> from rnnjax.cells import MinGRU
      >>> knob_of(MinGRU(4))
      'odds of keeping'
    """
    knob = getattr(cell, "knob", "")
    held = next((each for each in held_cells(cell) if getattr(each, "knob", "")), None)
    if held is not None and not knob:
        raise ValueError(
            f"{cell!r} holds {held!r}, whose {held.knob} would have to be scaled; wrap this cell itself: "
            f"ScaledRecurrence({type(held).__name__}(...))."
        )
    return knob


class RecurrentWeight(NamedTuple):
    """A parameter that determines what multiplies the carry.

    Attributes:
      path: its place in the parameters, such as ".w_h".
      shape: its shape.
      is_factor: whether it multiplies the carry as it is, and not through W - Wᵀ, an exponential or the like.
      by_matrix: whether these are products with a matrix.
    """

    path: str
    shape: tuple[int, ...]
    is_factor: bool
    by_matrix: bool


def recurrent_weights(cell: PyTree, params: PyTree, input_size: int) -> list[RecurrentWeight]:
    """The parameters that multiply a cell's carry, found in its equations.

    Example:

      >>> from rnnjax import GRU
      >>> cell = GRU(4)
      >>> [(w.path, w.shape) for w in recurrent_weights(cell, cell.init(jax.random.key(0), input_size=3), 3)]
      [('.w_h', (4, 12))]
    """
    x = jax.ShapeDtypeStruct((input_size,), dtype_of(params))
    factors = find_factors(cell.step, params, jax.eval_shape(cell.initial_carry, params), x).factors
    return [
        RecurrentWeight(
            jax.tree_util.keystr(path),
            leaf.shape,
            all([f.is_copy for f in own]),
            all([f.equation.name == "dot_general" for f in own]),
        )
        for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(params))
        if (own := [f for f in factors if i in f.leaves])
    ]

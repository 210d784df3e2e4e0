"""Clipping inside the backward pass: the adjoint of the carry is kept short at every step, not the gradient at the end.

    a_{t-1} = ∂L/∂carry_{t-1} + clip(J_t^T a_t)        clip(v) = v min(1, c / ‖v‖)        J_t = ∂carry_t/∂carry_{t-1}

where ∂ is the share that comes straight from the loss, through y_{t-1}. Clipping the gradient of the parameters once it
is there comes too late for one that has overflowed on its way back, and shrinks the near lags for what the far ones had
too much of. Here what a step hands back is never longer than c, however many steps it has come.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from rnnjax._unroll import Composite
from rnnjax.cell import Cell, PyTree
from rnnjax.numerics import normalise


def clip_adjoint(tree: PyTree, max_norm: ArrayLike, batch_ndim: int = 0) -> PyTree:
    """The identity, whose backward pass shortens every row's cotangent v to v min(1, c / ‖v‖).

    The norm is Euclidean, over all floating leaves of a row together; squaring cannot make it under- or overflow.

    Args:
      tree: leaves `[*batch, ...]`.
      max_norm: c, above zero, the same for every row. No gradient flows to it.
      batch_ndim: how many leading axes are batch axes.
    Returns:
      `tree`, bit for bit. JAX refuses to differentiate it in forward mode, in which there is no adjoint to clip; the
      gradient of a gradient goes through the clipping as it was done.

    Example: a cotangent (3, 4) of length 5 comes back with length 1.

      >>> gradient = jax.grad(lambda h: (jnp.array([3.0, 4.0]) * clip_adjoint(h, 1.0)).sum())(jnp.zeros(2))
      >>> [round(float(g), 6) for g in gradient]
      [0.6, 0.8]
    """
    leaves, structure = jax.tree.flatten(tree)
    floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    clipped = _identity(batch_ndim, [jnp.asarray(leaves[i]) for i in floating], jnp.asarray(max_norm))
    for i, leaf in zip(floating, clipped, strict=True):  # pyright: ignore[reportArgumentType]
        leaves[i] = leaf
    return structure.unflatten(leaves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _identity(batch_ndim: int, leaves: list[Array], max_norm: Array) -> list[Array]:
    return leaves


def _forward(batch_ndim: int, leaves: list[Array], max_norm: Array) -> tuple[list[Array], Array]:
    return leaves, max_norm


def _backward(batch_ndim: int, max_norm: Array, cotangents: list[Array]) -> tuple[list[Array], Array]:
    if not cotangents:
        return cotangents, jnp.zeros_like(max_norm)
    widest = max((leaf.dtype for leaf in cotangents), key=lambda dtype: dtype.itemsize)
    dtype = widest if widest.itemsize >= 4 else jnp.dtype(jnp.float32)  # a log in bfloat16 has two digits
    unit, log_norm = normalise([leaf.astype(dtype) for leaf in cotangents], batch_ndim)
    limit = jnp.asarray(max_norm, dtype)
    too_long = log_norm > jnp.log(limit)

    def shorten(leaf: Array, direction: Array) -> Array:
        rows = too_long.reshape(too_long.shape + (1,) * (leaf.ndim - batch_ndim))
        return jnp.where(rows, (limit * direction).astype(leaf.dtype), leaf)

    return [shorten(*both) for both in zip(cotangents, unit, strict=True)], jnp.zeros_like(max_norm)


_identity.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class ClippedAdjoint(Cell):
    """A cell whose adjoint is clipped at every step of the backward pass; its values are those of the cell it holds.

        carry_t, y_t = step(params, carry_{t-1}, x_t)      as ever         a_{t-1} = ∂L/∂carry_{t-1} + clip(J_t^T a_t)

    for each row of a batch on its own, over the whole carry (h and c of an LSTM together). Parameters and carries are
    those of the cell inside, so it can be put on and taken off between two updates. What a step gives to the gradient
    of the parameters, ∂(carry_t, y_t)/∂θ, is not clipped, but follows from adjoints that are.

    Clipping is no linear map, so it cannot leave the loop: `rnnjax.unroll` runs such a cell on the scan engine, and
    `rnnjax.explain` says so. `rnnjax.gradients.adjoint`, which works with directions alone, refuses it;
    `adjoint_by_perturbation` gives the adjoints as they are clipped.

    Attributes:
      cell: any cell with a single step; of a stack, wrap the layers.
      max_norm: c, finite and above zero.

    Example: 2 to the power of 5 stays 1 on its way back.

      >>> import rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
      >>> cell = ClippedAdjoint(rnnjax.Elman(1, activation="linear"), max_norm=1.0)
      >>> jax.grad(lambda h: rnnjax.unroll(cell, params, jnp.ones((5, 1)), carry=h)[1][-1, 0])(jnp.zeros(1)).tolist()
      [1.0]
      >>> rnnjax.explain(cell, params, jnp.ones((5, 1))).layers[0].engine
      'scan'

    Reference: of the kin that clips each element, Graves, Generating sequences with recurrent neural networks (2013),
    section 2.1. Clipping the final gradient is Pascanu, Mikolov and Bengio (2013).
    """

    cell: Cell
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.cell, Composite) or not hasattr(self.cell, "step"):
            raise TypeError(
                f"cell is {self.cell!r}, which has no single carry to clip; wrap each layer: "
                "Stack((ClippedAdjoint(LSTM(64)), ClippedAdjoint(LSTM(64))))."
            )
        number = isinstance(self.max_norm, int | float) and not isinstance(self.max_norm, bool)
        if not (number and math.isfinite(self.max_norm) and self.max_norm > 0):
            raise ValueError(f"max_norm is {self.max_norm!r}; it must be a finite number above zero.")

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree:
        return self.cell.init(key, input_size, dtype)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.cell.step(params, self._clipped(params, carry), x)

    def _clipped(self, params: PyTree, carry: PyTree) -> PyTree:
        one_row = jax.eval_shape(lambda p: self.cell.initial_carry(p, ()), params)
        batch_ndim = jnp.ndim(jax.tree.leaves(carry)[0]) - len(jax.tree.leaves(one_row)[0].shape)
        return clip_adjoint(carry, self.max_norm, batch_ndim)

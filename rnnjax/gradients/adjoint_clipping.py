"""Clipping inside the backward pass: the adjoint of the carry is clipped at every step, not the gradient at the end.

    a_{t-1} = ∂L/∂carry_{t-1} + clip(J_t^T a_t)        clip(v) = v min(1, c / ‖v‖)        J_t = ∂carry_t/∂carry_{t-1}

where ∂ is the direct dependence of the loss, through y_{t-1}. Clipping the final gradient of the parameters is too late
if it has overflowed on the way back, and it shrinks small lags because of large contributions from long lags. Here the
norm that a step passes back is at most c, at any lag.
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
    """The identity, whose backward pass scales every row's cotangent v to v min(1, c / ‖v‖).

    The norm is Euclidean, over all floating leaves of a row together, and neither underflows nor overflows.

    Args:
      tree: leaves `[*batch, ...]`.
      max_norm: c, positive, the same for every row. It receives no gradient.
      batch_ndim: the number of leading batch axes.
    Returns:
      `tree`, bit for bit. Forward-mode differentiation raises, since there is no adjoint to clip. Second derivatives
      differentiate the clipping.

    Example: a cotangent (3, 4) of norm 5 is scaled to norm 1.

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
    dtype = widest if widest.itemsize >= 4 else jnp.dtype(jnp.float32)  # a log in bfloat16 has only two digits
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
    """A cell whose adjoint is clipped at every step of the backward pass; its values are those of the wrapped cell.

        carry_t, y_t = step(params, carry_{t-1}, x_t)      unchanged       a_{t-1} = ∂L/∂carry_{t-1} + clip(J_t^T a_t)

    Each row of a batch is clipped separately, over the whole carry (h and c of an LSTM together). Parameters and
    carries are those of the wrapped cell, so clipping can be switched on and off between updates. A step's contribution
    to the parameter gradient is not clipped itself, but is computed from the clipped adjoints.

    Clipping is not linear, so it cannot leave the loop: `rnnjax.unroll` runs such a cell on the scan engine.
    `rnnjax.gradients.adjoint`, which represents adjoints by directions, raises; `adjoint_by_perturbation` gives the
    clipped adjoints.

    Attributes:
      cell: any cell with a single step; in a stack, wrap the layers.
      max_norm: c, finite and positive.

    Example: the adjoint 2^5 is clipped to 1.

      >>> import rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
      >>> cell = ClippedAdjoint(rnnjax.Elman(1, activation="linear"), max_norm=1.0)
      >>> jax.grad(lambda h: rnnjax.unroll(cell, params, jnp.ones((5, 1)), carry=h)[1][-1, 0])(jnp.zeros(1)).tolist()
      [1.0]
      >>> rnnjax.explain(cell, params, jnp.ones((5, 1))).layers[0].engine
      'scan'

    Reference: Graves, Generating sequences with recurrent neural networks (2013), section 2.1, clips each element in
    the same way. Pascanu, Mikolov and Bengio (2013) clip the final gradient.
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

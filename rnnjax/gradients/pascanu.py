"""Pascanu's Ω: a penalty on steps that change the norm of the gradient on its way back.

    Ω = Σ_t (q_t - 1)²        q_t = ‖J_t^T a_t‖ / ‖a_t‖        a_t = dL/d(carry_t),   J_t = ∂carry_t/∂carry_{t-1}

So J_t should preserve the norm in the direction of the error, but not necessarily in other directions.

The derivative is the paper's "immediate" one: the states and a_t are treated as constants, although they depend on the
parameters. Only the recurrent matmuls in J_t are differentiated. With r = h W the product with the carry, and the gates
the rest of the step,

    J_t^T a = C_t^T a + W^T S_t^T a            C_t = ∂gates/∂carry,   S_t = ∂gates/∂r

where C_t and S_t are constants too. For an Elman cell this is dΩ/dW_h at fixed tanh'(z_t), eq. 10 of the paper.
`through="step"` also fixes the states and a_t, but differentiates J_t with respect to all parameters of the step.

Reference: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, eq. 9, 10.
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._unroll import Composite
from rnnjax.cell import Cell, PyTree, over_time, space_of
from rnnjax.gradients.adjoint import trajectory_and_adjoint
from rnnjax.gradients.sequence import Loss, check_no_clipping, in_input_order, only_known, prepare
from rnnjax.gradients.stages import Stages, linear_product

Through = Literal["mix", "step"]
"""Which part of J_t is differentiated; see above."""


class NormRatios(NamedTuple):
    """The factor by which each step changes the norm of the adjoint.

    Attributes:
      ratio: `[T, *batch]`, q_t = ‖J_t^T a_t‖ / ‖a_t‖; 1 where it does not count; NaN where a_t is NaN (see `Adjoint`).
      counts: `[T, *batch]` booleans: False at masked steps, at resets, which pass no gradient, and where a_t is zero or
        below the floor, for example after the last step that the loss depends on.
    """

    ratio: Array
    counts: Array


@over_time
def omega(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    loss: Loss,
    *,
    carry: PyTree | None = None,
    through: Through = "mix",
    average: bool = False,
    floor: float = 0.0,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
) -> Array:
    """Ω = Σ_t (q_t - 1)², averaged over rows; add it to the loss with a weight, and differentiate.

    Only J_t is differentiated: `carry`, `xs` and the parameters of a readout inside `loss` receive no gradient. It
    costs about as much as the loss and its gradient.

    Args:
      cell, params, xs, loss, carry, lengths, mask, resets, reverse: as in `rnnjax.gradients.adjoint`.
      through: "mix" differentiates the recurrent matmul at fixed gate derivatives, as in the paper; "step"
        differentiates J_t with respect to all parameters, at fixed states and adjoints. The value is the same.
      average: take the mean over all counted steps of all rows instead of Σ_t. The authors' code does this, and its
        weights (4 for temporal order) are for this version.
      floor: steps where ‖a_t‖ is below it do not count; in units of the loss's gradient. (The authors' code uses 1e-10;
        here, even tiny adjoints have a direction.)
    Returns:
      A non-negative scalar; NaN if the adjoint is, for example because the trajectory is not finite.
    Raises:
      TypeError, ValueError: as `rnnjax.gradients.adjoint`; also if `through` is unknown, or "mix" and the cell has no
        separate matmul with the carry.

    Example: h_t = w h_{t-1} over three steps; q_t = |w| = ½ each, so Ω = 3/4 and dΩ/dw = 3 · 2 (w - 1) = -3.

      >>> import rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[0.5]]), b=jnp.zeros(1))
      >>> cell = rnnjax.Elman(1, activation="linear")
      >>> price = lambda p: omega(cell, p, jnp.ones((3, 1)), lambda ys: ys[-1, 0])
      >>> float(price(params)), float(jax.grad(price)(params).w_h[0, 0])
      (0.75, -3.0)
    """
    ratio, counts = norm_ratios(
        cell, params, xs, loss, carry=carry,
        through=through, floor=floor, lengths=lengths, mask=mask, resets=resets, reverse=reverse,
    )  # fmt: skip
    prices = jnp.where(counts, (ratio - 1) ** 2, jnp.zeros_like(ratio))
    if average:
        return prices.sum() / jnp.maximum(counts.sum(), 1).astype(prices.dtype)
    return prices.sum() / max(math.prod(prices.shape[1:]), 1)


@over_time
def norm_ratios(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    loss: Loss,
    *,
    carry: PyTree | None = None,
    through: Through = "mix",
    floor: float = 0.0,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
) -> NormRatios:
    """q_t = ‖J_t^T a_t‖ / ‖a_t‖ at every step, differentiable like `omega`; use it for your own penalties.

    Args:
      As for `omega`.
    Returns:
      `NormRatios`, in input order.

    Example: with squared norms, as in the authors' code.

      >>> import rnnjax
      >>> cell = rnnjax.Elman(8, w_h=rnnjax.initializers.Normal())
      >>> params = cell.init(jax.random.key(0), 2)
      >>> ratio, counts = norm_ratios(cell, params, jnp.ones((5, 3, 2)), lambda ys: ys[-1].sum())
      >>> price = (ratio**2 - 1) ** 2
      >>> price.shape, bool(counts.all())
      ((5, 3), True)
    """
    _check(cell, params, xs, through, floor)
    fixed = lax.stop_gradient(params)
    sequence = prepare(
        cell, fixed, lax.stop_gradient(carry), lax.stop_gradient(xs), loss, lengths, mask, resets, reverse
    )
    carries, found = lax.stop_gradient(trajectory_and_adjoint(cell, fixed, sequence))
    arriving = jax.tree.map(lambda leaf: leaf[1:], found.direction)
    inputs = sequence.inputs

    ndim = 1 + len(sequence.batch_shape)
    stages = Stages(cell, fixed, carries, inputs.x, ndim) if through == "mix" else None

    def pulled(carry: PyTree, x: Array, direction: PyTree) -> PyTree:
        return jax.vjp(lambda c: cell.step(params, c, x)[0], carry)[1](direction)[0]

    if stages is None:
        back = jax.vmap(pulled)(carries, inputs.x, arriving)
    else:
        back = _through_weights(stages, params, carries, inputs.x, arriving, ndim)
    ratio = only_known(_norm(back, ndim), ~jnp.isnan(found.log_norm[1:]))
    # written so that NaN counts and becomes visible
    counts = ~(found.log_norm[1:] <= (-jnp.inf if floor == 0 else math.log(floor)))
    if inputs.counts is not None:
        counts &= inputs.counts
    if inputs.resets is not None:
        counts &= ~inputs.resets
    ratio = jnp.where(counts, ratio, jnp.ones_like(ratio))
    return NormRatios(*in_input_order((ratio, counts), reverse))


def _through_weights(stages: Stages, params: PyTree, carries: PyTree, xs: Array, directions: PyTree, ndim: int):
    """J^T δ of every step as a function of the recurrent weights only, with constant gate derivatives."""
    weights = stages.weights(params)

    def one(weights: list[list[Array]], carry: list[Array], x: Array, direction: list[Array]) -> list[Array]:
        rs = stages.run(carry, x)[2]
        _, gates = jax.linearize(lambda carry, rs: stages.run(carry, x, rs)[:2], carry, rs)

        def tangent(dcarry: list[Array]) -> list[Array]:
            drs = [jnp.zeros_like(r) for r in rs]
            for i, product in enumerate(stages.products):
                drs[i] = linear_product(product, gates(dcarry, drs)[1][i], weights[i])
            return gates(dcarry, drs)[0]

        return jax.linear_transpose(tangent, carry)(direction)[0]

    many = one
    for _ in range(ndim):
        many = jax.vmap(many, in_axes=(None, 0, 0, 0))
    leaves, tree = jax.tree.flatten(carries)
    return tree.unflatten(many(weights, leaves, xs, jax.tree.leaves(directions)))


def _norm(tree: PyTree, batch_ndim: int) -> Array:
    """The Euclidean norm over all leaves of a row; its gradient at zero is zero, as needed for a dead ReLU."""
    squares = sum((leaf * leaf).sum(axis=tuple(range(batch_ndim, leaf.ndim))) for leaf in jax.tree.leaves(tree))
    zero = squares == 0
    return jnp.where(zero, jnp.zeros_like(squares), jnp.sqrt(jnp.where(zero, jnp.ones_like(squares), squares)))


def _check(cell: Any, params: PyTree, xs: ArrayLike, through: Any, floor: Any) -> None:
    check_no_clipping(cell)
    if through not in get_args(Through):
        raise ValueError(f"through is {through!r}; choose one of {', '.join(map(repr, get_args(Through)))}.")
    if not (isinstance(floor, int | float) and math.isfinite(floor) and floor >= 0):
        raise ValueError(f"floor is {floor!r}; it must be a finite, non-negative number.")
    if through == "mix" and not _multiplies_its_carry(cell, params, xs):
        raise ValueError(
            f"through is 'mix', but {cell!r} has no matmul with the carry that is separate from the rest of its step; "
            "use through='step', which differentiates the whole step."
        )


def _multiplies_its_carry(cell: Any, params: PyTree, xs: ArrayLike) -> bool:
    if isinstance(cell, Composite) or not hasattr(cell, "step"):
        return False
    x = jnp.zeros(jnp.shape(xs)[-1 - len(space_of(cell)) :], jnp.result_type(xs))
    try:
        return bool(Stages(cell, params, cell.initial_carry(params), x, 0).products)
    except TypeError:
        return False

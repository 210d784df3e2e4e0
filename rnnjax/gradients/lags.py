"""The gradient of shared parameters, split by the lag between the use of a weight and the output.

    dL/dθ = Σ_k c_k,      c_k = Σ_s (∂L/∂y_s) (∂y_s/∂θ_{s-k})

with θ_t the copy of the parameters at step t. Truncated backpropagation with a window of K steps before each output
computes c_0 + ... + c_{K-1}. Each c_k is stored as a direction and the log of its norm.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import StepInput, timed_step
from rnnjax.cell import Cell, PyTree, over_time
from rnnjax.gradients.sequence import (
    AccurateCell,
    Loss,
    Reads,
    any_reads,
    as_cell,
    finite_steps,
    gradient_of_outputs,
    inexact,
    only_known,
    prepare,
    pullback_reads,
)
from rnnjax.numerics import normalise


class LagAttribution(NamedTuple):
    """dL/dθ by lag, k = 0 .. K - 1.

    Attributes:
      log_norm: the parameters' tree, leaves `[K]`: log ‖c_k‖ for each parameter, in nats; -inf where it is zero.
      direction: the parameters' tree, leaves `[K, ...]`: c_k = exp(log_norm) direction.
      finite_steps: `[*batch]` integers, as in `Adjoint`. If it is less than T in any row, all lags are NaN for
        parameters whose derivative depends on carries or inputs.
    """

    log_norm: PyTree
    direction: PyTree
    finite_steps: Array


@over_time
def attribution_by_lag(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    loss: Loss,
    *,
    carry: PyTree | None = None,
    lags: int | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
) -> LagAttribution:
    """The gradient of a loss with respect to the parameters, split by the number of steps from their use to an output.

    The adjoints of all T outputs are propagated back together, one step per lag, so K lags cost about K backward
    passes.

    Args:
      As for `rnnjax.gradients.adjoint`, and
      lags: K; all T lags by default.
    Returns:
      A `LagAttribution`. With K = T, the contributions sum to dL/dθ, except for the direct contribution of a learned
      initial carry.
    Raises:
      As `rnnjax.gradients.adjoint`; also ValueError if `lags` is not in 1 .. T.

    Example: h_3 = w h_2 + x_3 and so on, x = 1, w = 2: dh_3/dw = h_2 + w h_1 + w² h_0 = 3 + 2 + 0.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
      >>> cell = rnnjax.Elman(1, activation="linear")
      >>> by_lag = attribution_by_lag(cell, params, jnp.ones((3, 1)), lambda ys: ys[-1, 0])
      >>> jnp.exp(by_lag.log_norm.w_h).round(4).tolist()
      [3.0, 2.0, 0.0]
    """
    sequence = prepare(cell, params, carry, xs, loss, lengths, mask, resets, reverse)
    steps = sequence.inputs.x.shape[0]
    lags = steps if lags is None else lags
    if isinstance(lags, bool) or not isinstance(lags, int) or not 1 <= lags <= steps:
        raise ValueError(f"`lags` is {lags!r}, but `xs` has {steps} steps: give 1 <= lags <= {steps}.")

    def step(params: PyTree, carry: PyTree, inputs: StepInput):
        return timed_step(as_cell(AccurateCell(cell)), params, sequence.batch_shape)(carry, inputs)

    def forward(carry: PyTree, inputs: StepInput):
        new_carry, y = step(params, carry, inputs)
        return new_carry, (carry, y)

    last, (carries, ys) = lax.scan(forward, sequence.carry, sequence.inputs)
    dys = gradient_of_outputs(sequence.loss, ys)
    all_steps = jax.vmap(step, in_axes=(None, 0, 0))

    def followed(params: PyTree, carries: PyTree) -> tuple[PyTree, list[Array]]:
        new_carries, ys = all_steps(params, carries, sequence.inputs)
        return new_carries, inexact(ys)

    _, pullback = jax.vjp(followed, params, carries)
    no_carries, no_ys = jax.tree.map(jnp.zeros_like, (carries, dys))

    def earlier(vectors: PyTree, log_norm: Array) -> tuple[PyTree, Array]:
        """Propagates each adjoint back by one step; row t has the adjoint after step t."""
        vectors, growth = normalise(vectors, 1)
        moved = jax.tree.map(lambda leaf: jnp.concatenate([leaf[1:], jnp.zeros_like(leaf[:1])]), vectors)
        log_norm = jnp.concatenate([(log_norm + growth)[1:], jnp.full_like(log_norm[:1], -jnp.inf)])
        return moved, log_norm

    def summed(pulled: PyTree, reference: Array):
        parts = jax.tree.map(lambda leaf: normalise(leaf, 0), pulled)
        outer = jax.tree.structure(pulled)
        direction, log_norm = jax.tree.transpose(outer, jax.tree.structure((0, 0)), parts)
        return jax.tree.map(lambda each: each + reference, log_norm), direction

    def one_lag(state: tuple[PyTree, Array], _: None):
        vectors, log_norm = state
        largest = log_norm.max()
        reference = jnp.where(largest == -jnp.inf, 0, largest)
        weights = jnp.exp(log_norm - reference)
        weighted = jax.tree.map(lambda leaf: leaf * weights.reshape(-1, *(1,) * (leaf.ndim - 1)), vectors)
        c_k = summed(pullback((weighted, no_ys))[0], reference)
        return earlier(pullback((vectors, no_ys))[1], log_norm), c_k

    first_dparams, first_dcarries = pullback((no_carries, dys))
    first = summed(first_dparams, jnp.zeros((), jnp.result_type(jax.tree.leaves(carries)[0])))
    start = earlier(first_dcarries, jnp.zeros(steps, jnp.result_type(jax.tree.leaves(carries)[0])))
    _, rest = lax.scan(one_lag, start, None, length=lags - 1)
    log_norm, direction = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)

    finite = finite_steps(sequence, carries, last, inexact(ys))
    of_carry, of_params = pullback_reads(cell, params, sequence.inputs, sequence.carry, inexact)

    def known(leaf: Array, reads: Reads) -> Array:
        flags = finite.known(any_reads([reads, of_carry]))
        return only_known(leaf, None if flags is None else jnp.broadcast_to(flags.all(), leaf.shape[:1]))

    log_norm, direction = (jax.tree.map(known, tree, of_params) for tree in (log_norm, direction))
    return LagAttribution(log_norm, direction, finite.count)

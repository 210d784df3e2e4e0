"""Online learning of a stream: an update every step, or every k steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import checked_xs, make_masks
from rnnjax.cell import Cell, PyTree, batch_shape_of, check_size
from rnnjax.online.rule import Rule

Loss = Callable[[Any, Any], Array]
"""`loss(y_t, target_t)`: a scalar, the sum or mean over rows; y_t is zero in masked rows."""


class Learned(NamedTuple):
    """Everything that a further call of `fit` starts from, and the losses.

    Attributes:
      params, opt_state, carry, trace: after the last step.
      losses: `[T]`, before each update.
    """

    params: PyTree
    opt_state: PyTree
    carry: PyTree
    trace: PyTree
    losses: Array


def fit(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    targets: PyTree,
    loss: Loss,
    rule: Rule,
    optimizer: Any,
    *,
    every: int = 1,
    carry: PyTree | None = None,
    trace: PyTree | None = None,
    opt_state: PyTree | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    key: Array | None = None,
) -> Learned:
    """Learns from a stream with a rule: θ moves while the sequence runs, in memory that does not grow with T.

    Every k steps, the sum of the last k gradients goes to the optimizer. The trace is not corrected for the change of
    θ, as is usual.

    Args:
      cell, params: as in `Rule.init`.
      xs: `[T, *batch, D]`.
      targets: leaves `[T, ...]`, one target for each step.
      loss: `loss(y_t, target_t)`.
      rule: such as `RTRL()`.
      optimizer: anything with `init(params)` and `update(gradient, state, params) -> (updates, state)`, such as
        `optax.adam(1e-3)`; the updates are added.
      every: k, the steps per update; it divides T.
      carry, trace, opt_state: of the call before, to continue its stream.
      mask, resets: `[T, *batch]` booleans, as in `rnnjax.unroll`.
      key: for rules that draw random numbers.
    Returns:
      A `Learned`.
    Raises:
      TypeError, ValueError: as `Rule.step`; or `every` does not divide T.

    Example: a leaky unit learns to give half of its input, by gradient descent.

      >>> import rnnjax, typing
      >>> class Descent(typing.NamedTuple):
      ...     rate: float
      ...     def init(self, params): return ()
      ...     def update(self, updates, state, params): return jax.tree.map(lambda g: -self.rate * g, updates), state
      >>> cell = rnnjax.Readout(rnnjax.Elman(4), 1)
      >>> params = cell.init(jax.random.key(0), input_size=1)
      >>> xs = jax.random.normal(jax.random.key(1), (500, 8, 1))
      >>> from rnnjax.online import RTRL
      >>> learned = fit(cell, params, xs, xs / 2, lambda y, target: ((y - target) ** 2).mean(), RTRL(), Descent(0.1))
      >>> bool(learned.losses[-50:].mean() < 0.1 * learned.losses[:50].mean())
      True
    """
    xs = checked_xs(xs, cell)
    check_size("every", every)
    if xs.shape[0] % every:
        raise ValueError(f"`every` is {every}, but `xs` has {xs.shape[0]} steps; `every` must divide them.")
    batch_shape = batch_shape_of(cell, xs)
    masks = make_masks(xs, None, mask, resets, False, batch_shape)
    carry = cell.initial_carry(params, batch_shape) if carry is None else carry
    trace = rule.init(cell, params, batch_shape, input_size=xs.shape[-1]) if trace is None else trace
    opt_state = optimizer.init(params) if opt_state is None else opt_state
    keys = None if key is None else jax.random.split(key, xs.shape[0])

    def step(state: Any, now: Any) -> tuple[Any, Array]:
        params, opt_state, carry, trace, summed, t = state
        x, target, counts, resets, key = now
        found = rule.step(
            cell, params, carry, trace, x, jax.grad(lambda y: loss(y, target)), mask=counts, resets=resets, key=key
        )
        summed = jax.tree.map(jnp.add, summed, found.gradient)

        def moved() -> tuple[PyTree, PyTree, PyTree]:
            updates, new_state = optimizer.update(summed, opt_state, params)
            new_params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)
            return new_params, new_state, jax.tree.map(jnp.zeros_like, summed)

        params, opt_state, summed = (
            moved() if every == 1 else lax.cond((t + 1) % every == 0, moved, lambda: (params, opt_state, summed))
        )
        return (params, opt_state, found.carry, found.trace, summed, t + 1), loss(found.y, target)

    zeros = jax.tree.map(jnp.zeros_like, params)
    start = params, opt_state, carry, trace, zeros, jnp.zeros((), "int32")
    inputs = xs, targets, masks.counts, masks.resets, keys
    (params, opt_state, carry, trace, *_), losses = lax.scan(step, start, inputs)
    return Learned(params, opt_state, carry, trace, losses)

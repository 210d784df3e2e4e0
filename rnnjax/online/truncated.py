"""Truncated backpropagation: the gradient of each step's loss through the last k steps, or its own step only."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.arguments import StepInput, timed_step
from rnnjax.cell import Cell, PyTree, check_size
from rnnjax.online.moment import LossGradient, Moment, Stepped, cotangent, floating, from_start, outcome, row_shapes
from rnnjax.online.rule import Rule
from rnnjax.online.vectors import gradient_like, merged, reals


@dataclasses.dataclass(frozen=True)
class Immediate(Rule):
    """The derivative of each step alone, with the state before it held fixed: no trace, the cheapest rule.

    It equals `TBPTT(1)`, except that a learned initial carry gets a gradient only at resets.

    Reference: said to match RTRL with RMSprop: arXiv:2603.28750 (2026).
    """

    def _start(self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...], input_size: int | None) -> tuple[()]:
        return ()

    def _advance(self, moment: Moment, trace: tuple[()], dloss: LossGradient, key: Array | None) -> Stepped:
        found = outcome(moment, dloss)
        return Stepped(found.carry, trace, found.gradient(moment.params), found.y)


class Window(NamedTuple):
    """The trace of `TBPTT`: the last k - 1 steps, oldest first.

    Attributes:
      carries: before each of them, leaves `[k - 1, *batch, ...]`.
      xs: `[k - 1, *batch, D]`.
      counts, resets: `[k - 1, *batch]` booleans.
      steps: how many steps there were, at most k.
    """

    carries: PyTree
    xs: Array
    counts: Array
    resets: Array
    steps: Array


@dataclasses.dataclass(frozen=True)
class TBPTT(Rule):
    """Truncated backpropagation, sliding: of each step's loss through the last k steps, its own among them.

    The trace keeps the carries and inputs of k - 1 steps; masked steps count. `Immediate` is the case k = 1.

    Attributes:
      k: 1 or more.

    Reference: Williams and Peng, Neural Computation 2 (1990), 490-501.

    Example: h_t = w h_{t-1} + x_t, x = 1, w = 2: through 2 steps dh_3/dw = h_2 + w h_1 = 5, through 1 only h_2.

      >>> import rnnjax
      >>> cell = rnnjax.Elman(1, activation="linear")
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
      >>> def last_gradient(rule):
      ...     carry, trace = cell.initial_carry(params), rule.init(cell, params, input_size=1)
      ...     for _ in range(3):
      ...         carry, trace, gradient, y = rule.step(cell, params, carry, trace, jnp.ones(1), jnp.ones_like)
      ...     return float(gradient.w_h[0, 0])
      >>> last_gradient(TBPTT(2)), last_gradient(TBPTT(1)), last_gradient(Immediate())
      (5.0, 3.0, 3.0)
    """

    k: int

    def __post_init__(self) -> None:
        check_size("k", self.k)

    def _start(self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...], input_size: int | None) -> Window:
        _, x = row_shapes(cell, params, input_size)
        carry = jax.eval_shape(lambda params: cell.initial_carry(params, batch_shape), params)

        def empty(shape: tuple[int, ...], dtype: Any) -> Array:
            return jnp.zeros((self.k - 1, *shape), dtype)

        return Window(
            jax.tree.map(lambda leaf: empty(leaf.shape, leaf.dtype), carry),
            empty((*batch_shape, *x.shape), x.dtype),
            empty(batch_shape, bool),
            empty(batch_shape, bool),
            jnp.zeros((), "int32"),
        )

    def _advance(self, moment: Moment, trace: Window, dloss: LossGradient, key: Array | None) -> Stepped:
        cell, params, carry, inputs, batch_shape = moment
        counts = jnp.ones(batch_shape, bool) if inputs.counts is None else inputs.counts
        flags = jnp.zeros(batch_shape, bool) if inputs.resets is None else inputs.resets
        given = carry, inputs.x, counts, flags
        window = Window(
            *jax.tree.map(_followed_by, tuple(trace[:4]), given), steps=jnp.minimum(trace.steps + 1, self.k)
        )
        # Before the first step there is nothing: masked steps that hold its carry.
        window = window._replace(
            carries=jax.tree.map(lambda kept, now: jnp.where(trace.steps == 0, now, kept), window.carries, carry)
        )
        oldest = jax.tree.map(lambda leaf: leaf[0], window.carries)

        def run(thetas: list[Array]) -> tuple[list[Array], tuple[PyTree, PyTree]]:
            given = merged(thetas, params)
            step = timed_step(cell, given, batch_shape)
            start = from_start(cell, given, oldest, jnp.broadcast_to(trace.steps < self.k, batch_shape), batch_shape)
            past = StepInput(*[leaf[:-1] for leaf in window[1:4]])
            before, _ = lax.scan(lambda carry, now: (step(carry, now)[0], None), start, past)
            after, y = step(before, inputs)
            return floating(y), (after, y)

        _, pull, (after, y) = jax.vjp(run, reals(params), has_aux=True)
        (gradient,) = pull(cotangent(dloss, y))
        kept = jax.tree.map(lambda leaf: leaf[1:], tuple(window[:4]))
        return Stepped(after, Window(*kept, steps=window.steps), gradient_like(gradient, params), y)


def _followed_by(past: Array, now: Array) -> Array:
    return jnp.concatenate([past, now[None].astype(past.dtype)])

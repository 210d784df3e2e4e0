"""Decoupled neural interfaces: a small model predicts what the future's losses will send back."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.arguments import timed_step
from rnnjax.cell import Cell, PyTree
from rnnjax.online.moment import LossGradient, Moment, Stepped, cotangent, floating, from_start
from rnnjax.online.rule import Rule
from rnnjax.online.vectors import flat, gradient_like, merged, reals, unflat


class Synthesizer(NamedTuple):
    """The trace of `DNI`: g(s) = s A + b predicts ∂(L_{t+1} + L_{t+2} + ...)/∂s_t.

    Attributes:
      a: `[S, S]`.
      b: `[S]`.
      fresh: `[*batch]` booleans, rows whose carry is the initial one.
    """

    a: Array
    b: Array
    fresh: Array


@dataclasses.dataclass(frozen=True)
class DNI(Rule):
    """Decoupled neural interfaces: one step of backpropagation, and a linear prediction of the adjoint after it.

        gradient_t = ∂L_t/∂θ + g(s_t) ∂s_t/∂θ        g(s_{t-1}) is moved towards ∂L_t/∂s_{t-1} + g(s_t) ∂s_t/∂s_{t-1}

    The gradient of step t holds the predicted share of θ at step t in all later losses, not only that of L_t. With the
    true adjoint as prediction, the sum over time is backpropagation's; with zero, it is that of `Immediate`.

    Attributes:
      learning_rate: of the prediction, by gradient descent on half the squared error, the mean over rows.

    References: Jaderberg et al., Decoupled neural interfaces using synthetic gradients, ICML 2017 (arXiv:1608.05343);
    a linear one for recurrent networks: Marschall, Cho and Savin, A unified framework of online learning algorithms,
    JMLR 21 (2020), 135 (arXiv:1907.02649).
    """

    learning_rate: float = 0.01

    def _start(self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...], input_size: int | None) -> Synthesizer:
        state = jax.eval_shape(lambda: flat(cell.initial_carry(params), 0))
        square = (*state.shape, *state.shape)
        return Synthesizer(jnp.zeros(square, state.dtype), jnp.zeros_like(state), jnp.ones(batch_shape, bool))

    def _advance(self, moment: Moment, trace: Synthesizer, dloss: LossGradient, key: Array | None) -> Stepped:
        fresh, ndim, state = moment.fresh(trace.fresh), moment.batch_ndim, moment.state

        def run(thetas: list[Array], state: Array):
            params = merged(thetas, moment.params)
            carry = from_start(moment.cell, params, unflat(state, moment.carry, ndim), fresh, moment.batch_shape)
            inputs = moment.inputs._replace(resets=None)
            after, y = timed_step(moment.cell, params, moment.batch_shape)(carry, inputs)
            return (floating(y), flat(after, ndim)), (after, y)

        (_, after), pull, (carry, y) = jax.vjp(run, reals(moment.params), state, has_aux=True)
        future = moment.kept(_predicted(trace, after), jnp.zeros_like(after))
        gradient, target = pull((cotangent(dloss, y), future))
        error = moment.kept(_predicted(trace, state) - target, jnp.zeros_like(state))
        rate = moment.per_row(self.learning_rate, error.dtype)
        moved = trace._replace(
            a=trace.a - rate * jnp.tensordot(state, error, axes=(tuple(range(ndim)), tuple(range(ndim)))),
            b=trace.b - rate * error.sum(tuple(range(ndim))),
            fresh=moment.kept(jnp.zeros_like(fresh), fresh),
        )
        return Stepped(carry, moved, gradient_like(gradient, moment.params), y)


def _predicted(trace: Synthesizer, state: Array) -> Array:
    return state @ trace.a + jnp.broadcast_to(trace.b, state.shape)

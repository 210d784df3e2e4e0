"""Kernel RNN learning: a learned kernel, exponential in the lag, in the place of the influence of past states."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.cell import Cell, PyTree
from rnnjax.online.influence import at_start, check_trace, immediate
from rnnjax.online.moment import LossGradient, Moment, Stepped, in_rows, outcome, row_shapes
from rnnjax.online.rule import Rule, need_key
from rnnjax.online.structure import Block, structure_of
from rnnjax.online.vectors import flat, reals


class Kernel(NamedTuple):
    """The trace of `KeRNL`.

    Attributes:
      beta: `[S, S]`, β.
      gamma: `[S]`, the rates γ, per step.
      blocks: the eligibilities e, for each floating parameter `[*batch, K, N]`, as in `Influence`.
      perturbed: `[*batch, S]`, the state of the perturbed network.
      omega: `[*batch, S]`, the filtered perturbations.
      slope: `[*batch, S]`, their derivative with respect to γ.
      started: `[*batch]` booleans, whether the perturbed network runs; else it starts from the carry.
    """

    beta: Array
    gamma: Array
    blocks: list[Array]
    perturbed: Array
    omega: Array
    slope: Array
    started: Array


@dataclasses.dataclass(frozen=True)
class KeRNL(Rule):
    """Kernel RNN learning: ∂s_t/∂s_τ is taken to be β exp(-γ (t - τ)), with β and γ learned from perturbations.

        e_t = exp(-γ) e_{t-1} + I_t                      J_t ≈ β e_t
        ω_t = exp(-γ) ω_{t-1} + ξ_t                      of the noise ξ in a second, perturbed network
        β, γ: gradient descent on |ŝ_t - s_t - β ω_t|² / (2 noise²), the mean over rows

    β starts as the identity. The derivatives of the step itself are exact; the kernel stands for the steps before it.

    Attributes:
      learning_rate: of β and γ.
      noise: the standard deviation of ξ.
      rate: the first γ, per step.

    Reference: Roth, Kanitscheider and Fiete, Kernel RNN learning (KeRNL), ICLR 2019.
    """

    learning_rate: float = 0.01
    noise: float = 0.01
    rate: float = 0.5

    @property
    def random(self) -> bool:
        return True

    def _start(self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...], input_size: int | None) -> Kernel:
        carry, x = row_shapes(cell, params, input_size)
        structure, state = structure_of(cell, params, carry, x, 1), jax.eval_shape(lambda c: flat(c, 0), carry)
        zeros = in_rows(jnp.zeros(state.shape, state.dtype), batch_shape)
        return Kernel(
            beta=jnp.eye(*state.shape, dtype=state.dtype),
            gamma=jnp.full(state.shape, self.rate, state.dtype),
            blocks=in_rows(at_start(structure, cell, params), batch_shape),
            perturbed=zeros,
            omega=zeros,
            slope=zeros,
            started=jnp.zeros(batch_shape, bool),
        )

    def _advance(self, moment: Moment, trace: Kernel, dloss: LossGradient, key: Array | None) -> Stepped:
        structure = structure_of(moment.cell, moment.params, *moment.row_shapes(), 1)
        beta, gamma, start = trace.beta, trace.gamma, at_start(structure, moment.cell, moment.params)
        check_trace(trace.blocks, start, moment)
        state = moment.state
        nothing = jnp.zeros(state.shape[-1:], state.dtype)
        none = start, nothing, nothing, nothing, jnp.zeros((), bool)
        blocks, perturbed, omega, slope, started = moment.cleared(tuple(trace[2:]), none)
        perturbed = jnp.where(started[..., None], perturbed, state)
        found = outcome(moment, dloss)
        further = [block.pulled(found.adjoint @ beta, own) for block, own in zip(structure.blocks, blocks, strict=True)]
        thetas, keep = reals(moment.params), jnp.exp(-gamma)

        def row(after: Callable[..., Array], state: Array, perturbed: Array, blocks: list[Array]):
            now = immediate(structure, after, thetas, state)
            kept = [_of_rows(keep, block) * own for block, own in zip(structure.blocks, blocks, strict=True)]
            return after(thetas, state), after(thetas, perturbed), [a + b for a, b in zip(kept, now, strict=True)]

        after, pushed, new_blocks = moment.over_rows(row, perturbed, blocks)
        xi = self.noise * jax.random.normal(need_key(self, key), state.shape, state.dtype)
        decay = jnp.broadcast_to(keep, state.shape)
        new = new_blocks, pushed + xi, decay * omega + xi, decay * (slope - omega), jnp.ones_like(started)
        _, new_perturbed, new_omega, new_slope, _ = new
        error = moment.kept(new_perturbed - after - new_omega @ beta.T, jnp.zeros_like(state))
        rate = moment.per_row(self.learning_rate / self.noise**2, error.dtype)
        batch = tuple(range(moment.batch_ndim))
        beta = beta + rate * jnp.tensordot(error, new_omega, axes=(batch, batch))
        gamma = jnp.maximum(gamma + rate * ((error @ trace.beta) * new_slope).sum(batch), jnp.zeros_like(gamma))
        trace = Kernel(beta, gamma, *moment.kept(new, (blocks, perturbed, omega, slope, started)))
        return Stepped(found.carry, trace, found.gradient(moment.params, further), found.y)


def _of_rows(values: Array, block: Block) -> Array:
    """`[K, N]` or `[K, 1]`: for each entry of the block the value of its number of the state."""
    return values[block.rows] if block.scattered else values[block.rows][:, None]

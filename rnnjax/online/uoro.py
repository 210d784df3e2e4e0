"""Unbiased online recurrent optimization: the influence matrix as one random product, right on average."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.cell import Cell, PyTree
from rnnjax.online.moment import LossGradient, Moment, Stepped, derivative_of, in_rows, outcome
from rnnjax.online.rule import Rule, need_key
from rnnjax.online.vectors import flat, merged, reals


class RankOne(NamedTuple):
    """The trace of `UORO`: J_t ≈ state ⊗ params on average.

    Attributes:
      state: `[*batch, S]`.
      params: for each floating parameter, `[*batch, *leaf]`.
      fresh: `[*batch]` booleans, rows whose carry is the initial one.
    """

    state: Array
    params: list[Array]
    fresh: Array


@dataclasses.dataclass(frozen=True)
class UORO(Rule):
    """Unbiased online recurrent optimization: J_t is estimated by one outer product, at the cost of a backward pass.

        s_t = ρ0 D_t s_{t-1} + ρ1 ν        w_t = w_{t-1} / ρ0 + νᵀ I_t / ρ1        E[s_t ⊗ w_t] = J_t

    with random signs ν for the S numbers of the state, and ρ0, ρ1 that give both sides one norm. The mean of the
    gradient is exact; its variance grows with S.

    `step` takes a `key`, or the signs themselves, `[*batch, S]` of 1.0 and -1.0.

    Reference: Tallec and Ollivier, Unbiased online recurrent optimization, ICLR 2018 (arXiv:1702.05043).

    Example:

      >>> import rnnjax
      >>> cell, rule = rnnjax.GRU(4), UORO()
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, trace = cell.initial_carry(params, (2,)), rule.init(cell, params, (2,))
      >>> def step(x, key):
      ...     return rule.step(cell, params, carry, trace, x, jnp.ones_like, key=key)
      >>> found = jax.jit(step)(jnp.ones((2, 3)), jax.random.key(1))
      >>> found.gradient.w_h.shape, found.trace.state.shape
      ((4, 12), (2, 4))
    """

    @property
    def random(self) -> bool:
        return True

    def _start(self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...], input_size: int | None) -> RankOne:
        state = jax.eval_shape(lambda: flat(cell.initial_carry(params), 0))
        zeros = jnp.zeros(state.shape, state.dtype), [jnp.zeros_like(part) for part in reals(params)]
        return RankOne(*in_rows(zeros, batch_shape), fresh=jnp.ones(batch_shape, bool))

    def _advance(self, moment: Moment, trace: RankOne, dloss: LossGradient, key: Array | None) -> Stepped:
        fresh = moment.fresh(trace.fresh)
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[moment.batch_ndim :], leaf.dtype), trace[:2])
        state, weights = moment.cleared(trace[:2], none)
        found = outcome(moment, dloss, fresh)
        share = (found.adjoint * state).sum(-1)
        further = [jnp.tensordot(share, own, axes=share.ndim) for own in weights]
        signs = signs_of(need_key(self, key), state)
        after = moment.kept(self._updated(moment, state, weights, fresh, signs), (state, weights))
        return Stepped(
            found.carry,
            RankOne(*after, fresh=moment.kept(jnp.zeros_like(fresh), fresh)),
            found.gradient(moment.params, further),
            found.y,
        )

    def _updated(
        self, moment: Moment, state: Array, weights: list[Array], fresh: Array, signs: Array
    ) -> tuple[Array, list[Array]]:
        thetas = reals(moment.params)

        def row(
            after: Callable[..., Array], now: Array, own: Array, weights: list[Array], fresh: Array, signs: Array
        ) -> tuple[Array, list[Array]]:
            def from_params(thetas: list[Array]) -> Array:
                return after(thetas, linked(moment, thetas, now, fresh))

            _, pushed = jax.jvp(lambda state: after(thetas, state), (now,), (own,))
            (pulled,) = jax.vjp(from_params, thetas)[1](signs)
            of_past = balance(norm(weights), norm([pushed]))
            of_now = balance(norm(pulled), norm([signs]))
            return of_past * pushed + of_now * signs, [
                a / of_past.astype(a.dtype) + b / of_now.astype(a.dtype) for a, b in zip(weights, pulled, strict=True)
            ]

        return moment.over_rows(row, state, weights, fresh, signs)


def linked(moment: Moment, thetas: list[Array], state: Array, fresh: Array) -> Array:
    """One row's state, which depends on the parameters as the initial one does if the row is `fresh`."""
    start = flat(moment.cell.initial_carry(merged(thetas, moment.params)), 0)
    return state + jnp.where(fresh, derivative_of(start), jnp.zeros_like(start))


def signs_of(key: Array, like: Array) -> Array:
    """Random signs in the shape of `like`, or those that are given in the place of the key."""
    if not jnp.issubdtype(key.dtype, jnp.floating):
        return jax.random.rademacher(key, like.shape, like.dtype)
    if key.shape != like.shape or key.dtype != like.dtype:
        raise ValueError(
            f"`key` is {key.dtype} {list(key.shape)}; pass a key, or signs {like.dtype} {list(like.shape)}."
        )
    return key


def norm(parts: list[Array]) -> Array:
    dtype = max([part.dtype for part in parts], key=lambda dtype: dtype.itemsize)
    return jnp.sqrt(sum([jnp.sum(part * part).astype(dtype) for part in parts], start=jnp.zeros((), dtype)))


def balance(numerator: Array, denominator: Array) -> Array:
    """√(a / b), by which two factors get one norm; 1 if one of them is zero."""
    denominator = denominator.astype(numerator.dtype)
    some = (numerator > 0) & (denominator > 0)
    return jnp.where(some, jnp.sqrt(numerator / jnp.where(some, denominator, 1)), jnp.ones_like(numerator))

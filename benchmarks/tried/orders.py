"""The loop's matrix product alone, in other orders: h_t = Σ over gates of tanh((h_{t-1} W)_gate + u_t), G gates."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks import harness
from benchmarks.problems import GATES, Problem

AS_IT_IS = "h W"


def contestants(problem: Problem) -> Iterator[harness.Contestant]:
    """Each `(weights, h, u_t) -> h`, given the weights [H, G H] in its own layout, and the state in its own."""
    gates = GATES[problem.cell]
    w = problem.weights["w_h"]

    def summed(r: Array, axis: int) -> Array:
        return jnp.asarray(sum(jnp.tanh(part) for part in jnp.split(r, gates, axis))) / gates

    def rows(w: Array, h: Array, u: Array) -> Array:
        return summed(h @ w + u, 1)

    def columns(w: Array, h: Array, u: Array) -> Array:
        return summed(w @ h + u, 0)

    def transposed(w: Array, h: Array, u: Array) -> Array:
        return summed(lax.dot_general(h, w, (((1,), (1,)), ((), ()))) + u, 1)

    def each(ws: tuple[Array, ...], h: Array, u: Array) -> Array:
        parts = jnp.split(u, gates, 1)
        return jnp.asarray(sum(jnp.tanh(h @ w + part) for w, part in zip(ws, parts, strict=True))) / gates

    yield _contestant(AS_IT_IS, problem, rows, w, jnp.asarray)
    yield _contestant("(W h)", problem, columns, w.T.copy(), lambda dw: dw.T, lambda a: a.swapaxes(-1, -2))
    yield _contestant("h (Wᵀ)ᵀ", problem, transposed, w.T.copy(), lambda dw: dw.T)
    split = tuple(np.split(w, gates, 1))
    yield _contestant("a product a gate", problem, each, split, lambda dws: jnp.concatenate(dws, 1))


def _contestant(
    name: str,
    problem: Problem,
    step: Callable[..., Array],
    weights: Any,
    read: Callable[[Any], Array],
    turn: Callable[[Any], Any] = lambda array: array,
) -> harness.Contestant:
    B, T, _, H = problem.point
    random = np.random.default_rng(0)
    us = turn(random.normal(size=(T, B, GATES[problem.cell] * H)).astype(np.float32))

    def forward(weights: Any, us: Array) -> Array:
        def body(h: Array, u: Array) -> tuple[Array, Array]:
            h = step(weights, h, u)
            return h, h

        return lax.scan(body, turn(jnp.zeros((B, H), us.dtype)), us)[1]

    def loss(weights: Any, us: Array) -> Array:
        return (forward(weights, us) ** 2).sum()

    def build() -> dict[str, harness.Program]:
        made, arrays = jax.tree.map(jnp.asarray, weights), jnp.asarray(us)
        return {
            "forward": harness.compiled(
                forward, made, arrays, shared=lambda ys: {"ys": turn(np.asarray(ys))}, compiles=1
            ),
            "train": harness.compiled(
                jax.grad(loss), made, arrays, shared=lambda dw: {"w_h": np.asarray(read(dw))}, compiles=1
            ),
        }

    return harness.Contestant(name, build)

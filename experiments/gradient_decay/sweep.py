"""The measurement: every kind, scale, seed and length of one cell in one compiled program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax
from experiments.gradient_decay.cells import recurrent_weights, redraw, rescale

_AT_ONCE = 40  # networks in one call of the program, so that memory does not grow with the sweep


AnyArray = Any  # of JAX inside a program, of NumPy outside


class Measured(NamedTuple):
    """N networks (kind, scale, seed), lengths L, longest length T.

    Attributes:
      log_gradient: `[N, L]` nats, log |dL/d(carry_1)| for each length (-inf where it is exactly zero).
      arrival: `[N, L]` nats, the log norm with which the gradient enters the carry at the end of each length.
      arrival_lag: `[N]` where that is: 0 where the output is part of the carry, 1 (before the last step) elsewhere.
      curve: `[N, T + 1]` nats, log |dL/d(carry_t)| within the longest sequence; the lag is T - t.
      float32_norm: `[N, T + 1]` the same norm as plain float32 arithmetic has it: 0 or inf where it dies.
      finite_steps: `[N]` how many steps the forward pass of the longest sequence stays finite.
      log_spectral_radius: `[N]` log ρ of the first `w_h`, NaN where it is not square.
    """

    log_gradient: AnyArray
    arrival: AnyArray
    arrival_lag: AnyArray
    curve: AnyArray
    float32_norm: AnyArray
    finite_steps: AnyArray
    log_spectral_radius: AnyArray


class Networks(NamedTuple):
    """Networks at scale 1, axis 0 is (kind, seed). A seed has the same W1 and v for every kind and scale."""

    params: Any
    direction: Array  # [N, *output], the loss's v, of length 1
    log_spectral_radius: Array  # [N]


def measure_cell(
    cell: rnnjax.Cell, xs: np.ndarray, kinds: tuple[str, ...], scales: tuple[float, ...], lengths: tuple[int, ...],
    seeds: int, key: Array, advance: Callable[[int], None] = lambda networks: None,
) -> Measured:  # fmt: skip
    """Runs the sweep of one cell; axis N is (kind, scale, seed) with the seed fastest.

    Args:
      xs: `[T, D]`, T the longest length.
      advance: told how many networks have been measured since it was last called.
    """
    networks = _draw(cell, kinds, seeds, key, xs)
    grid = [(k * seeds + seed, scale) for k in range(len(kinds)) for scale in scales for seed in range(seeds)]
    at_once = min(_AT_ONCE, len(grid))
    done = []
    for start in range(0, len(grid), at_once):
        some = grid[start : start + at_once]
        padded = some + [some[-1]] * (at_once - len(some))
        network, scale = (np.array(column) for column in zip(*padded, strict=True))
        measured = _measure(cell, lengths, xs, networks, network, scale)
        done.append(jax.device_get(measured))
        advance(len(some))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(grid)], *done)


def _draw(cell: rnnjax.Cell, kinds: tuple[str, ...], seeds: int, key: Array, xs: np.ndarray) -> Networks:
    """Not compiled as a whole: all cells share the compiled pieces, which takes a third of the time.

    Nor may it join the time loops: with LAPACK's QR and eigenvalues in one program with a scan, jaxlib 0.10.2 can stop
    dead on a CPU.
    """

    def one(key: Array, kind: str) -> Networks:
        key_params, key_recurrent, key_direction = jax.random.split(key, 3)
        params = redraw(cell.init(key_params, xs.shape[-1], xs.dtype), key_recurrent, kind)
        outputs = jax.eval_shape(lambda p: rnnjax.unroll(cell, p, xs[:1])[1], params)
        direction = jax.random.normal(key_direction, outputs.shape[1:], xs.dtype)
        w_h = recurrent_weights(params)[0]
        square = w_h.shape[0] == w_h.shape[1]
        log_spectral_radius = rnnjax.gradients.theory.linear_rate(w_h) if square else jnp.array(jnp.nan, xs.dtype)
        return Networks(params, direction / jnp.linalg.norm(direction), log_spectral_radius)

    keys = jax.random.split(key, seeds)
    drawn = [jax.vmap(lambda key, kind=kind: one(key, kind))(keys) for kind in kinds]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *drawn)


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.vmap, in_axes=(None, None, None, None, 0, 0))
def _measure(
    cell: rnnjax.Cell, lengths: tuple[int, ...], xs: Array, networks: Networks, network: Array, scale: Array
) -> Measured:
    """Every length of one network at one scale; vmapped over networks and scales."""
    params, direction, log_spectral_radius = jax.tree.map(lambda leaf: leaf[network], networks)
    params = rescale(params, scale)
    steps, rows = jnp.array(lengths), np.arange(len(lengths))
    longest = int(np.argmax(lengths))
    same_input = jnp.broadcast_to(xs[:, None], (xs.shape[0], len(lengths), xs.shape[1]))

    def loss(ys: Array) -> Array:
        return (ys[steps - 1, rows] @ direction.astype(ys.dtype)).sum()

    log_norm = rnnjax.gradients.adjoint(cell, params, same_input, loss, lengths=steps).log_norm
    arrival_lag = jnp.where(jnp.isfinite(log_norm[steps, rows]).any(), 0, 1)
    _, ys = rnnjax.unroll(cell, params, xs)
    finite = jnp.isfinite(ys).all(axis=-1)
    return Measured(
        log_gradient=log_norm[1],
        arrival=log_norm[steps - arrival_lag, rows],
        arrival_lag=arrival_lag,
        curve=log_norm[:, longest],
        float32_norm=_plain_float32_norm(cell, params, direction, xs),
        finite_steps=jnp.where(finite.all(), xs.shape[0], jnp.argmin(finite)),
        log_spectral_radius=log_spectral_radius + jnp.log(scale),
    )


def _plain_float32_norm(cell: rnnjax.Cell, params: Any, direction: Array, xs: Array) -> Array:
    """What a norm looks like without the log form: one backward pass in float32, squares summed in float32."""
    params, direction, xs = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, direction, xs))
    gradient = rnnjax.gradients.adjoint_by_perturbation(cell, params, xs, lambda ys: ys[-1] @ direction)
    squares = [(leaf * leaf).reshape(leaf.shape[0], -1).sum(axis=1) for leaf in jax.tree.leaves(gradient)]
    return jnp.sqrt(jnp.stack(squares).sum(axis=0))

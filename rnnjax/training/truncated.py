"""Truncated backpropagation through time: an update every k1 steps, with a gradient that reaches k2 steps back.

    carry_{t+1}, y_t = f(θ, carry_t, x_t)          the carry continues over all of time
    g_j = ∂/∂θ Σ_{t in chunk j} ℓ(y_t)             through the last k2 steps only; earlier carries are constants

Chunks have k1 steps, and the window that ends with a chunk k2 >= k1. If k2 covers the past, the gradient is exact.

Reference: Williams and Peng, An efficient gradient-based algorithm for on-line training of recurrent network
trajectories, Neural Computation 2 (1990), 490-501: BPTT(h; h'), h = k2 and h' = k1.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree, check_size, over_time
from rnnjax.tasks import Batch

Apply = Callable[..., tuple[PyTree, PyTree]]
"""`(params, xs, *, carry, mask, resets) -> (carry, outputs)`, such as `partial(rnnjax.unroll, model)`."""

Score = Callable[[PyTree, "Chunk"], Array]
"""`(outputs, chunk) -> []`, for the k1 steps of the chunk."""


class Chunk(NamedTuple):
    """Consecutive steps of longer rows."""

    xs: Array  # [k, *batch, D]
    targets: Array  # [k, *batch, ...]
    weights: Array  # [k, *batch]
    mask: Array  # [k, *batch] bool, False after the end of a row
    resets: Array  # [k, *batch] bool, True at the first step of a row, which starts from the initial carry


class Window(NamedTuple):
    """What an update gets from the last one: the first carry of its window, and the k2 - k1 steps before its chunk."""

    carry: PyTree
    xs: Array
    mask: Array
    resets: Array


@dataclasses.dataclass(frozen=True)
class TruncatedBPTT:
    """Updates every `k1` steps, with gradients that reach `k2` steps back; created by `tbptt`."""

    k1: int
    k2: int

    def __post_init__(self) -> None:
        check_size("k1", self.k1)
        check_size("k2", self.k2)
        if self.k2 < self.k1:
            raise ValueError(f"k2 is {self.k2} and k1 {self.k1}; a window contains its own chunk: k2 >= k1.")

    def loss(self, apply: Apply, score: Score) -> Callable[..., tuple[Array, Window]]:
        """A loss for `fit` with a carry: `(params, chunk, carry) -> (loss, carry)`."""
        k1, k2 = self.k1, self.k2

        def loss(params: PyTree, batch: Chunk, carry: Window) -> tuple[Array, Window]:
            if (k := batch.xs.shape[0]) != k1:
                raise ValueError(f"this chunk has {k} steps, but k1 is {k1}; use `chunks(data, steps, k1)`.")
            now = batch.xs, batch.mask, batch.resets
            steps = [jnp.concatenate(both) for both in zip(carry[1:], now, strict=True)]
            (xs, mask, resets), later = [leaf[:k1] for leaf in steps], [leaf[k1:] for leaf in steps]
            middle, outputs = apply(params, xs, carry=lax.stop_gradient(carry.carry), mask=mask, resets=resets)
            if k2 > k1:
                _, rest = apply(params, later[0], carry=middle, mask=later[1], resets=later[2])
                outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b])[-k1:], outputs, rest)
            return score(outputs, batch), Window(lax.stop_gradient(middle), *later)

        return loss

    def initial(self, carry: PyTree, chunk: Chunk) -> Window:
        """The carry for `init_state`, from `cell.initial_carry(params, batch_shape)` and any chunk, or its shapes."""
        leaves, before = (chunk.xs, chunk.mask, chunk.resets), self.k2 - self.k1  # masked steps
        return Window(carry, *(jnp.zeros((before, *leaf.shape[1:]), leaf.dtype) for leaf in leaves))

    def value_and_grad(self, apply: Apply, score: Score) -> Callable[..., tuple[Array, PyTree]]:
        """`(params, chunk, *, carry) -> (loss, gradient)` of whole rows, T a multiple of k1, summed over chunks."""
        step = jax.value_and_grad(self.loss(apply, score), has_aux=True)

        @over_time
        def value_and_grad(params: PyTree, chunk: Chunk, *, carry: PyTree) -> tuple[Array, PyTree]:
            if (steps := chunk.xs.shape[0]) % self.k1:
                raise ValueError(f"`chunk` has {steps} steps, which is not a multiple of k1 = {self.k1}.")

            def add(state: tuple[Window, PyTree], piece: Chunk) -> tuple[tuple[Window, PyTree], Array]:
                (value, window), gradient = step(params, piece, state[0])
                return (window, jax.tree.map(jnp.add, state[1], gradient)), value

            pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, self.k1, *leaf.shape[1:]), chunk)
            start = self.initial(carry, chunk), jax.tree.map(jnp.zeros_like, params)
            (_, gradient), values = lax.scan(add, start, pieces)
            return values.sum(), gradient

        return value_and_grad


def tbptt(k1: int, k2: int | None = None) -> TruncatedBPTT:
    """Truncated BPTT with an update every `k1` steps and a gradient that reaches `k2` steps back (k1 if None).

    Raises:
      ValueError: k1 or k2 is not a positive integer, or k2 < k1.

    Example: train with `fit` on chunks of 5 steps of rows of 20.

      >>> import functools, optax, rnnjax
      >>> from rnnjax import tasks, training
      >>> model, key, rule = rnnjax.Readout(rnnjax.Elman(4), output_size=2), jax.random.key(0), optax.sgd(0.1)
      >>> params, truncated = model.init(key, 1), tbptt(5, 10)
      >>> data = chunks(lambda key, step: tasks.parity(key, 20, (8,)), steps=20, k1=5)
      >>> first = truncated.initial(model.initial_carry(params, (8,)), data(key, 0))
      >>> loss = truncated.loss(functools.partial(rnnjax.unroll, model), tasks.cross_entropy)
      >>> state, options = training.init_state(params, rule, key, first), training.FitOptions(steps=8, data_period=4)
      >>> int(training.fit(loss, state, rule, data, options).state.step)
      8
    """
    return TruncatedBPTT(k1, k1 if k2 is None else k2)


def chunks(data: Callable[..., Batch], steps: int, k1: int) -> Callable[..., Chunk]:
    """Splits whole rows of T = `steps` into a stream of chunks: at training step t, chunk j = t mod (T / k1).

    Args:
      data: `(key, step) -> Batch`. `FitOptions(data_period=steps // k1)` draws all chunks of a row from one key.
    Raises:
      ValueError: k1 does not divide T, or the rows have another length.
    """
    check_size("k1", k1)
    check_size("steps", steps)
    if steps % k1:
        raise ValueError(f"steps is {steps}, which is not a multiple of k1 = {k1}.")

    def chunk(key: Array, step: Array) -> Chunk:
        row, piece = jnp.divmod(jnp.asarray(step), steps // k1)
        whole = whole_rows(data(key, row))
        if whole.xs.shape[0] != steps:
            raise ValueError(f"`data` gives rows of {whole.xs.shape[0]} steps, but steps is {steps}.")
        return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, piece * k1, k1), whole)

    return chunk


def whole_rows(batch: Batch) -> Chunk:
    """Converts a task's batch to one chunk, with a mask for its lengths and a reset at the first step."""
    at = jnp.arange(len(batch.xs), dtype=batch.lengths.dtype).reshape(-1, *[1] * batch.lengths.ndim)
    mask = at < batch.lengths[None]
    return Chunk(batch.xs, batch.targets, batch.weights, mask, jnp.zeros_like(mask).at[0].set(True))

"""Truncated backpropagation through time: an update every k1 steps, with a gradient that reaches k2 steps back.

    carry_{t+1}, y_t = f(θ, carry_t, x_t)          the carry continues over all of time
    g_j = ∂/∂θ Σ_{t in chunk j} ℓ(y_t)             through the last k2 steps only; earlier carries are constants

k1 is the length of a chunk, and k2 >= k1 the length of the window that ends with it. With k2 = k1, windows do not
overlap, and the carry passes from one to the next. If k2 covers the whole past, the gradient is exact. Otherwise it is
biased because larger lags are missing; `truncation_bias` measures this bias.

Reference: Williams and Peng, An efficient gradient-based algorithm for on-line training of recurrent network
trajectories, Neural Computation 2 (1990), 490-501: BPTT(h; h'), h = k2 and h' = k1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import PyTree, check_size, over_time
from rnnjax.tasks import Batch
from rnnjax.training.norms import parts, scaled_norm

Apply = Callable[..., tuple[PyTree, PyTree]]
"""`(params, xs, *, carry, mask, resets) -> (carry, outputs)`, such as `partial(rnnjax.unroll, model)`."""

Score = Callable[[PyTree, "Chunk"], Array]
"""`(outputs, chunk) -> []`."""


class Chunk(NamedTuple):
    """Consecutive steps of longer rows.

    Attributes:
      xs: `[k, *batch, D]`.
      targets: `[k, *batch, ...]`.
      weights: `[k, *batch]`.
      mask: `[k, *batch]` bool, False after the end of a row.
      resets: `[k, *batch]` bool, True at the first step of a row, which starts from the initial carry.
    """

    xs: Array
    targets: Array
    weights: Array
    mask: Array
    resets: Array


class Window(NamedTuple):
    """The state that one update passes to the next.

    Attributes:
      carry: the carry at the start of the next window.
      xs, mask, resets: the k2 - k1 steps between the start of the window and the next chunk.
    """

    carry: PyTree
    xs: Array
    mask: Array
    resets: Array


@dataclasses.dataclass(frozen=True)
class TruncatedBPTT:
    """The lengths of chunks and windows; created by `tbptt`.

    Attributes:
      k1: steps per update.
      k2: steps that the gradient reaches back.
    """

    k1: int
    k2: int

    def __post_init__(self) -> None:
        check_size("k1", self.k1)
        check_size("k2", self.k2)
        if self.k2 < self.k1:
            raise ValueError(f"k2 is {self.k2} and k1 {self.k1}; a window contains its own chunk: k2 >= k1.")

    def loss(self, apply: Apply, score: Score) -> Callable[..., tuple[Array, Window]]:
        """A loss for `fit` with a carry: `(params, chunk, carry) -> (loss, carry)`.

        Args:
          apply: `(params, xs, *, carry, mask, resets) -> (carry, outputs)`, such as `partial(rnnjax.unroll, model)`.
          score: `(outputs, chunk) -> []`, for the k1 steps of the chunk.
        """
        k1 = self.k1

        def loss(params: PyTree, batch: Chunk, carry: Window) -> tuple[Array, Window]:
            _check_steps(batch, k1)
            start = lax.stop_gradient(carry.carry)
            if self.k2 == k1:
                end, outputs = apply(params, batch.xs, carry=start, mask=batch.mask, resets=batch.resets)
                return score(outputs, batch), carry._replace(carry=lax.stop_gradient(end))
            xs, mask, resets = (
                jnp.concatenate([before, now])
                for before, now in zip(carry[1:], (batch.xs, batch.mask, batch.resets), strict=True)
            )
            middle, first = apply(params, xs[:k1], carry=start, mask=mask[:k1], resets=resets[:k1])
            _, rest = apply(params, xs[k1:], carry=middle, mask=mask[k1:], resets=resets[k1:])
            outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b])[-k1:], first, rest)
            return score(outputs, batch), Window(lax.stop_gradient(middle), xs[k1:], mask[k1:], resets[k1:])

        return loss

    def initial(self, carry: PyTree, chunk: Chunk) -> Window:
        """The carry for `init_state`, before the first update.

        Args:
          carry: the carry before the first step, an array tree (`cell.initial_carry(params, batch_shape)`).
          chunk: any chunk of the stream, or its shapes (`jax.eval_shape`).
        """
        before = self.k2 - self.k1
        xs, mask, resets = (
            jnp.zeros((before, *leaf.shape[1:]), leaf.dtype) for leaf in (chunk.xs, chunk.mask, chunk.resets)
        )
        return Window(carry, xs, mask, resets)  # all steps are masked

    def value_and_grad(self, apply: Apply, score: Score) -> Callable[..., tuple[Array, PyTree]]:
        """The truncated gradient of whole rows, summed over chunks, with constant parameters.

        Args:
          apply, score: as for `loss`; the loss of the rows is the *sum* of the chunks' scores.
        Returns:
          `(params, chunk, *, carry) -> (loss, gradient)`, with T a multiple of k1. For T <= k2 the gradient is exact.
        """
        step = jax.value_and_grad(self.loss(apply, score), has_aux=True)

        @over_time
        def value_and_grad(params: PyTree, chunk: Chunk, *, carry: PyTree) -> tuple[Array, PyTree]:
            pieces = _cut(chunk, self.k1)
            first = self.initial(carry, jax.tree.map(lambda leaf: leaf[0], pieces))

            def add(state: tuple[Any, ...], piece: Chunk) -> tuple[tuple[Any, ...], None]:
                window, total, gradient = state
                (value, window), more = step(params, piece, window)
                return (window, total + value, jax.tree.map(jnp.add, gradient, more)), None

            zero = jax.tree.map(jnp.zeros_like, params)
            value_dtype = jax.eval_shape(step, params, jax.tree.map(lambda leaf: leaf[0], pieces), first)[0][0].dtype
            (_, total, gradient), _ = lax.scan(add, (first, jnp.zeros((), value_dtype), zero), pieces)
            return total, gradient

        return value_and_grad


def tbptt(k1: int, k2: int | None = None) -> TruncatedBPTT:
    """Truncated BPTT with an update every `k1` steps and a gradient that reaches `k2` steps back (k1 if None).

    Raises:
      ValueError: k1 or k2 is not a positive integer, or k2 < k1.

    Example: train with `fit` on chunks of 5 steps of rows of 20.

      >>> import optax, rnnjax
      >>> from rnnjax import tasks, training
      >>> cell, key = rnnjax.Elman(4), jax.random.key(0)
      >>> params = {"rnn": cell.init(key, 1), "w": jax.random.normal(key, (4, 2))}
      >>> def apply(params, xs, **carry_and_time):
      ...     carry, ys = rnnjax.unroll(cell, params["rnn"], xs, **carry_and_time)
      ...     return carry, ys @ params["w"]
      >>> truncated = tbptt(5, 10)
      >>> rows = lambda key, step: tasks.parity(key, 20, (8,))
      >>> data, rule = chunks(rows, steps=20, k1=5), optax.sgd(0.1)
      >>> first = truncated.initial(cell.initial_carry(params["rnn"], (8,)), data(key, 0))
      >>> fitted = training.fit(
      ...     truncated.loss(apply, tasks.cross_entropy), training.init_state(params, rule, key, first), rule, data,
      ...     training.FitOptions(steps=8, chunk=4, data_period=4),
      ... )
      >>> int(fitted.state.step), fitted.state.carry.xs.shape
      (8, (5, 8, 1))
    """
    return TruncatedBPTT(k1, k1 if k2 is None else k2)


def chunks(data: Callable[..., Batch], steps: int, k1: int) -> Callable[..., Chunk]:
    """Splits whole rows into a stream of chunks: at training step t, chunk j = t mod (T / k1).

    Use it with `FitOptions(data_period=steps // k1)`, so that all chunks of a row come from one key.

    Args:
      data: `(key, step) -> Batch` of rows with T = `steps`.
      steps: T, a multiple of k1.
      k1: steps per chunk.
    Returns:
      `(key, step) -> Chunk`, with a reset at the first step of every row.
    Raises:
      ValueError: k1 does not divide T, or the rows have another length.
    """
    check_size("k1", k1)
    check_size("steps", steps)
    if steps % k1:
        raise ValueError(f"steps is {steps}, which is not a multiple of k1 = {k1}; the last chunk would be short.")

    def chunk(key: Array, step: Array) -> Chunk:
        step = jnp.asarray(step)
        piece = step % (steps // k1)
        whole = whole_rows(data(key, step // (steps // k1)))
        if whole.xs.shape[0] != steps:
            raise ValueError(f"`data` gives rows of {whole.xs.shape[0]} steps, but steps is {steps}.")
        return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, piece * k1, k1), whole)

    return chunk


def whole_rows(batch: Batch) -> Chunk:
    """Converts a task's batch to one chunk, with a mask for its lengths and a reset at the first step."""
    steps, batch_shape = batch.xs.shape[0], batch.lengths.shape
    at = jnp.arange(steps, dtype=batch.lengths.dtype).reshape(steps, *[1] * len(batch_shape))
    resets = jnp.zeros((steps, *batch_shape), bool).at[0].set(True)
    return Chunk(batch.xs, batch.targets, batch.weights, at < batch.lengths[None], resets)


class TruncationBias(NamedTuple):
    """The truncated gradient compared with the full one.

    Attributes:
      relative_error: `[]`, ‖truncated - full‖ / ‖full‖.
      cosine: `[]`, the cosine of the angle between them.
      norm_truncated: `[]`. norm_full: `[]`.
    """

    relative_error: Array
    cosine: Array
    norm_truncated: Array
    norm_full: Array


@over_time
def truncation_bias(
    truncated: TruncatedBPTT, apply: Apply, score: Score, params: PyTree, chunk: Chunk, *, carry: PyTree
) -> TruncationBias:
    """Compares the truncated gradient of whole rows with the full gradient, at given parameters.

    Args:
      truncated: from `tbptt`.
      apply, score: as for `TruncatedBPTT.value_and_grad`; the loss is the sum of the scores over chunks of k1 steps.
      params: the parameters at which to compare.
      chunk: whole rows (`whole_rows`), T a multiple of k1.
      carry: the carry before the first step.
    Returns:
      A `TruncationBias`; for T <= k2, the error is zero and the cosine is 1.
    """
    steps = chunk.xs.shape[0]
    full = TruncatedBPTT(truncated.k1, max(steps, truncated.k1))
    _, ours = truncated.value_and_grad(apply, score)(params, chunk, carry=carry)
    _, true = full.value_and_grad(apply, score)(params, chunk, carry=carry)
    ours, true = parts(ours), parts(true)  # complex numbers as two parts
    ours_norm, true_norm = scaled_norm(ours), scaled_norm(true)
    difference = scaled_norm(jax.tree.map(jnp.subtract, ours, true))

    def unit(tree, norm):
        return [leaf * norm.unscale / norm.size for leaf in tree]

    dots = [jnp.sum(a * b) for a, b in zip(unit(ours, ours_norm), unit(true, true_norm), strict=True)]
    return TruncationBias(
        relative_error=difference.size / true_norm.size * (difference.scale * true_norm.unscale),
        cosine=jnp.sum(jnp.stack(dots)),
        norm_truncated=ours_norm.scale * ours_norm.size,
        norm_full=true_norm.scale * true_norm.size,
    )


def _cut(chunk: Chunk, k1: int) -> Chunk:
    """Reshapes `[T, ...]` to `[T / k1, k1, ...]`."""
    steps = chunk.xs.shape[0]
    if steps % k1:
        raise ValueError(f"`chunk` has {steps} steps, which is not a multiple of k1 = {k1}.")
    return jax.tree.map(lambda leaf: leaf.reshape(steps // k1, k1, *leaf.shape[1:]), chunk)


def _check_steps(chunk: Chunk, k1: int) -> None:
    if chunk.xs.shape[0] != k1:
        raise ValueError(f"this chunk has {chunk.xs.shape[0]} steps, but k1 is {k1}; use `chunks(data, steps, k1)`.")

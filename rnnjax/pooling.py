"""Pooling over time: one vector per row from the outputs of all its steps, as for classifying sequences.

    ys [T, *batch, H]  ->  [*batch, H]          the last valid step, the mean over valid steps, or attention

All take `lengths` and `mask` as `rnnjax.unroll` does. NaN or inf at masked steps affects no result and no gradient, and
a row without valid steps gives zeros.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from rnnjax._unroll.arguments import Masks, blank, checked_xs, make_masks
from rnnjax.cell import check_input, check_size, float_dtype, per_row
from rnnjax.initializers import Normal


def pool_last(ys: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None) -> Array:
    """The outputs of each row's last valid step.

        out = y_τ,     τ = max {t : step t is valid}

    A `Readout` may come before or after: pooling its outputs gives the readout of the last step.

    Args:
      ys: `[T, *batch, H]`, such as the outputs of `unroll`.
      lengths: `[*batch]` integers in 0..T; steps t >= lengths[b] of row b are masked.
      mask: `[T, *batch]` booleans, False at masked steps.
    Returns:
      `[*batch, H]`; zeros for a row without valid steps.
    Raises:
      ValueError: a shape does not fit, or T = 0.
      TypeError: `ys` is not floating point, `lengths` not integer, or `mask` not boolean.

    Example: a classifier of rows of different lengths.

      >>> import rnnjax
      >>> model = rnnjax.Readout(rnnjax.LSTM(8), output_size=10)
      >>> params = model.init(jax.random.key(0), input_size=3)
      >>> lengths = jnp.array([5, 2])
      >>> _, ys = rnnjax.unroll(model, params, jnp.ones((5, 2, 3)), lengths=lengths)
      >>> logits = pool_last(ys, lengths=lengths)
      >>> logits.shape, bool((logits[1] == ys[1, 1]).all())
      ((2, 10), True)
    """
    ys, masks = _checked(ys, lengths, mask)
    if masks.counts is None:
        return ys[-1]
    times = jnp.arange(ys.shape[0]).reshape(-1, *(1 for _ in ys.shape[1:-1]))
    last = jnp.where(masks.counts, times, -1).max(axis=0, keepdims=True)
    return blank(ys, Masks(counts=times == last)).sum(axis=0)


def pool_mean(ys: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None) -> Array:
    """The mean of the outputs over each row's valid steps.

        out = Σ_t v_t y_t / Σ_t v_t,     v_t = 1 at valid steps, else 0

    Args:
      ys: `[T, *batch, H]`, such as the outputs of `unroll`.
      lengths: `[*batch]` integers in 0..T; steps t >= lengths[b] of row b are masked.
      mask: `[T, *batch]` booleans, False at masked steps.
    Returns:
      `[*batch, H]`; zeros for a row without valid steps.
    Raises:
      ValueError: a shape does not fit, or T = 0.
      TypeError: `ys` is not floating point, `lengths` not integer, or `mask` not boolean.

    Example:

      >>> ys = jnp.array([[1.0], [3.0], [8.0]])
      >>> float(pool_mean(ys)[0]), float(pool_mean(ys, lengths=2)[0])
      (4.0, 2.0)
    """
    ys, masks = _checked(ys, lengths, mask)
    if masks.counts is None:
        return ys.mean(axis=0)
    count = jnp.maximum(masks.counts.sum(axis=0), 1)
    return blank(ys, masks).sum(axis=0) / count.astype(ys.dtype)[..., None]


class AttentionPoolingParams(NamedTuple):
    """Parameters of an `AttentionPooling`.

    Attributes:
      w: `[H, A]`.
      b: `[A]`.
      v: `[A]`.
    """

    w: Array
    b: Array
    v: Array


@dataclasses.dataclass(frozen=True)
class AttentionPooling:
    """The mean of the outputs over time with learned weights.

        s_t = tanh(y_t W + b) · v          a = softmax(s) over valid steps          out = Σ_t a_t y_t

    Attributes:
      size: A, the width of the layer that scores a step.

    Reference: Yang et al., Hierarchical attention networks for document classification, NAACL 2016, eqs. 5 to 7.

    Example: a classifier; the readout comes after the pooling.

      >>> import rnnjax
      >>> cell, pooling = rnnjax.GRU(8), AttentionPooling(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> attention = pooling.init(jax.random.key(1), input_size=8)
      >>> lengths = jnp.array([5, 2])
      >>> _, ys = rnnjax.unroll(cell, params, jnp.ones((5, 2, 3)), lengths=lengths)
      >>> pooling(attention, ys, lengths=lengths).shape
      (2, 8)
      >>> pooling.weights(attention, ys, lengths=lengths)[:, 1].round(1).tolist()
      [0.5, 0.5, 0.0, 0.0, 0.0]
    """

    size: int

    def __post_init__(self) -> None:
        check_size("size", self.size)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> AttentionPoolingParams:
        """W ~ N(0, 1/H), b = 0 and v ~ N(0, 1/A), for outputs `[..., H]` with H = `input_size`."""
        check_size("input_size", input_size)
        dtype = float_dtype(dtype)
        key_w, key_v = jax.random.split(key)
        v = Normal()(key_v, (self.size, 1), dtype)[:, 0]
        return AttentionPoolingParams(Normal()(key_w, (input_size, self.size), dtype), jnp.zeros(self.size, dtype), v)

    def weights(
        self,
        params: AttentionPoolingParams,
        ys: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Array:
        """a_t, `[T, *batch]`: 0 at masked steps; over a row they add up to 1, or to 0 without valid steps."""
        ys, masks = _checked(ys, lengths, mask)
        return _weights(params, blank(ys, masks), masks)

    def __call__(
        self,
        params: AttentionPoolingParams,
        ys: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Array:
        """Pools the outputs.

        Args:
          params: from `init`.
          ys: `[T, *batch, H]`, such as the outputs of `unroll`.
          lengths: `[*batch]` integers in 0..T; steps t >= lengths[b] of row b are masked.
          mask: `[T, *batch]` booleans, False at masked steps.
        Returns:
          `[*batch, H]`; zeros for a row without valid steps.
        Raises:
          ValueError: a shape does not fit, or T = 0.
          TypeError: `ys` is not of the parameters' dtype, `lengths` not integer, or `mask` not boolean.
        """
        ys, masks = _checked(ys, lengths, mask)
        ys = blank(ys, masks)
        return (_weights(params, ys, masks)[..., None] * ys).sum(axis=0)


def _weights(params: AttentionPoolingParams, ys: Array, masks: Masks) -> Array:
    """Softmax over the valid steps of `ys`, which is zero at the others."""
    check_input("ys", ys, params.w)
    scores = jnp.tanh(ys @ params.w + per_row(params.b, ys)) @ params.v
    if masks.counts is None:
        return jax.nn.softmax(scores, axis=0)
    none = ~masks.counts.any(axis=0, keepdims=True)  # such a row has no softmax; its weights are zeros
    return jnp.where(masks.counts, jax.nn.softmax(scores, axis=0, where=masks.counts | none), 0)


def _checked(ys: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None) -> tuple[Array, Masks]:
    """The arguments as arrays, checked as those of `unroll` are."""
    try:
        ys = checked_xs(ys)
        masks = make_masks(ys, lengths, mask)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("`xs", "`ys")) from None
    if not jnp.issubdtype(ys.dtype, jnp.inexact):
        raise TypeError(
            f"`ys` is {ys.dtype}; expected floating point, as `unroll` returns: cast with `ys.astype(float)`."
        )
    return ys, masks

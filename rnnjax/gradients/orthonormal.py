"""Rows made orthonormal in plain array operations: blocked Gram-Schmidt, each projection done twice.

For an instrument that does it at every step of a compiled time loop. LAPACK's QR does not belong there: on jaxlib
0.10.2 such a program can stop dead, and it takes a batch of small matrices one by one.

Twice is enough: Giraud, Langou and Rozložník, The loss of orthogonality in the Gram-Schmidt orthogonalization process,
Comput. Math. Appl. 50 (2005), 1069.
"""

import jax.numpy as jnp
from jax import Array, lax

_BLOCK = 8


def resolution(rows: Array) -> float:
    """Below this fraction of its length, what is left of a row after projection is rounding: max(n, 16) ε."""
    return max(rows.shape[-1], 16) * float(jnp.finfo(rows.dtype).eps)


def orthonormalise(rows: Array) -> tuple[Array, Array]:
    """A = L Q with orthonormal rows of Q and L lower triangular with a diagonal above zero; returns Q and log diag(L).

    A row that depends on those before it, as far as the dtype can tell (see `resolution`), or that is zero, has no
    direction of its own: its row of Q is exactly zero and its log is -inf.

    Args:
      rows: `[*batch, k, n]`, k <= n; of any length, no square of theirs under- or overflows.
    Returns:
      `(q, log_lengths)`: `[*batch, k, n]` and `[*batch, k]`, log of how long each row is beyond those before it. NaN
      where a row has one.

    Example:

      >>> q, log_lengths = orthonormalise(jnp.array([[3e-30, 0.0], [1.0, 2.0]]))
      >>> q.tolist(), jnp.exp(log_lengths[1:]).round(5).tolist()
      ([[1.0, 0.0], [0.0, 1.0]], [2.0])
    """
    *batch, k, _ = rows.shape
    lost = resolution(rows)
    rows, log_scales = _unit(rows)
    block = min(_BLOCK, k)
    padding = -k % block
    rows = jnp.pad(rows, [(0, 0)] * len(batch) + [(0, padding), (0, 0)])

    def add_block(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        q, log_lengths = state
        new = lax.dynamic_slice_in_dim(rows, j * block, block, axis=-2)
        new = _without(_without(new, q), q)
        own, own_logs = [], []
        for i in range(block):
            row = new[..., i : i + 1, :]
            if own:
                before = jnp.concatenate(own, axis=-2)
                row = _without(_without(row, before), before)
            row, log_length = _unit(row)
            gone = log_length < jnp.log(jnp.asarray(lost, rows.dtype))
            own.append(jnp.where(gone[..., None], 0, row))
            own_logs.append(jnp.where(gone, -jnp.inf, log_length))
        q = lax.dynamic_update_slice_in_dim(q, jnp.concatenate(own, axis=-2), j * block, axis=-2)
        logs = jnp.concatenate(own_logs, axis=-1)
        return q, lax.dynamic_update_slice_in_dim(log_lengths, logs, j * block, axis=-1)

    start = jnp.zeros_like(rows), jnp.zeros_like(rows[..., 0])
    q, log_lengths = lax.fori_loop(0, (k + padding) // block, add_block, start)
    return q[..., :k, :], log_lengths[..., :k] + log_scales


def _without(rows: Array, q: Array) -> Array:
    """What is left of each row outside the span of the rows of q (of which some may be zero)."""
    return rows - (rows @ jnp.swapaxes(q, -1, -2)) @ q


def _unit(rows: Array) -> tuple[Array, Array]:
    """Each row over its length, and the log of that; a zero row stays zero, its log is -inf."""
    largest = jnp.abs(rows).max(-1, keepdims=True)
    zero = largest < jnp.finfo(rows.dtype).tiny  # XLA flushes subnormals; NaN is not zero
    scale = jnp.where(zero, 1, jnp.minimum(largest, jnp.finfo(rows.dtype).max / 8))
    rows = rows / scale
    length = jnp.where(zero, 1, jnp.sqrt((rows * rows).sum(-1, keepdims=True)))
    return rows / length, jnp.where(zero, -jnp.inf, jnp.log(length) + jnp.log(scale))[..., 0]

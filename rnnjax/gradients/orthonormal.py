"""Rows made orthonormal in plain array operations, for use inside a compiled time loop.

LAPACK's QR does not belong there: the threads of its BLAS and those of XLA wait for each other, so that a program may
run fifty times slower or stop dead (jaxlib 0.10.2 and 0.12.0, two cores, 128 x 128; not with OPENBLAS_NUM_THREADS=1),
and it takes a batch of small matrices one by one. Here all is matrix products and a short loop over tiny matrices:
block Gram-Schmidt, in which the rows of a block are orthogonalised by elimination in their Gram matrix, and everything
is done twice, as once is not enough and twice is.

References: Giraud, Langou and Rozložník, The loss of orthogonality in the Gram-Schmidt orthogonalization process,
Comput. Math. Appl. 50 (2005), 1069; Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, Roundoff error analysis of the
CholeskyQR2 algorithm, Electron. Trans. Numer. Anal. 44 (2015), 306.
"""

import jax.numpy as jnp
from jax import Array, lax

_BLOCK = 8
_MOST_PASSES = 6


def resolution(size: int, dtype: jnp.dtype) -> float:
    """Below this fraction of its length, what is left of a row of n numbers is rounding: max(n, 16) ε."""
    return max(size, 16) * float(jnp.finfo(dtype).eps)


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
    rows, log_scales = _unit(rows)
    *batch, k, _ = rows.shape
    if k == 1:
        return rows, log_scales
    if k <= _BLOCK:
        q, log_lengths = _orthonormal_block(rows, None)
        return q, log_lengths + log_scales
    padding = -k % _BLOCK
    rows = jnp.pad(rows, [(0, 0)] * len(batch) + [(0, padding), (0, 0)])

    def add_block(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        q, log_lengths = state
        block = lax.dynamic_slice_in_dim(rows, j * _BLOCK, _BLOCK, axis=-2)
        new, logs = _orthonormal_block(block, q)
        q = lax.dynamic_update_slice_in_dim(q, new, j * _BLOCK, axis=-2)
        return q, lax.dynamic_update_slice_in_dim(log_lengths, logs, j * _BLOCK, axis=-1)

    start = jnp.zeros_like(rows), jnp.zeros_like(rows[..., 0])
    q, log_lengths = lax.fori_loop(0, (k + padding) // _BLOCK, add_block, start)
    return q[..., :k, :], log_lengths[..., :k] + log_scales


def _orthonormal_block(rows: Array, q: Array | None) -> tuple[Array, Array]:
    """Orthonormal to the rows of `q`, of which some may be zero (those still to come), and to one another."""
    lost = jnp.log(jnp.asarray(resolution(rows.shape[-1], rows.dtype), rows.dtype))

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        _, _, passes, clean = state
        return (passes < 2) | (~clean & (passes < _MOST_PASSES))

    def another_pass(state: tuple[Array, Array, Array, Array]):
        rows, logs, passes, _ = state
        if q is not None:
            rows = rows - (rows @ jnp.swapaxes(q, -1, -2)) @ q
        factors, clean = _elimination(rows @ jnp.swapaxes(rows, -1, -2))
        rows = factors @ rows
        square = (rows * rows).sum(-1)  # of rows that were of length one, so nothing underflows that is not rounding
        logs = logs + jnp.log(square) / 2
        gone = logs < lost
        rows = jnp.where(gone[..., None], 0, rows * lax.rsqrt(jnp.where(gone, 1, square))[..., None])
        return rows, jnp.where(gone, -jnp.inf, logs), passes + 1, clean.all()

    start = rows, jnp.zeros_like(rows[..., 0]), jnp.array(0), jnp.array(False)
    return lax.while_loop(unfinished, another_pass, start)[:2]


def _elimination(gram: Array) -> tuple[Array, Array]:
    """Unit lower triangular M, for which the rows of M V are orthogonal if `gram` is V V^T; and if they were before.

    A row that is nearly in the span of those before it leaves a pivot, its squared distance, that is mostly rounding;
    it is kept out of the elimination of those after it, which is then left to a further pass, where it has been made
    long again.

    Args:
      gram: `[*batch, b, b]`.
    Returns:
      `(factors [*batch, b, b], clean [*batch])`.
    """
    size = gram.shape[-1]
    reliable = float(jnp.finfo(gram.dtype).eps) ** 0.5 / 16
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    later = jnp.arange(size)

    def eliminate(i: Array, state: tuple[Array, Array, Array]):
        gram, factors, clean = state
        row = lax.dynamic_slice_in_dim(gram, i, 1, axis=-2)
        column = lax.dynamic_slice_in_dim(gram, i, 1, axis=-1)
        pivot = lax.dynamic_slice_in_dim(row, i, 1, axis=-1)
        square = lax.dynamic_slice_in_dim(squares, i, 1, axis=-1)[..., None]
        safe = pivot > reliable * square
        share = jnp.where(safe & (later > i)[:, None], column / jnp.where(safe, pivot, 1), 0)
        clean = clean & ((pivot > 0.9 * square) & (square > 0.5) | (square == 0))[..., 0, 0]
        gram = gram - share * row
        factors = factors - share * lax.dynamic_slice_in_dim(factors, i, 1, axis=-2)
        return gram, factors, clean

    factors = jnp.broadcast_to(jnp.eye(size, dtype=gram.dtype), gram.shape)
    clean = jnp.ones(gram.shape[:-2], bool)
    _, factors, clean = lax.fori_loop(0, size, eliminate, (gram, factors, clean))
    return factors, clean


def _unit(rows: Array) -> tuple[Array, Array]:
    """Each row over its length, and the log of that; a zero row stays zero, its log is -inf."""
    largest = jnp.abs(rows).max(-1, keepdims=True)
    zero = largest < jnp.finfo(rows.dtype).tiny  # XLA flushes subnormals; NaN is not zero
    scale = jnp.where(zero, 1, jnp.minimum(largest, jnp.finfo(rows.dtype).max / 8))
    rows = rows / scale
    length = jnp.where(zero, 1, jnp.sqrt((rows * rows).sum(-1, keepdims=True)))
    return rows / length, jnp.where(zero, -jnp.inf, jnp.log(length) + jnp.log(scale))[..., 0]
